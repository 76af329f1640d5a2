"""Makes one random Llama model twice, with the same float16 weights: a Hugging Face directory and a GGUF file.

usage: make_model.py OUT [--layers 12 --dim 768 --heads 12 --ffn 2048 --vocab 32000 --context 4096 --seed 1]
In: sizes. Out: OUT/config.json, model.safetensors, tokenizer.json (ids only matter), head-plan.json (a quarter of the heads as
clusters), and OUT/model.gguf. Needs numpy, safetensors, gguf.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np
from safetensors.numpy import save_file

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out")
for name, value in dict(layers=12, dim=768, heads=12, ffn=2048, vocab=32000, context=4096, seed=1).items():
    parser.add_argument(f"--{name}", type=int, default=value)
a = parser.parse_args()
out = pathlib.Path(a.out)
out.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(a.seed)


def matrix(rows, columns):
    return (random.standard_normal((rows, columns), dtype=np.float32) * 0.02).astype(np.float16)


def ones():
    return np.ones(a.dim, dtype=np.float16)


weights = {"model.embed_tokens.weight": matrix(a.vocab, a.dim), "model.norm.weight": ones(), "lm_head.weight": matrix(a.vocab, a.dim)}
for i in range(a.layers):
    p = f"model.layers.{i}."
    weights |= {p + "input_layernorm.weight": ones(), p + "post_attention_layernorm.weight": ones()}
    weights |= {p + f"self_attn.{n}_proj.weight": matrix(a.dim, a.dim) for n in "qkvo"}
    weights |= {p + "mlp.gate_proj.weight": matrix(a.ffn, a.dim), p + "mlp.up_proj.weight": matrix(a.ffn, a.dim)}
    weights[p + "mlp.down_proj.weight"] = matrix(a.dim, a.ffn)
save_file(weights, out / "model.safetensors", {"format": "pt"})

head_dim = a.dim // a.heads
(out / "config.json").write_text(json.dumps(dict(
    architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=a.dim, intermediate_size=a.ffn, num_hidden_layers=a.layers,
    num_attention_heads=a.heads, num_key_value_heads=a.heads, vocab_size=a.vocab, max_position_embeddings=a.context, rms_norm_eps=1e-5,
    rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=False, torch_dtype="float16"), indent=1))
(out / "head-plan.json").write_text(json.dumps(dict(
    format="chai-llm/head-plan@1", method="chai", warmupTokens=5, warmupStart=0, clustering="kmeans",
    layers=[dict(clusters=max(1, a.heads // 4))] * a.layers), indent=1))

# Byte-level alphabet, then filler tokens: the bench feeds ids, never text.
visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
alphabet = [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]
vocabulary = {token: i for i, token in enumerate(alphabet + [f"<filler{i}>" for i in range(a.vocab - 256)])}
byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
(out / "tokenizer.json").write_text(json.dumps(dict(
    version="1.0", truncation=None, padding=None, added_tokens=[], normalizer=None, pre_tokenizer=byte_level, post_processor=None,
    decoder=byte_level, model=dict(type="BPE", dropout=None, unk_token=None, fuse_unk=False, byte_fallback=False, vocab=vocabulary, merges=[]))))
(out / "tokenizer_config.json").write_text(json.dumps(dict(tokenizer_class="PreTrainedTokenizerFast")))

writer = gguf.GGUFWriter(out / "model.gguf", "llama")
writer.add_context_length(a.context)
writer.add_embedding_length(a.dim)
writer.add_block_count(a.layers)
writer.add_feed_forward_length(a.ffn)
writer.add_head_count(a.heads)
writer.add_head_count_kv(a.heads)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(10000.0)
writer.add_rope_dimension_count(head_dim)
writer.add_vocab_size(a.vocab)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
writer.add_tokenizer_model("llama")
pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + [f"filler{i}" for i in range(a.vocab - 259)]
types = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * (a.vocab - 259)
writer.add_token_list(pieces)
writer.add_token_scores([-max(0.0, i - 259.0) for i in range(a.vocab)])
writer.add_token_types(types)
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)


def interleaved(w):
    """Rotary pairs (i, i + d/2) of the Hugging Face layout become neighbours, as GGUF's llama rotates."""
    return w.reshape(a.heads, 2, head_dim // 2, a.dim).swapaxes(1, 2).reshape(a.dim, a.dim)


names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}
writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
writer.add_tensor("output_norm.weight", weights["model.norm.weight"].astype(np.float32))
writer.add_tensor("output.weight", weights["lm_head.weight"])
for i in range(a.layers):
    for ours, theirs in names.items():
        w = weights[f"model.layers.{i}.{ours}.weight"]
        if theirs in ("attn_q", "attn_k"):
            w = interleaved(w)
        writer.add_tensor(f"blk.{i}.{theirs}.weight", w.astype(np.float32) if w.ndim == 1 else np.ascontiguousarray(w))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
print(f"{sum(w.size for w in weights.values()) / 1e6:.1f} M parameters in {out}")
