#!/usr/bin/env python3
"""Markdown tables out of the JSON lines of `peers.py`: polylora beside others, and each ratio beside what it is to reach.

    peer_table.py [--peak f32=420,bf16=800,int8=1600] FILE...

A ratio is another's time over ours, above 1 where we are faster: the median over the rounds of all runs of the ratio within a
round, so that a machine whose speed drifts does not enter. Times are medians of those of the runs. `--peak` gives what the
machine's matrix products reach, in GFLOP/s, as `polylora bench` prints it (`f32@1=216`: with one thread; `f32@avx2@1=115`:
limited to an instruction set); with it every time of ours is also a share of its floor. A time with a star was disturbed:
other programs used more than 0.15 cores at every try of a turn.
"""
import argparse
import collections
import json
import math
import statistics

from markdown_table import shown, table
from peer_aims import DTYPES, SECTIONS
from peer_process import DISTURBED

NAMES = {"ort": "ONNX Runtime", "ov": "OpenVINO", "torch": "torch", "st": "sentence-transformers", "peft": "PEFT"}
LAYERS, WIDTH, INNER = 6, 384, 1536  # all-MiniLM-L6-v2


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peak", default="", help="GFLOP/s by dtype")
    p.add_argument("files", nargs="+", metavar="FILE")
    a = p.parse_args()
    a.peak = {key: float(value) for key, value in (part.split("=") for part in a.peak.split(",") if part)}
    return a


class Figures:
    """What was measured, by (threads, batch, tokens each) and subject."""

    def __init__(self, files):
        self.rows, self.about, run = collections.defaultdict(list), [], 0
        for file in files:
            with open(file, encoding="utf-8") as opened:
                for line in opened:
                    row = json.loads(line)
                    if "about" in row:
                        run += row["about"] == "run"
                        self.about.append(row)
                    else:
                        where = row["threads"], row["batch"], row["tokens"]
                        self.rows[where, row["subject"]].append({**row, "run": run})
        self.where = sorted({where for where, _ in self.rows}, key=lambda w: (w[0], w[2] == "mixed", len(w[2]), w[2], w[1]))
        self.subjects = list(dict.fromkeys(subject for _, subject in self.rows))

    def ms(self, where, subject):
        rows = self.rows.get((where, subject))
        return statistics.median(row["ms"] for row in rows) if rows else None

    def time(self, where, subject):
        disturbed = max(row["other_programs"] for row in self.rows[where, subject]) > DISTURBED
        return shown(self.ms(where, subject)) + ("*" if disturbed else "")

    def ratio(self, where, ours, other):
        rounds = [{(row["run"], i): ms for row in self.rows.get((where, subject), []) for i, ms in enumerate(row["round_ms"])}
                  for subject in (ours, other)]
        both = rounds[0].keys() & rounds[1].keys()
        return statistics.median(rounds[1][at] / rounds[0][at] for at in both) if both else None

    def share(self, where, subject, peaks):
        """Of its floor: the operations over unpadded tokens at the peak, over the time. Those of adapters do not count."""
        dtype, isa = (*subject.split("-")[1].split("+")[0].split("@"), "")[:2]
        stem = f"{dtype}@{isa}" if isa else dtype
        peak = peaks.get(f"{stem}@{where[0]}", peaks.get(stem))
        if not peak or not self.ms(where, subject):
            return None
        tokens = self.rows[where, subject][0]["all_tokens"]
        operations = tokens * LAYERS * 2 * (4 * WIDTH**2 + 2 * WIDTH * INNER) + LAYERS * 4 * WIDTH * tokens**2 / where[1]
        return operations / peak / 1e6 / self.ms(where, subject)


def title(subject):
    stem, _, variant = subject.partition("+")
    engine, _, rest = stem.partition("-")
    base, _, isa = rest.partition("@")
    words = [NAMES.get(engine, engine), base, *([isa] if isa else [])]
    return " ".join(words) + (f", {variant}" if variant else "")


