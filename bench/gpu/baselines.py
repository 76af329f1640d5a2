"""PyTorch beside the kernels of cuda/, on the same shapes and the same device. Out: OUT/baselines.jsonl, one cell a line; cells that are there are
not measured again. Sections: matmul (the ceiling of bf16 products), decode and prefill (scaled_dot_product_attention: flash, cuDNN, efficient),
eager, sdpa, compile (transformers in the LLaMA-7B shape with random weights). Exit: 0 done, 1 failed, 3 out of time (run it again to go on),
4 refused because the device was slowed down, 5 a cell hung (that is noted; run it again to go on with the others), 77 nothing to run with.

    python bench/gpu/baselines.py [--out DIR] [--sections matmul,decode,...] [--seconds 420] [--tiny] [--cpu]
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time

try:
    import torch
    import torch.nn.functional as functional
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as missing:
    print(f"baselines left out: PyTorch is not installed here ({missing})")
    sys.exit(77)

SLOWED = 0x8 | 0x20 | 0x40 | 0x80  # NVML: HwSlowdown, SwThermal, HwThermal, HwPowerBrake


class OutOfTime(Exception):
    pass


class Throttled(Exception):
    pass


class Results:
    def __init__(self, folder, seconds):
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, "baselines.jsonl")
        self.until = time.monotonic() + seconds
        self.known = set()
        self.torn = False
        self.watchdog = None
        if os.path.exists(self.path):
            with open(self.path) as file:
                text = file.read()
            self.torn = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                try:
                    self.known.add(json.loads(line)["cell"])
                except (ValueError, KeyError):
                    pass  # a line cut off

    def wants(self, cell):
        if cell in self.known:
            return False
        if time.monotonic() > self.until:
            raise OutOfTime
        return True

    def begin(self, cell, seconds):
        """A cell that takes longer counts as hung: it is noted, and the process ends."""
        self.end()
        self.watchdog = threading.Timer(seconds, self.give_up, (cell, seconds))
        self.watchdog.daemon = True
        self.watchdog.start()

    def end(self):
        if self.watchdog:
            self.watchdog.cancel()

    def give_up(self, cell, seconds):
        self.write({"cell": cell, "error": f"not done after {seconds} s"})
        os._exit(5)

    def write(self, fields):
        line = json.dumps(fields, separators=(",", ":"))
        with open(self.path, "a") as file:
            file.write(("\n" if self.torn else "") + line + "\n")
        self.torn = False
        self.known.add(fields["cell"])
        print(line, flush=True)

    def add(self, cell, **fields):
        self.end()
        said = smi()
        if said is None:
            fields["unwatched"] = True
        elif int(said["reasons"], 16) & SLOWED:
            raise Throttled(f"{cell}: {said}")
        else:
            fields["smi"] = said
        self.write({"cell": cell, **fields})


class Device:
    def __init__(self, use_cpu):
        self.name = "cpu" if use_cpu else "cuda"
        self.cuda = not use_cpu

    def times(self, run, rounds=21, warm_seconds=0.15):
        """Microseconds of each round, by events on a GPU. Rounds are enqueued in batches, so that the host's part of a call does not count."""
        started, warm = time.monotonic(), 0
        while warm < 2 or (self.cuda and time.monotonic() - started < warm_seconds):
            before = time.monotonic()
            run()
            self.wait()
            one, warm = time.monotonic() - before, warm + 1
        out = []
        batch = 1 if one > 0.05 else 8
        while len(out) < rounds:
            if not self.cuda:
                start = time.perf_counter()
                run()
                out.append((time.perf_counter() - start) * 1e6)
                continue
            events = [torch.cuda.Event(enable_timing=True) for _ in range(batch + 1)]
            for event in events[:-1]:
                event.record()
                run()
            events[-1].record()
            events[-1].synchronize()
            # The first of a batch met an idle device.
            out += [a.elapsed_time(b) * 1e3 for a, b in zip(events, events[1:])][0 if batch == 1 else 1 :]
        return out

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()

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

    def room(self):
        if not self.cuda:
            return 4 << 30
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0] * 0.95


def summary(values):
    values = sorted(values)
    tenth = len(values) // 10
    median = statistics.median(values)
    return {"us": median, "spread": (values[-1 - tenth] - values[tenth]) / median, "rounds": len(values)}


