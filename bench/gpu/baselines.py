"""PyTorch beside the kernels of cuda/, on the same shapes and the same device. Out: OUT/baselines.jsonl, one cell a line; cells that are there are
not measured again, those that failed once more in a later call. Sections: matmul (the ceiling of bf16 products), decode and prefill
(scaled_dot_product_attention: flash, cuDNN, efficient), eager, sdpa, compile (transformers in the LLaMA-7B shape with random weights). Exit: 0 done,
1 failed, 3 run it again to go on (time was up, or cells failed that are tried once more), 5 a cell hung or took the device with it (that is noted;
run it again to go on with the others), 77 nothing to run with.

    python bench/gpu/baselines.py [--out DIR] [--sections matmul,decode,...] [--seconds 420] [--tiny] [--cpu]
"""

import argparse
import functools
import gc
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter

try:
    import torch
    import torch.nn.functional as functional
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as missing:
    print(f"baselines left out: PyTorch is not installed here ({missing})")
    sys.exit(77)

SLOWED = {0x8: "HwSlowdown", 0x20: "SwThermalSlowdown", 0x40: "HwThermalSlowdown", 0x80: "HwPowerBrakeSlowdown"}  # NVML's bits
BROKEN_OFF = "its measuring was broken off twice"
UNSUPPORTED = re.compile("no available kernel|no valid execution plan|not support|unsupported|invalid backend", re.IGNORECASE)  # of a shape: so it will be the next time


class OutOfTime(Exception):
    pass


class TooLarge(Exception):
    """By calculation. In: bytes needed, and what the device has."""

    def __init__(self, need, total):
        super().__init__(f"{need} bytes needed")
        self.fields = {"bytesNeeded": need, **({"final": True} if need > total else {})}


class Results:
    """The file of results. A cell that failed is tried once more in a later call, behind the new ones; see bench/gpu/standing.h."""

    def __init__(self, folder, seconds):
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, "baselines.jsonl")
        self.begun_path = os.path.join(folder, "baselines.begun")  # cells begun and not noted yet, one a line and process
        self.until = time.monotonic() + seconds
        self.known, self.once = set(), set()  # settled; failed once, in an earlier call
        self.retrying = False
        self.open = 0  # cells that failed in this call and are tried once more
        self.torn = False
        self.watchdog = None
        failures = Counter()
        for fields in self.lines():
            cell, error = fields["cell"], fields.get("error", "")
            self.once.discard(cell)
            if not error and fields.get("fits", True):
                self.known.add(cell)
                continue
            failures[cell] += 1
            final = fields.get("final") or error == BROKEN_OFF or error.startswith("not done after")
            (self.known if final or failures[cell] > 1 else self.once).add(cell)
        if os.path.exists(self.begun_path):
            with open(self.begun_path) as file:
                begun = Counter(file.read().split())
            for cell in (cell for cell, times in begun.items() if times > 1 and cell not in self.known):
                self.note(cell, error=BROKEN_OFF, final=True)

    def lines(self):
        if not os.path.exists(self.path):
            return
        with open(self.path) as file:
            text = file.read()
        self.torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                fields = json.loads(line)
                if "cell" in fields:
                    yield fields
            except (ValueError, TypeError):
                pass  # a line cut off

    def wants(self, cell, seconds=0):
        """`seconds`: that must be left to begin it."""
        if cell in self.known or (cell in self.once) != self.retrying:
            return False
        if time.monotonic() + seconds > self.until:
            raise OutOfTime
        return True

    def begin(self, cell, seconds):
        """A cell that takes longer counts as hung: it is noted, and the process ends."""
        with open(self.begun_path, "a") as file:
            file.write(cell + "\n")
        self.watchdog = threading.Timer(seconds, self.give_up, (cell, seconds))
        self.watchdog.daemon = True
        self.watchdog.start()

    def end(self):
        """Of the cell begun last."""
        if self.watchdog:
            self.watchdog.cancel()
        if os.path.exists(self.begun_path):
            os.remove(self.begun_path)

    def give_up(self, cell, seconds):
        self.note(cell, error=f"not done after {seconds} s")
        os._exit(5)

    def note(self, cell, **fields):
        self.end()
        failed = "error" in fields or fields.get("fits") is False
        self.open += failed and not fields.get("final") and cell not in self.once
        self.known.add(cell)
        self.write(cell, **fields)

    def write(self, cell, **fields):
        line = json.dumps({"cell": cell, **fields}, separators=(",", ":"))
        with open(self.path, "a") as file:
            file.write(("\n" if self.torn else "") + line + "\n")
        self.torn = False
        print(line, flush=True)

    def add(self, cell, fields):
        """False when the device was slowed down: then nothing is noted, and `slowed` says by what."""
        self.end()
        said = smi()
        bits = int(said["reasons"], 16) if said else 0
        self.slowed = ", ".join(name for bit, name in SLOWED.items() if bits & bit)
        if self.slowed:
            return False
        self.note(cell, **fields, **({"smi": said} if said else {"unwatched": True}))
        return True


