"""Makes the test models and their reference numbers, all seeded: tiny random models saved as transformers saves them, logits and greedy
text by transformers in float32, clustered logits and memberships by clustered.py in float64.

usage: make_fixtures.py [--out test/fixtures] [NAME...]      In: nothing. Out: one directory a model, and clustered/ (see README.md there).
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, OPTConfig, OPTForCausalLM

import clustered

root = pathlib.Path(__file__).resolve().parents[2]
text = """It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife. However little known the
feelings or views of such a man may be on his first entering a neighbourhood, this truth is so well fixed in the minds of the surrounding families,
that he is considered as the rightful property of some one or other of their daughters. Whether I shall turn out to be the hero of my own life, or
whether that station will be held by anybody else, these pages must show. To begin my life with the beginning of my life, I record that I was born,
as I have been informed and believe, on a Friday, at twelve o'clock at night. It was remarked that the clock began to strike, and I began to cry."""
small = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=3, vocab_size=320, max_position_embeddings=256, bos_token_id=0, eos_token_id=1)
opt_small = dict(hidden_size=48, ffn_dim=96, num_hidden_layers=3, num_attention_heads=4, vocab_size=320, max_position_embeddings=256, bos_token_id=0,
                 eos_token_id=1, pad_token_id=1, dropout=0.0)
chat_template = ("{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] "
                 "{% endif %}")


def llama(**fields):
    return LlamaConfig(**(small | dict(num_attention_heads=6, num_key_value_heads=6, tie_word_embeddings=False) | fields)), LlamaForCausalLM


def mistral(**fields):
    return MistralConfig(**(small | dict(num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=False) | fields)), MistralForCausalLM


def opt(**fields):
    return OPTConfig(**(opt_small | fields)), OPTForCausalLM


# name -> (config and class, stored type, options of `save`)
fixtures = {
    "llama-mha": (llama(), torch.float32, {}),
    "llama-gqa-tied-bf16": (llama(num_attention_heads=8, num_key_value_heads=2, hidden_size=64, tie_word_embeddings=True), torch.bfloat16, {}),
    "llama3-rope": (llama(head_dim=16, num_attention_heads=4, num_key_value_heads=2, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)),
        torch.float16, dict(chat=True)),
    "llama-linear-rope": (llama(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)), torch.float16, dict(old_rope=True)),
    "mistral-window": (mistral(sliding_window=8), torch.float16, {}),
    "llama-sharded-f16": (llama(), torch.float16, dict(shards=3)),
    "llama-odd": (llama(hidden_size=39, num_attention_heads=3, num_key_value_heads=3, head_dim=10, intermediate_size=53, vocab_size=301,
                        attention_bias=True, mlp_bias=True, hidden_act="gelu"), torch.float32, {}),
    "llama-many-heads": (llama(hidden_size=64, num_attention_heads=16, num_key_value_heads=16, head_dim=8), torch.float16, {}),
    "opt-pre": (opt(do_layer_norm_before=True), torch.float16, {}),
    "opt-post": (opt(do_layer_norm_before=False, word_embed_proj_dim=24), torch.float16, {}),
}


def build(name):
    (config, kind), dtype, _ = fixtures[name]
    torch.manual_seed(sum(name.encode()))
    config._attn_implementation = "eager"
    model = kind(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 2:  # wide enough that attention is not uniform and greedy choices are clear
                scale = 1.3 if ("q_proj" in parameter_name or "k_proj" in parameter_name) else 0.9
                torch.nn.init.normal_(parameter, std=scale / parameter.shape[1] ** 0.5)
            elif "norm" in parameter_name and parameter_name.endswith("weight"):
                torch.nn.init.normal_(parameter, mean=1.0, std=0.1)
            else:
                torch.nn.init.normal_(parameter, std=0.1)
            parameter.copy_(parameter.to(dtype))  # the stored values, computed with in float32; rotary buffers stay as they are
    model.tie_weights()
    return model, dtype


def save_tokenizer(folder, chat):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=300, show_progress=False, special_tokens=["<s>", "</s>"],
                                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if chat:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    fields = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(fields | (dict(chat_template=chat_template) if chat else {}), indent=1))
    (folder / "generation_config.json").write_text(json.dumps(dict(bos_token_id=0, eos_token_id=[1])))


def save(name, model, dtype, out, shards=1, old_rope=False, chat=False):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = json.loads(model.config.to_json_string(use_diff=False))
    keep = {k: v for k, v in config.items() if not k.startswith("_") or k == "_remove_final_layer_norm"}
    keep["architectures"] = [type(model).__name__]
    keep.pop("transformers_version", None)
    if old_rope:  # as files older than transformers 5 say it
        rope = keep.pop("rope_parameters")
        keep |= dict(rope_theta=rope["rope_theta"], rope_scaling=dict(type=rope["rope_type"], factor=rope["factor"]))
    keep.pop("dtype", None)
    keep["torch_dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(keep, indent=1))
    tied = model.config.tie_word_embeddings
    state = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    names = sorted(state)
    if shards == 1:
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    else:
        weight_map = {n: f"model-{1 + i * shards // len(names):05d}-of-{shards:05d}.safetensors" for i, n in enumerate(names)}
        for file in sorted(set(weight_map.values())):
            save_file({n: state[n] for n in names if weight_map[n] == file}, folder / file, {"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=weight_map), indent=1))
    save_tokenizer(folder, chat)
    return folder


def reference(model, folder, length=72, new=32):
    """Logits of a prompt, and greedy text with the margin between the two likeliest tokens at every step."""
    vocabulary = model.config.vocab_size
    prompt = torch.randint(2, 300, (1, length), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        logits = model(prompt).logits[0]
        ids, margins, tokens = prompt.clone(), [], []
        for _ in range(new):
            last = model(ids).logits[0, -1]
            top = last.topk(2)
            margins.append(float(top.values[0] - top.values[1]))
            tokens.append(int(top.indices[0]))
            ids = torch.cat([ids, top.indices[:1].view(1, 1)], 1)
    logits.numpy().astype("<f4").tofile(folder / "reference.bin")
    (folder / "reference.json").write_text(json.dumps(dict(prompt=prompt[0].tolist(), vocabulary=vocabulary, greedy=tokens, margins=margins)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=root / "test" / "fixtures")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    for name in arguments.names or fixtures:
        model, dtype = build(name)
        folder = save(name, model, dtype, arguments.out, **fixtures[name][2])
        reference(model, folder)
        print(name, sum(f.stat().st_size for f in folder.iterdir()) // 1024, "KiB", flush=True)
    if not arguments.names:
        clustered.write_cases(arguments.out, root / "models" / "starter")


if __name__ == "__main__":
    main()