def smi():
    for reasons in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):
        fields = "clocks.sm,power.draw,temperature.gpu,memory.used," + reasons
        try:
            said = subprocess.run(
                ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"], capture_output=True, text=True, check=True
            ).stdout
            clock, watts, celsius, used, bits = (value.strip() for value in said.splitlines()[0].split(","))
            int(bits, 16)
            return {"clockMHz": clock, "watts": watts, "celsius": celsius, "usedMiB": used, "reasons": bits}
        except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
            pass
    return None


def measure_matmul(results, device, tiny):
    size = 128 if tiny else 8192
    cell = f"baseline/matmul/bf16/{size}"
    if not results.wants(cell):
        return
    results.begin(cell, 120)
    a, b = (torch.randn(size, size, device=device.name, dtype=torch.bfloat16) for _ in range(2))
    found = summary(device.times(lambda: a @ b))
    results.add(cell, **found, tflop=2 * size**3 / found["us"] * 1e-6)


BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def attention_cell(results, device, cell, backend, shape, layers):
    """One shape with one backend, over `layers` separate caches in turn, so that none is found in the second cache level."""
    if not results.wants(cell):
        return
    results.begin(cell, 90)
    batch, heads, kept, context, rows, dim, dtype = shape
    size = 2 * batch * kept * context * dim * 2
    need = layers * size + 2 * batch * heads * rows * dim * 2
    if need > device.room():
        results.add(cell, fits=False, bytesNeeded=need)
        return

    def make(count, length):
        return torch.randn(batch, count, length, dim, device=device.name, dtype=dtype)

    try:
        query = make(heads, rows)
        caches = [(make(kept, context), make(kept, context)) for _ in range(layers)]
        options = {"enable_gqa": True} if kept != heads else {}

        def run():
            with sdpa_kernel(BACKENDS[backend]):
                for key, value in caches:
                    functional.scaled_dot_product_attention(query, key, value, is_causal=rows > 1, **options)

        run()
        timed, graphed = device.graphed(run)
        found = summary(device.times(timed, rounds=21 if rows == 1 else 11))
    except RuntimeError as error:  # a backend that does not take this shape is a result too
        results.add(cell, error=str(error).splitlines()[0][:200])
        return
    us = found["us"] / layers
    found["us"] = us
    flops = 4 * batch * heads * dim * (context if rows == 1 else rows * (rows + 1) / 2)
    results.add(cell, **found, layers=layers, graph=graphed, bytes=size, gbPerSecond=size / us * 1e-3, tflop=flops / us * 1e-6)


