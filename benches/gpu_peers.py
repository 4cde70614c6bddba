#!/usr/bin/env python3
"""The work of polylora's `gpu_kernels` and `gpu_forward` benches in PyTorch, Triton and PEFT on an NVIDIA GPU.

One JSON object a line, in the same shapes and under the same names, so that `gpu_table.py` can lay them side by side. Without a
CUDA device it says `not run` and ends well. `--cpu-smoke` computes the same paths on the CPU and compares their values (with
`TRITON_INTERPRET=1`, which it sets, Triton's kernels too); it times nothing.
"""
import argparse
import json
import os
import statistics
import sys
import time

ROUND, MOST_SETS = 256e6, 16  # as polylora's bench: copies that inputs and adapters go round
ADAPTERS = 13
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
CLOSE = {"f32": 1e-4, "f16": 5e-3, "bf16": 3e-2}  # to a sum in float64, relative to the largest value


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(n) for n in text.split(",")]
    p.add_argument("--part", choices=["kernels", "forward"], default="kernels")
    p.add_argument("--dtype", default="bf16", help="f32, f16 and bf16, with commas between")
    p.add_argument("--seconds", type=float, default=0.2, help="of each figure, about")
    p.add_argument("--decode", type=numbers, default=[13, 32, 128, 512])
    p.add_argument("--prefill", type=numbers, default=[1600, 12800])
    p.add_argument("--widths", type=numbers, default=[384, 1536, 4096])
    p.add_argument("--ranks", type=numbers, default=[8, 16, 64])
    p.add_argument("--popularity", default="distinct,one,uniform,zipf")
    p.add_argument("--batch", type=numbers, default=[1, 10, 32, 100, 512])
    p.add_argument("--tokens", default="16,128,mixed")
    p.add_argument("--model", help="directory of all-MiniLM-L6-v2, for --part forward")
    p.add_argument("--compile-seconds", type=float, default=240,
                   help="for torch.compile's compiling in all; shapes that are left then are not run")
    p.add_argument("--cpu-smoke", action="store_true", help="compare values on the CPU, time nothing")
    return p.parse_args()


def emit(**row):
    print(json.dumps(row), flush=True)


class Random:
    """SplitMix64, as polylora's bench has it, so that segments are the same."""

    def __init__(self, seed):
        self.state = seed

    def below(self, bound):
        mask = (1 << 64) - 1
        self.state = z = (self.state + 0x9E3779B97F4A7C15) & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return (z ^ (z >> 31)) % bound


def segments_of(popularity, rows, shortest, longest):
    """Rows of each segment, each with an adapter of its own."""
    if popularity == "one":
        return [rows]
    if popularity == "distinct":
        random, lengths = Random(rows), []
        while (left := rows - sum(lengths)) > 0:
            lengths.append(min(left, shortest + random.below(longest - shortest + 1)))
        return lengths
    weights = [1 / k if popularity == "zipf" else 1 for k in range(1, ADAPTERS + 1)]
    until = [int(sum(weights[:k]) / sum(weights) * rows + 0.5) for k in range(ADAPTERS + 1)]
    return [n for n in (b - a for a, b in zip(until, until[1:])) if n]


def timed(launch, seconds):
    """Microseconds a launch over bursts between two events on the device; the second figure is a captured graph's."""
    import torch

    def burst(call, count):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for number in range(count):
            call(number)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / count

    def bursts(call):
        burst(call, 3)
        count = max(2, min(500, int(5e3 / max(burst(call, 4), 1e-3))))
        began, times = time.perf_counter(), []
        while len(times) < 5 or (len(times) < 200 and time.perf_counter() - began < seconds):
            times.append(burst(call, count))
        return times
    times = bursts(launch)
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for number in range(MOST_SETS):
                launch(number)
        in_graph = statistics.median(bursts(lambda _: graph.replay())) / MOST_SETS
    except Exception:  # what cannot be captured has no such figure
        torch.cuda.synchronize()
        in_graph = None
    return times, in_graph


