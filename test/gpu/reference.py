"""Whole-model logits on the device against transformers in float64: random Llama models, multi-head and grouped-query, of several head sizes. In: the
benchmark's executable. Out: one line a model; exit 1 when one disagrees, 77 when transformers is not installed.

    python test/gpu/reference.py [--bench build_gpu/chai_bench]
"""

import argparse
import os
import subprocess
import sys
import tempfile

try:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError as missing:
    print(f"left out: {missing}")
    sys.exit(77)

LIMIT = 1e-2  # of float16 weights, activations and cache, as in test/cuda/backend_test.cpp


def tensors_of(model):
    """In the order of bench/gpu/logits.cpp."""
    yield model.model.embed_tokens.weight
    for layer in model.model.layers:
        yield layer.input_layernorm.weight
        yield from (getattr(layer.self_attn, f"{name}_proj").weight for name in "qkvo")
        yield layer.post_attention_layernorm.weight
        yield from (getattr(layer.mlp, f"{name}_proj").weight for name in ("gate", "up", "down"))
    yield model.model.norm.weight
    yield model.lm_head.weight


def distance(bench, folder, heads, kept, dim, tokens):
    """Relative L2 distance between the device's logits and transformers'."""
    config = LlamaConfig(
        hidden_size=heads * dim,
        intermediate_size=3 * heads * dim // 2,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=kept,
        head_dim=dim,
        vocab_size=211,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
        tie_word_embeddings=False,
    )
    torch.manual_seed(heads * 1000 + dim)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # both sides see the same float16 numbers
            if weight.dim() == 2:
                weight.normal_(0, 1.2 / weight.shape[1] ** 0.5)
            else:
                weight.normal_(1, 0.1)
            weight.copy_(weight.half().float())
    ids = torch.randint(config.vocab_size, (1, tokens))
    path = os.path.join(folder, "model")
    with open(path + ".bin", "wb") as file:
        for tensor in tensors_of(model):
            file.write(tensor.detach().numpy().astype("<f4").tobytes())
    theta = getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]
    numbers = dict(layers=3, heads=heads, keyValueHeads=kept, headDim=dim, hidden=heads * dim, intermediate=config.intermediate_size)
    numbers |= dict(vocabulary=config.vocab_size, epsilon=config.rms_norm_eps, theta=theta)
    with open(path, "w") as file:
        file.writelines(f"{name} {value}\n" for name, value in numbers.items())
        file.writelines(f"id {token}\n" for token in ids[0].tolist())
        file.write("end\n")
    subprocess.run([bench, "logits", path], check=True, stdout=subprocess.DEVNULL)
    with open(path + ".logits", "rb") as file:
        got = torch.frombuffer(bytearray(file.read()), dtype=torch.float32).double().reshape(tokens, -1)
    with torch.no_grad():
        want = model.double()(ids).logits[0]
    return ((got - want).norm() / want.norm()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="build_gpu/chai_bench")
    options = parser.parse_args()
    passed = failed = 0
    for heads, kept, dim, tokens in [(4, 4, 64, 70), (8, 2, 32, 40), (2, 2, 128, 130), (3, 3, 80, 33)]:
        with tempfile.TemporaryDirectory() as folder:
            far = distance(options.bench, folder, heads, kept, dim, tokens)
        good = far < LIMIT  # false for NaN
        passed, failed = passed + good, failed + (not good)
        print(f"{'ok' if good else 'FAILED'} {heads}/{kept} heads of {dim}, {tokens} tokens: distance {far:.2e}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