def section(figures, about, peaks):
    """One program of ours, and beside it all others that the section names."""
    others = [name for name in about.others if name in figures.subjects]
    found = [where for where in figures.where if about.holds(where) and figures.ms(where, about.ours)
             and any(figures.ms(where, other) for other in others)]
    if not found:
        return
    print(f"## {about.title}\n")
    shares = {where: figures.share(where, about.ours, peaks) for where in found}
    of_floor = any(share for share in shares.values())
    body = []
    for where in found:
        cells = [f"{figures.time(where, other)} ms, **{shown(figures.ratio(where, about.ours, other))}**"
                 if figures.ms(where, other) else "" for other in others]
        floor = [shown(shares[where])] if of_floor else []
        body.append([*where[:2], "6 to 122" if where[2] == "mixed" else where[2],
                     figures.time(where, about.ours), *floor, *cells])
    table(["threads", "batch", "tokens each", f"{title(about.ours)} ms", *(["share of floor"] if of_floor else []),
           *map(title, others)], body)


def best(figures, where, ours, others):
    """The ratio to whoever is fastest of the others."""
    ratios = [r for r in (figures.ratio(where, ours, other) for other in others) if r]
    return min(ratios, default=None)


def verdict(value, aim):
    if aim is None:
        return "-"
    return f">= {aim:g}: " + ("met" if value >= aim else "**missed**")


def aims(figures):
    body, missing = [], []
    for about in SECTIONS:
        for aim in about.aims:
            points = {where: best(figures, where, about.ours, aim.others) for where in figures.where if about.counts(where)}
            points = {where: ratio for where, ratio in points.items() if ratio}
            label = f"{title(about.ours)} beside {aim.beside or title(aim.others[0])}"
            if about.mixed:
                label += ", mixed lengths"
            if not points:
                missing.append(label)
                continue
            mean = math.exp(statistics.fmean(math.log(ratio) for ratio in points.values()))
            where = min(points, key=points.get)
            body.append([label, len(points), shown(mean, 3), verdict(mean, aim.mean), shown(points[where], 3),
                         verdict(points[where], aim.point), f"{where[1]} x {where[2]}, threads: {where[0]}"])
    print("## Aims\n")
    table(["what", "points", "geometric mean", "aim", "worst point", "aim", "where"], body)
    if missing:
        print(f"Not run: {'; '.join(missing)}.\n")


def subjects(figures):
    print("## Who was measured, and how\n")
    body = []
    for subject in figures.subjects:
        rows = [row for (_, name), some in figures.rows.items() if name == subject for row in some]
        cosines = [row["cosine"] for row in rows if row["cosine"] is not None]
        ways = collections.Counter(row["way"] for row in rows if row["way"])
        body.append([title(subject), shown(min(cosines, default=None), 5), shown(max(row["other_programs"] for row in rows)),
                     shown(statistics.median(row["cores"] for row in rows)),
                     "; ".join(f"{way} ({count})" for way, count in ways.most_common())])
    table(["who", "lowest cosine", "most cores others used", "cores used", "ways, and how often each was the fastest"], body)


def main():
    a = arguments()
    figures = Figures(a.files)
    for row in figures.about:
        if row["about"] == "left out":
            where = ", ".join(f"{k}: {row[k]}" for k in ("threads", "batch", "tokens") if k in row)
            print(f"- left out: {row.get('subject')} ({where}): {row['error']}")
    hellos = {row["about"]: row for row in figures.about if row["about"] not in ("run", "left out")}
    for name, row in hellos.items():
        print(f"- {title(name)}: " + ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("about", "threads", "model")))
    print()
    for about in SECTIONS:
        section(figures, about, a.peak)
    aims(figures)
    subjects(figures)
    sums = [f"{dtype} {a.peak[dtype]:g}" for dtype in DTYPES if dtype in a.peak]
    if sums:
        print(f"Floor: operations over unpadded tokens at {', '.join(sums)} GFLOP/s.")


if __name__ == "__main__":
    main()