def attempt(results, device, cell, seconds, measure, least=0):
    """One cell: `measure` gives its fields. Whatever goes wrong is the cell's result, and the next one is tried; what takes the device with it
    ends the process. `least`: seconds that must be left."""
    if not results.wants(cell, least):
        return
    for _ in range(3):
        results.begin(cell, seconds)
        try:
            if results.add(cell, measure()):
                break
            print(f"{cell}: slowed down ({results.slowed}), once more in 5 s", file=sys.stderr)
            time.sleep(5)
        except TooLarge as large:
            results.note(cell, fits=False, **large.fields)
            break
        except torch.OutOfMemoryError as error:
            results.note(cell, fits=False, error=words_of(error))
            break
        except RuntimeError as error:
            lost = device.lost()
            results.note(cell, error=words_of(error), **({"final": True} if not lost and UNSUPPORTED.search(str(error)) else {}))
            if lost:
                print("the device gives nothing but errors to this process: run it again to go on", file=sys.stderr, flush=True)
                os._exit(5)
            break
        except Exception as error:  # another version of a library is no reason to lose the rest
            results.note(cell, error=f"{type(error).__name__}: {words_of(error)}", final=True)
            break
    else:
        results.note(cell, error="throttled", throttleReasons=results.slowed)
    device.tidy()


def words_of(error):
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


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

    def total(self):
        return torch.cuda.mem_get_info()[1] if self.cuda else 4 << 30

    def tidy(self):
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def lost(self):
        """After an error: whether every further call gives one, as it does when a kernel faulted."""
        if not self.cuda:
            return False
        try:
            torch.cuda.synchronize()
            torch.zeros(1, device=self.name).item()
        except torch.OutOfMemoryError:
            pass
        except RuntimeError:
            return True
        return False


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

    def measure():
        a, b = (torch.randn(size, size, device=device.name, dtype=torch.bfloat16) for _ in range(2))
        found = summary(device.times(lambda: a @ b))
        return {**found, "tflop": 2 * size**3 / found["us"] * 1e-6}

    attempt(results, device, f"baseline/matmul/bf16/{size}", 120, measure)


BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def attention_fields(device, backend, shape, layers):
    """One shape with one backend, over `layers` separate caches in turn, so that none is found in the second cache level."""
    batch, heads, kept, context, rows, dim, dtype = shape
    size = 2 * batch * kept * context * dim * 2
    need = layers * size + 2 * batch * heads * rows * dim * 2
    if need > device.room():
        raise TooLarge(need, device.total())

    def make(count, length):
        return torch.randn(batch, count, length, dim, device=device.name, dtype=dtype)

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
    us = found["us"] / layers
    flops = 4 * batch * heads * dim * (context if rows == 1 else rows * (rows + 1) / 2)
    rates = {"gbPerSecond": size / us * 1e-3, "tflop": flops / us * 1e-6}
    return {**found, "us": us, "layers": layers, "graph": graphed, "bytes": size, **rates}


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
                shape = (batch, heads, kept, context, context if prefill else 1, dim, dtype)
                attempt(results, device, cell, 90, functools.partial(attention_fields, device, backend, shape, layers))


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