def measure_attention(results, device, tiny, prefill):
    if prefill:
        shapes = [(1, 64)] if tiny else [(1, 8192), (1, 2048), (1, 32768), (8, 2048)]
    else:
        sizes = [(64, 2048), (8, 8192), (1, 32768), (1, 2048), (8, 2048), (32, 2048), (1, 8192), (32, 8192), (64, 8192)]
        shapes = [(2, 64)] if tiny else [*sizes, (8, 32768), (32, 32768), (64, 32768)]
    heads, dim = (4, 32) if tiny else (32, 128)
    dtype = torch.bfloat16 if prefill else torch.float16
    for batch, context in shapes:
        for kept in [heads, heads // 4]:
            size = 2 * batch * kept * context * dim * 2
            layers = 2 if tiny else max(1, min(32, math.ceil(2e9 / size)))  # as chai_bench does
            for backend in ["math"] if not device.cuda else ["flash", "cudnn", "efficient"]:
                cell = f"baseline/{'prefill' if prefill else 'decode'}/{heads}/{kept}x{dim}/{batch}x{context}/{backend}"
                attention_cell(results, device, cell, backend, (batch, heads, kept, context, context if prefill else 1, dim, dtype), layers)


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


def first_cell(results, device, cell, model, vocabulary, tokens):
    """Time to first token: the prompt's step with an empty cache, up to the last row's logits."""
    ids = torch.randint(vocabulary, (1, tokens), device=device.name)
    found = summary(device.times(lambda: model(ids, use_cache=True, logits_to_keep=1), rounds=5, warm_seconds=0))
    results.add(cell, **found, tokens=tokens)


def step_cell(results, device, cell, model, forward, vocabulary, batch, context, static, tiny):
    """Time per token: steps of one row a sequence around `context` tokens of cache, the next token chosen greedily on the device."""
    from transformers import DynamicCache, StaticCache

    steps, warm = (4, 2) if tiny else (24, 6)
    base = max(8, context - steps // 2)
    cache = StaticCache(config=model.config, max_cache_len=base + steps + warm + 8) if static else DynamicCache(config=model.config)
    piece = max(128, 8192 // batch)  # for eager attention's memory
    for start in range(0, base, piece):
        ids = torch.randint(vocabulary, (batch, min(piece, base - start)), device=device.name)
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    token = torch.randint(vocabulary, (batch, 1), device=device.name)
    values = []
    for step in range(warm + steps):
        device.wait()
        start = time.perf_counter()
        logits = forward(token, past_key_values=cache, use_cache=True).logits
        token = logits[:, -1:].argmax(-1).clone()
        device.wait()  # a caller has the token now
        if step >= warm:
            values.append((time.perf_counter() - start) * 1e6)
    found = summary(values)
    results.add(cell, **found, batch=batch, context=context, tokensPerSecond=batch * 1e6 / found["us"])


def measure_model(results, device, tiny, name):
    prompts = [16] if tiny else [2048, 256, 8192, 32768]
    shapes = [(2, 16)] if tiny else [(1, 2048), (1, 16), (8, 2048), (64, 2048), (8, 8192), (1, 8192), (32, 2048)]
    if name == "compile":  # every shape is compiled anew
        prompts, shapes = [], shapes[:3]
    firsts = [(f"baseline/first/{name}/{tokens}", tokens) for tokens in prompts]
    steps = [(f"baseline/step/{name}/{batch}x{context}", batch, context) for batch, context in shapes]
    if not any(results.wants(cell) for cell, *_ in firsts + steps):
        return
    try:
        import transformers  # noqa: F401
    except ImportError as missing:
        print(f"{name} left out: transformers is not installed here ({missing})")
        return
    model, vocabulary = llama(tiny, "eager" if name == "eager" else "sdpa", device, torch.float16 if device.cuda else torch.float32)
    # The model itself stays as it is: only steps run compiled.
    forward = torch.compile(model.forward, mode="reduce-overhead") if name == "compile" else model

    def try_cell(cell, measure):
        if not results.wants(cell):
            return
        results.begin(cell, 240)  # compiling counts
        try:
            measure()
        except (OutOfTime, Throttled):
            raise
        except torch.OutOfMemoryError:
            results.add(cell, fits=False)
        except Exception as error:  # another version of the library is no reason to lose the rest
            results.add(cell, error=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}")
        if device.cuda:
            torch.cuda.empty_cache()

    for (step, batch, context), first in zip(steps, firsts + [None] * len(steps)):  # in turns: both kinds before time is up
        try_cell(step, lambda: step_cell(results, device, step, model, forward, vocabulary, batch, context, name == "compile", tiny))
        if first:
            try_cell(first[0], lambda: first_cell(results, device, first[0], model, vocabulary, first[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="build_gpu/results")
    parser.add_argument("--sections", default="matmul,decode,prefill,eager,sdpa,compile")
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    known = {
        "matmul": measure_matmul,
        "decode": lambda *place: measure_attention(*place, False),
        "prefill": lambda *place: measure_attention(*place, True),
        **{name: lambda *place, name=name: measure_model(*place, name) for name in ("eager", "sdpa", "compile")},
    }
    sections = options.sections.split(",")
    if unknown := set(sections) - set(known):
        parser.error(f"unknown sections: {', '.join(sorted(unknown))}")
    if not options.cpu and not torch.cuda.is_available():
        print("baselines left out: PyTorch finds no CUDA device (--cpu tries the script itself)")
        sys.exit(77)
    device = Device(options.cpu)
    results = Results(options.out, options.seconds)
    try:
        results.add(f"baseline/facts/{int(time.time())}", torch=torch.__version__, python=sys.version.split()[0])
        with torch.no_grad():
            for section in sections:
                known[section](results, device, options.tiny)
    except OutOfTime:
        print("out of time: run it again to go on", file=sys.stderr)
        sys.exit(3)
    except Throttled as slowed:
        print(f"refused: the device is slowed down by heat or by the board ({slowed}); let it cool and run it again", file=sys.stderr)
        sys.exit(4)


if __name__ == "__main__":
    main()
