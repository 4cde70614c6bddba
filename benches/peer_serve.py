#!/usr/bin/env python3
"""One of the others in a process of its own, which measures what each line of standard input asks for, as `lockstep` does.

    peer_serve.py ENGINE --model DIR --cache DIR --threads N [--isa ISA]

A request is a JSON object: `texts`, `adapters` (a number for each text, or null), `seconds`, `variant`, and `prepare`: true
tries the engine's ways on these texts, keeps the fastest for batches of that `shape`, and measures nothing (`trials`: false
takes the first way untried). The answer: `way`, and `ms` (every pass, texts in, vectors out) or, to `prepare`, `embeddings`;
or `error`. The first line says what the engine is, or why it is not.
"""
import argparse
import time

from peer_lines import serve

TRIAL_SECONDS = 0.3


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("engine")
    p.add_argument("--model", required=True)
    p.add_argument("--cache", required=True)
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--isa", help="what the environment limits the engine to, to be checked")
    return p.parse_args()


def passed(run):
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def fastest(ways):
    """By each one's fastest pass. What is clearly behind is not tried for long."""
    best, found = float("inf"), None
    for name, run in ways.items():
        if passed(run) > 3 * best:  # the first pass, of which some is set-up
            continue
        times, began = [], time.perf_counter()
        while (len(times) < 2 or time.perf_counter() - began < TRIAL_SECONDS) and min(times, default=0) < 1.5 * best:
            times.append(passed(run))
        if min(times) < best:
            best, found = min(times), name
    return found


class Measured:
    def __init__(self, engine):
        self.engine, self.chosen = engine, {}

    def answer(self, texts, adapters=None, seconds=0.0, variant="", shape="", prepare=False, trials=True):
        ways = {name: lambda way=way: way(texts, adapters) for name, way in self.engine.ways(variant, len(texts)).items()}
        if prepare:
            name = fastest(ways) if trials and len(ways) > 1 else next(iter(ways))
            self.chosen[variant, shape] = name
            return {"way": name, "embeddings": ways[name]().tolist()}
        name = self.chosen[variant, shape]
        return {"way": name, "ms": sorted(self.passes(ways[name], seconds))}

    @staticmethod
    def passes(run, seconds):
        if passed(run) < 200:  # a second one for what is quick, where caches and frequency matter most
            run()
        times, began = [], time.perf_counter()
        while len(times) < 2 or time.perf_counter() - began < seconds:
            times.append(passed(run))
        return times


def main():
    a = arguments()

    def begin():
        if a.engine.split("-")[0] in ("st", "torch", "peft"):
            import torch
            torch.set_num_threads(a.threads)
        from peer_engines import ENGINES
        if a.engine not in ENGINES:
            raise ValueError(f"no such engine; there are {', '.join(ENGINES)}")
        engine = ENGINES[a.engine](a, a.engine.split("-")[1])
        return engine.hello, Measured(engine).answer
    serve(begin)


if __name__ == "__main__":
    main()