def first_fields(device, model, forward, name, vocabulary, tokens):
    """Time to first token: the prompt's step with an empty cache, up to the last row's logits."""
    ids = torch.randint(vocabulary, (1, tokens), device=device.name)
    if name == "eager":  # scores and, in float32, their softmax
        need = 6 * model.config.num_attention_heads * tokens**2
        if need > device.room():
            raise TooLarge(need + sum(weight.nbytes for weight in model.parameters()), device.total())
    if name != "compile":
        found = summary(device.times(lambda: model(ids, use_cache=True, logits_to_keep=1), rounds=5, warm_seconds=0))
        return {**found, "tokens": tokens}
    from transformers import StaticCache

    cache = StaticCache(config=model.config, max_cache_len=tokens + 8)  # at one place for all rounds, or each is recorded anew
    model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def run():
        cache.reset()  # under 1 % of it
        forward(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    for _ in range(3):  # compiles and records
        run()
    return {**summary(device.times(run, rounds=5, warm_seconds=0)), "tokens": tokens}


def step_fields(device, model, forward, name, vocabulary, batch, context, tiny):
    """Time per token: steps of one row a sequence around `context` tokens of cache, the next token chosen greedily on the device."""
    from transformers import DynamicCache, StaticCache

    steps, warm = (4, 2) if tiny else (24, 6)
    base = max(8, context - steps // 2)
    static = name == "compile"
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
    return {**found, "batch": batch, "context": context, "tokensPerSecond": batch * 1e6 / found["us"]}


def measure_model(results, device, tiny, name):
    prompts = [16] if tiny else [2048, 256, 8192, 32768, 512, 1024, 4096, 16384]
    shapes = [(2, 16)] if tiny else [(1, 2048), (1, 16), (8, 2048), (64, 2048), (8, 8192), (1, 8192), (32, 2048)]
    least = 0
    if name == "compile" and not tiny:  # every shape is compiled anew, a minute each
        prompts, shapes, least = [2048], [(1, 2048), (8, 2048)], 60
    firsts = [(f"baseline/first/{name}/{tokens}", tokens) for tokens in prompts]
    steps = [(f"baseline/step/{name}/{batch}x{context}", batch, context) for batch, context in shapes]
    if not any(results.wants(cell, least) for cell, *_ in firsts + steps):
        return
    try:
        import transformers  # noqa: F401
    except ImportError as missing:
        print(f"{name} left out: transformers is not installed here ({missing})")
        return
    model, vocabulary = llama(tiny, "eager" if name == "eager" else "sdpa", device, torch.float16 if device.cuda else torch.float32)
    # The model itself stays as it is: what is timed runs compiled.
    forward = torch.compile(model.forward, mode="reduce-overhead") if name == "compile" else model
    for step, first in itertools.zip_longest(steps, firsts):  # in turns: both kinds before time is up
        if step:
            cell, batch, context = step
            run = functools.partial(step_fields, device, model, forward, name, vocabulary, batch, context, tiny)
            attempt(results, device, cell, 240, run, least)  # compiling counts
        if first:
            cell, tokens = first
            attempt(results, device, cell, 240, functools.partial(first_fields, device, model, forward, name, vocabulary, tokens), least)


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
    results.write(f"baseline/facts/{int(time.time())}", torch=torch.__version__, python=sys.version.split()[0])
    try:
        with torch.no_grad():
            for results.retrying in (False, True):
                for section in sections:
                    known[section](results, device, options.tiny)
    except OutOfTime:
        print("out of time: run it again to go on", file=sys.stderr)
        sys.exit(3)
    if results.open:
        print(f"{results.open} cells failed and are tried once more in the next call", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
