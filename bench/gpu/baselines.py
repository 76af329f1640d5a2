"""PyTorch beside the kernels of cuda/, on the same shapes and the same device. Out: OUT/baselines.jsonl, one cell a line; cells that are there are
not measured again. Sections: matmul (the ceiling of bf16 products), decode and prefill (scaled_dot_product_attention: flash, cuDNN, efficient),
model (transformers in the LLaMA-7B shape with random weights: eager, sdpa, torch.compile).

    python bench/gpu/baselines.py [--out DIR] [--sections matmul,decode,prefill,model] [--seconds 420] [--tiny] [--cpu]
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel


class OutOfTime(Exception):
    pass


class Results:
    def __init__(self, folder, seconds):
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, "baselines.jsonl")
        self.until = time.monotonic() + seconds
        self.known = set()
        if os.path.exists(self.path):
            for line in open(self.path):
                try:
                    self.known.add(json.loads(line)["cell"])
                except ValueError:
                    pass  # a line cut off

    def wants(self, cell):
        if cell in self.known:
            return False
        if time.monotonic() > self.until:
            raise OutOfTime
        return True

    def add(self, cell, **fields):
        line = json.dumps({"cell": cell, **fields}, separators=(",", ":"))
        with open(self.path, "a") as file:
            file.write(line + "\n")
        self.known.add(cell)
        print(line, flush=True)


class Device:
    def __init__(self, use_cpu):
        self.name = "cpu" if use_cpu else "cuda"
        self.cuda = not use_cpu

    def times(self, run, rounds=21, warm=3):
        """Microseconds of each round, by events on a GPU."""
        for _ in range(warm):
            run()
        out = []
        for _ in range(rounds):
            if self.cuda:
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                run()
                end.record()
                end.synchronize()
                out.append(start.elapsed_time(end) * 1e3)
            else:
                start = time.perf_counter()
                run()
                out.append((time.perf_counter() - start) * 1e6)
        return out

    def graphed(self, run):
        """`run` as a CUDA graph, so that launches cost what they cost in a recorded step; itself where that fails."""
        if not self.cuda:
            return run, False
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            return graph.replay, True
        except RuntimeError:
            return run, False

    def free(self):
        return torch.cuda.mem_get_info()[0] if self.cuda else 4 << 30

    def l2(self):
        return torch.cuda.get_device_properties(0).L2_cache_size if self.cuda else 1 << 20


def summary(values):
    values = sorted(values)
    tenth = len(values) // 10
    median = statistics.median(values)
    return {"us": median, "spread": (values[-1 - tenth] - values[tenth]) / median, "rounds": len(values)}


def smi():
    try:
        fields = "name,driver_version,clocks.sm,power.draw,temperature.gpu,memory.used,clocks_event_reasons.active"
        return subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def measure_matmul(results, device, tiny):
    size = 128 if tiny else 8192
    cell = f"matmul/bf16/{size}"
    if not results.wants(cell):
        return
    a, b = (torch.randn(size, size, device=device.name, dtype=torch.bfloat16) for _ in range(2))
    found = summary(device.times(lambda: a @ b))
    results.add(cell, **found, tflop=2 * size**3 / found["us"] * 1e-6)


BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def attention_cell(results, device, cell, backend, batch, heads, context, rows, dim, dtype, layers):
    """One shape with one backend, over `layers` separate caches in turn, so that none is found in the second cache level."""
    if not results.wants(cell):
        return
    need = layers * 2 * batch * heads * context * dim * 2 + 4 * batch * heads * rows * dim * 2
    if need > device.free() * 0.95:
        results.add(cell, fits=False, bytesNeeded=need)
        return
    try:
        make = lambda length: torch.randn(batch, heads, length, dim, device=device.name, dtype=dtype)
        query = make(rows)
        caches = [(make(context), make(context)) for _ in range(layers)]

        def run():
            with sdpa_kernel(BACKENDS[backend]):
                for key, value in caches:
                    functional.scaled_dot_product_attention(query, key, value, is_causal=rows > 1)

        run()
        timed, graphed = device.graphed(run)
        found = summary(device.times(timed, rounds=21 if rows == 1 else 9))
    except RuntimeError as error:  # a backend that does not take this shape is a result too
        results.add(cell, error=str(error).splitlines()[0][:200])
        return
    us = found["us"] / layers
    found["us"] = us
    size = 2 * batch * heads * context * dim * 2
    flops = 4 * batch * heads * dim * (context if rows == 1 else rows * (rows + 1) / 2)
    results.add(cell, **found, layers=layers, graph=graphed, bytes=size, gbPerSecond=size / us * 1e-3, tflop=flops / us * 1e-6)


def measure_attention(results, device, tiny, prefill):
    if prefill:
        shapes = [(1, 64)] if tiny else [(1, 2048), (1, 8192), (1, 32768), (8, 2048)]
    else:
        shapes = [(2, 64)] if tiny else [(64, 2048), (8, 8192), (1, 32768), (1, 2048), (8, 2048), (32, 2048), (1, 8192), (32, 8192)]
    heads, dim = (4, 32) if tiny else (32, 128)
    dtype = torch.bfloat16 if prefill else torch.float16
    for batch, context in shapes:
        one = 2 * batch * heads * context * dim * 2
        layers = 1 if prefill else max(1, min(32, math.ceil(4 * device.l2() / one)))
        for backend in ["math"] if not device.cuda else ["flash", "cudnn", "efficient"]:
            cell = f"{'prefill' if prefill else 'decode'}/{heads}/{heads}x{dim}/{batch}x{context}/{backend}"
            attention_cell(results, device, cell, backend, batch, heads, context, context if prefill else 1, dim, dtype, layers)


def llama(tiny, attention, device, dtype):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = (
        dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=101)
        if tiny
        else dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000)
    )
    config = LlamaConfig(max_position_embeddings=40960, attn_implementation=attention, **shape)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device.name):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(previous)
    return model.eval(), shape["vocab_size"]


def time_model(results, device, name, model, vocabulary, tiny, compiled):
    prompts = [16] if tiny else [2048, 256, 8192, 32768]
    for tokens in prompts:
        cell = f"model/{name}/first/{tokens}"
        if not results.wants(cell):
            continue
        ids = torch.randint(vocabulary, (1, tokens), device=device.name)
        try:
            results.add(cell, **summary(device.times(lambda: model(ids, use_cache=True, logits_to_keep=1), rounds=5, warm=2)))
        except torch.OutOfMemoryError:
            results.add(cell, fits=False)
            torch.cuda.empty_cache()
    for batch, context in [(2, 16)] if tiny else [(1, 2048), (1, 16), (8, 2048), (8, 8192), (64, 2048)]:
        cell = f"model/{name}/decode/{batch}x{context}"
        if not results.wants(cell):
            continue
        try:
            from transformers import DynamicCache, StaticCache

            steps = 4 if tiny else 24
            cache = StaticCache(config=model.config, max_cache_len=context + steps + 8) if compiled else DynamicCache()
            for start in range(0, context, 2048):  # in pieces, for eager attention's memory
                piece = torch.randint(vocabulary, (batch, min(2048, context - start)), device=device.name)
                position = torch.arange(start, start + piece.shape[1], device=device.name)
                model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1, cache_position=position)
            token = torch.randint(vocabulary, (batch, 1), device=device.name)
            place = [context]

            def step():
                position = torch.tensor([place[0]], device=device.name)
                model(token, past_key_values=cache, use_cache=True, cache_position=position)
                place[0] += 1

            found = summary(device.times(step, rounds=steps - 4 if steps > 4 else 2, warm=2))
            results.add(cell, **found, tokensPerSecond=batch * 1e6 / found["us"])
        except torch.OutOfMemoryError:
            results.add(cell, fits=False)
            torch.cuda.empty_cache()


def measure_model(results, device, tiny):
    dtype = torch.float16 if device.cuda else torch.float32
    for attention in ["eager", "sdpa"]:
        model, vocabulary = llama(tiny, attention, device, dtype)
        time_model(results, device, attention, model, vocabulary, tiny, False)
        if attention == "sdpa" and device.cuda:
            model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=False)
            time_model(results, device, "compile", model, vocabulary, tiny, True)
        del model
        if device.cuda:
            torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="build_gpu/results")
    parser.add_argument("--sections", default="matmul,decode,prefill,model")
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        sys.exit("no CUDA device for PyTorch; --cpu tries the script itself")
    device = Device(options.cpu)
    results = Results(options.out, options.seconds)
    if smi_line := smi():
        results.add(f"facts/{int(time.time())}", torch=torch.__version__, smi=smi_line)
    try:
        with torch.inference_mode():
            for section in options.sections.split(","):
                if section == "matmul":
                    measure_matmul(results, device, options.tiny)
                elif section in ("decode", "prefill"):
                    measure_attention(results, device, options.tiny, section == "prefill")
                elif section == "model":
                    measure_model(results, device, options.tiny)
                else:
                    sys.exit(f"unknown section {section}")
    except OutOfTime:
        print("out of time: run it again to go on", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
