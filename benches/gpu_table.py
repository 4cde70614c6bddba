#!/usr/bin/env python3
"""Markdown tables out of the JSON lines of `gpu_kernels`, `gpu_forward` and `gpu_peers.py`: polylora beside others.

    gpu_table.py FILE...

A figure that was measured in several rounds is the median of theirs. What was not run says so.
"""
import json
import statistics
import sys

from markdown_table import shown, table

KERNEL = ["dtype", "phase", "rows", "width", "rank", "popularity"]
BATCH = ["dtype", "tokens each", "batch"]


def lines(files):
    for file in files:
        with open(file, encoding="utf-8") as opened:
            for line in opened:
                if line.startswith("{"):
                    yield json.loads(line)


def number(value):
    return int(value) if isinstance(value, float) and value == int(value) else value


def key_of(row, names):
    return tuple(number(row[name]) for name in names)


def gathered(rows, names, value):
    """For each key, in order of appearance, the median of `value`; None where there is none."""
    found = {}
    for row in rows:
        found.setdefault(key_of(row, names), []).append(row.get(value))
    numbers = {key: [v for v in values if isinstance(v, (int, float))] for key, values in found.items()}
    return {key: statistics.median(values) if values else None for key, values in numbers.items()}


def kernels(rows):
    """LoRA's own time; `ahead` is the fastest other's over ours."""
    ours = [r for r in rows if r.get("op") == "lora" and "peer" not in r]
    if not ours:
        return
    columns = {name: gathered(ours, KERNEL, name)
               for name in ["floor us", "us", "host share", "of bandwidth", "of measured bandwidth", "of peak"]}
    others = [r for r in rows if r.get("op") == "lora" and "peer" in r]
    names = list(dict.fromkeys(r["peer"] for r in others))
    peers = {n: gathered([r for r in others if r["peer"] == n], KERNEL, "us") for n in names}
    graphs = {n: gathered([r for r in others if r["peer"] == n], KERNEL, "graph us") for n in names}
    body = []
    for key, us in columns["us"].items():
        missing = "not run" if us is None else "?"
        cells = [shown(columns[n][key], 3 if n.startswith("of ") else 2, missing) for n in columns]
        found = [peers[n].get(key) for n in names]
        fastest = min((v for v in found if v), default=None)
        beside = [f"{shown(eager)} ({shown(graphs[n].get(key), 2, '?')})" if eager else shown(None)
                  for n, eager in zip(names, found)]
        body.append([*key, *cells, *beside, shown(fastest / us if us and fastest else None)])
    print("LoRA's part of a layer, microseconds; in parentheses the other's captured graph.\n")
    table([*KERNEL, *columns, *names, "ahead"], body)


def ops(rows):
    found = [r for r in rows if "op" in r and r["op"] not in ("lora", "forward", "peers") and "us" in r]
    for names in [["op", *KERNEL], ["op", "dtype", "texts", "tokens each"]]:
        some = [r for r in found if all(name in r for name in names)]
        if some:
            values = ["floor us", "us", "of bandwidth", "of peak", "host share"]
            columns = [gathered(some, names, value) for value in values]
            table([*names, *values], [[*key, *(shown(c[key], 3, "?") for c in columns)] for key in columns[0]])


def forward(rows):
    """Milliseconds of a batch; the ratio is of the same run, passes in turn."""
    passes = [r for r in rows if r.get("op") == "forward"]
    ours = [r for r in passes if "peer" not in r]
    others = [r for r in passes if "peer" in r]
    if not ours:
        return
    base, least = gathered(ours, BATCH, "base ms"), gathered(ours, BATCH, "floor us")
    names = list(dict.fromkeys(r["peer"] for r in others if not r["peer"].startswith("PEFT")))
    peers = {n: gathered([r for r in others if r["peer"] == n], BATCH, "ms") for n in names}
    body = []
    for key, ms in base.items():
        found = [peers[n].get(key) for n in names]
        fastest = min((v for v in found if v), default=None)
        texts = key[2] / ms * 1e3 if ms else None
        floor = [shown(least[key], 2)] if ms is None else []
        body.append([*key, *floor, shown(ms, 3), shown(texts, 0), *(shown(v, 3) for v in found),
                     shown(fastest / ms if ms and fastest else None)])
    floor = ["floor us"] if all(ms is None for ms in base.values()) else []
    print("The base model, milliseconds a batch.\n")
    table([*BATCH, *floor, "polylora", "texts/s", *names, "ahead"], body)
    mixed = [r for r in ours if "ratio" in r]
    if not mixed:
        return
    names = [*BATCH, "targets", "rank"]
    ms, ratio = gathered(mixed, names, "mixed ms"), gathered(mixed, names, "ratio")
    peft = [{**r, "targets": r["peer"][6:].split(" r")[0], "rank": int(r["peer"].split(" r")[1])}
            for r in others if r["peer"].startswith("PEFT")]
    theirs = gathered(peft, names, "ms")
    print("13 mixed adapters, milliseconds a batch; the aim is a ratio of at most 1.08.\n")
    table([*names, "polylora", "over base", "PEFT mixed", "ahead"],
          [[*key, shown(ms[key], 3), shown(ratio[key], 3), shown(theirs.get(key), 3),
            shown(theirs[key] / ms[key] if theirs.get(key) else None)] for key in ms])
    reached = sum(r <= 1.08 for r in ratio.values())
    print(f"Within 8 % of the base: {reached} of {len(ratio)}.\n")


def main():
    rows = list(lines(sys.argv[1:]))
    for why in dict.fromkeys(r["status"] for r in rows if str(r.get("status", "")).startswith(("not run", "failed"))):
        print(f"- {why}")
    for row in rows:
        if row.get("op") == "peers" and "device" in row:
            print(f"- peers: torch {row['torch']} on {row['device']}")
    print()
    kernels(rows)
    ops(rows)
    forward(rows)


if __name__ == "__main__":
    main()