def kernels(a):
    import torch
    from gpu_peer_kernels import difference, peers
    torch.set_float32_matmul_precision("highest")
    phases = [("decode", n, 1, 1) for n in a.decode] + [("prefill", n, 64, 1000) for n in a.prefill]
    shapes = [(phase, segments_of(popularity, rows, shortest, longest), popularity, width, rank)
              for phase, rows, shortest, longest in phases for width in a.widths for rank in a.ranks
              for popularity in a.popularity.split(",")]
    for name in a.dtype.split(","):
        dtype = getattr(torch, DTYPES[name])
        right = {}
        for segments in [[1, 3, 2], [20, 70, 33]]:  # nobody is timed on other work
            for peer, distance in difference("cuda", dtype, True, segments, 16, 100).items():
                right[peer] = right.get(peer, True) and distance <= CLOSE[name]
        for peer in [peer for peer, agrees in right.items() if not agrees]:
            emit(op="peers", part=a.part, peer=peer, dtype=name, status=f"failed: {peer} in {name} gives wrong values")
        for phase, segments, popularity, width, rank in shapes:
            rows, count = sum(segments), len(segments)
            values = count * rank * 2 * width + 3 * rows * width
            sets = max(1, min(MOST_SETS, -(-int(ROUND) // (values * dtype.itemsize))))
            make = lambda *shape, most=1.0: torch.empty(*shape, device="cuda").uniform_(-most, most).to(dtype)
            inputs = [(make(rows, width), make(rows, width), make(count, rank, width, most=0.02),
                       make(count, rank, width, most=0.02)) for _ in range(sets)]
            for peer, maker in [(peer, maker) for peer, maker in peers(True).items() if right[peer]]:
                key = {"op": "lora", "peer": peer, "phase": phase, "rows": rows, "width": width, "rank": rank,
                       "popularity": popularity, "adapters": count, "dtype": name}
                try:
                    run = maker(segments, "cuda")
                    times, in_graph = timed(lambda number: run(*inputs[number % sets]), a.seconds)
                    emit(**key, us=round(statistics.median(times), 3), **{
                        "us min": round(min(times), 3), "us max": round(max(times), 3),
                        "graph us": in_graph and round(in_graph, 3)})
                except Exception as error:  # one that fails must not stop the others
                    emit(**key, status=f"failed: {type(error).__name__}: {error}"[:300])
                    torch.cuda.empty_cache()


def rows_of(count, tokens, random):
    """Ids of `count` rows."""
    lengths = [6 + random.below(117) if tokens == "mixed" else int(tokens) for _ in range(count)]
    return [[101] + [2000 + random.below(25000) for _ in range(n - 2)] + [102] for n in lengths]


def forward(a):
    import torch
    import gpu_peer_models as models
    for name in a.dtype.split(","):
        dtype, left = getattr(torch, DTYPES[name]), a.compile_seconds
        peers = {"torch": lambda: models.eager(a.model, "cuda", dtype)}
        for mode in ["default", "max-autotune"]:
            peers[f"torch.compile {mode}"] = lambda m=mode: models.compiled(a.model, "cuda", dtype, m)
        for targets, rank in [("q,v", 8), ("all-linear", 8), ("all-linear", 16), ("all-linear", 32)]:
            peers[f"PEFT, {targets} r{rank}"] = lambda t=targets, r=rank: models.peft_mixed(a.model, "cuda", dtype, t, r)
        torch._dynamo.config.cache_size_limit = 64
        for peer, make in peers.items():
            random, run = Random(1), None
            for tokens in a.tokens.split(","):
                for batch in a.batch:
                    rows = rows_of(batch, tokens, random)
                    key = {"op": "forward", "peer": peer, "batch": batch, "dtype": name,
                           "tokens each": "6..122" if tokens == "mixed" else tokens}
                    if "compile" in peer and left <= 0:
                        emit(**key, status="not run: --compile-seconds are gone")
                        continue
                    try:
                        began = time.perf_counter()
                        run = run or make()
                        adapters = [row % ADAPTERS for row in range(batch)]
                        for _ in range(3):
                            run(rows, adapters)
                        if "compile" in peer:
                            left -= time.perf_counter() - began
                        times, began = [], time.perf_counter()
                        while len(times) < 5 or (len(times) < 2000 and time.perf_counter() - began < a.seconds):
                            start = time.perf_counter()  # a pass ends with vectors on the host: nothing is left running
                            run(rows, adapters)
                            times.append((time.perf_counter() - start) * 1e3)
                        ms = statistics.median(times)
                        emit(**key, ms=round(ms, 3), min=round(min(times), 3), max=round(max(times), 3),
                             passes=len(times), **{"texts/s": round(batch / ms * 1e3, 1)})
                    except Exception as error:  # one that is not installed must not stop the others
                        emit(**key, status=f"failed: {type(error).__name__}: {error}"[:300])
            run = None
            torch.cuda.empty_cache()


def smoke(a):
    """Values of every path on the CPU; the status is whether they agree."""
    import torch
    import gpu_peer_models as models
    from gpu_peer_kernels import difference
    wrong = 0
    for segments in [[1] * 5, [1, 3, 2], [20, 70, 33], [90]]:
        for rank, width in [(8, 48), (16, 100), (64, 40)]:
            for name, most in CLOSE.items():
                dtype = getattr(torch, DTYPES[name])
                found = difference("cpu", dtype, True, segments, rank, width)
                if name == "bf16":
                    found.pop("triton SGMV", None)  # Triton's interpreter multiplies no bf16 matrices
                for peer, distance in found.items():
                    wrong += distance > most
                    emit(smoke=peer, segments=segments, rank=rank, width=width, dtype=name, distance=distance,
                         agrees=distance <= most)
    if a.model:
        rows = rows_of(6, "mixed", Random(1))
        base = models.eager(a.model, "cpu", torch.float32)(rows, None)
        alone = torch.cat([models.eager(a.model, "cpu", torch.float32)([row], None) for row in rows])
        mixed = models.peft_mixed(a.model, "cpu", torch.float32, "all-linear", 8)
        of_all = mixed(rows, [0, 1, 2, 3, 0, 1])
        of_one = torch.cat([mixed([row], [k]) for row, k in zip(rows, [0, 1, 2, 3, 0, 1])])
        checks = [("padding", base, alone, True), ("PEFT", of_all, of_one, True), ("adapters", base, of_all, False)]
        try:
            compiled = models.compiled(a.model, "cpu", torch.float32, "default")(rows, None)
            checks.append(("torch.compile", base, compiled, True))
        except Exception as error:
            emit(smoke="torch.compile", status=f"not run: {type(error).__name__}"[:200])
        for what, one, two, alike in checks:
            distance = float((one - two).abs().max())
            wrong += (distance < 1e-4) != alike
            emit(smoke=what, distance=distance, agrees=(distance < 1e-4) == alike)
    emit(smoke="all", wrong=wrong)
    return 1 if wrong else 0


def main():
    a = arguments()
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
    if a.cpu_smoke:
        os.environ["TRITON_INTERPRET"] = "1"
    try:
        import torch
    except ImportError:
        emit(op="peers", part=a.part, status="not run: no PyTorch")
        return 0
    if a.cpu_smoke:
        return smoke(a)
    if not torch.cuda.is_available():
        emit(op="peers", part=a.part, status="not run: no CUDA device")
        return 0
    emit(op="peers", part=a.part, torch=torch.__version__, device=torch.cuda.get_device_name())
    if a.part == "forward" and not a.model:
        emit(op="peers", part=a.part, status="not run: --model is missing")
        return 0
    {"kernels": kernels, "forward": forward}[a.part](a)
    return 0


if __name__ == "__main__":
    sys.exit(main())
