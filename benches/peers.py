#!/usr/bin/env python3
"""polylora's lockstep program in turn with other ways to embed the same texts on the same CPU.

Texts in, normalised vectors out, tokenising included. Everyone gets the same texts, no two alike, and has a process of its
own. Each figure is gathered in rounds; in a round everyone has one turn, in an order that is shuffled anew. One JSON object a
line: median, fastest and slowest pass in ms, how many passes, the median of each round, the lowest cosine to the vectors of
sentence-transformers in f32 (with adapters: of PEFT), so that nobody is timed on other work, the cores it used, and the most
that other programs used during a turn: a turn that was disturbed is repeated, since threads that spin lose far more by it.
peer_table.py makes tables of them.

A subject is ENGINE-DTYPE[@ISA][+VARIANT]:
  polylora-f32 -bf16 -int8, +adapters (13 of rank 8 on all linear layers in a batch), @avx2 ... as POLYLORA_CPU_ISA has them
  ort-f32 -int8 (ONNX Runtime), ov-f32 -bf16 (OpenVINO), torch-f32 -bf16 (@avx2, @avx512), st-f32 (sentence-transformers)
  +sorted of ort, ov, torch: sorted by length, in buckets of the best size; timed where lengths are mixed
  peft-f32 -bf16: +mixed, +domain, +serial
Those with adapters are timed at the largest batch.
"""
import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time

from peer_files import ADAPTERS, adapter_folders
from peer_process import DISTURBED, HERE, Failed, Process, Quiet, Subject

OURS = "polylora-f32,polylora-bf16,polylora-int8"
ENGINES = "ort-f32,ov-f32,ov-bf16,torch-bf16,ort-int8"
SORTED = ",".join(f"{name}+sorted" for name in ENGINES.split(","))
PEFT = ("polylora-f32+adapters,polylora-bf16+adapters,polylora-int8+adapters,"
        "peft-f32+mixed,peft-f32+domain,peft-f32+serial,peft-bf16+mixed")
DEFAULTS = {"subjects": f"{OURS},{ENGINES},torch-f32,st-f32,{SORTED},{PEFT}", "threads": str(os.cpu_count()),
            "batch": "1,10,100", "tokens": "16,128,mixed"}
PRESETS = {
    "library": {"subjects": f"{OURS},{ENGINES},{SORTED}", "threads": "1,2", "batch": "1,10,32,100"},
    "avx2": {"subjects": "polylora-f32@avx2,torch-f32@avx2,polylora-int8@avxvnni", "threads": "1,2",
             "batch": "1,10,32,100", "tokens": "16,128"},
    "adapters": {"subjects": f"{OURS},{PEFT}", "batch": "100"},
}
REFERENCES = {False: "st-f32", True: "peft-f32+mixed"}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="directory of all-MiniLM-L6-v2")
    p.add_argument("--ours", required=True, help="the lockstep program")
    p.add_argument("--cache", required=True, help="directory for graphs and adapters that are made once")
    p.add_argument("--preset", choices=PRESETS, help="what the options below are where they are not given")
    p.add_argument("--subjects", help=f"comma list [{DEFAULTS['subjects']}]")
    p.add_argument("--threads", help=f"of everyone, comma list [{DEFAULTS['threads']}]")
    p.add_argument("--batch", help=f"comma list [{DEFAULTS['batch']}]")
    p.add_argument("--tokens", help=f"comma list [{DEFAULTS['tokens']}]; mixed: 6 to 122")
    p.add_argument("--only", choices=["base", "adapters"], help="of the subjects, those without or with adapters")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=0.25, help="of each turn, about")
    p.add_argument("--tries", type=int, default=6, help="of a turn, when other programs use the CPU meanwhile")
    a = p.parse_args()
    for option, value in {**DEFAULTS, **PRESETS.get(a.preset, {})}.items():
        given = getattr(a, option)
        setattr(a, option, (value if given is None else given).split(","))
    a.threads, a.batch = [int(n) for n in a.threads], [int(n) for n in a.batch]
    try:
        a.subjects = [Subject.of(name) for name in a.subjects]
    except ValueError as error:
        p.error(str(error))
    if a.only:
        # Beside adapters, the base of the same program says what they cost.
        a.subjects = [s for s in a.subjects if s.adapted == (a.only == "adapters") or (a.only == "adapters" and s.ours)]
    return a


def emit(**row):
    print(json.dumps(row), flush=True)


class Texts:
    """Texts of words that the tokenizer takes as one token each."""

    def __init__(self, model):
        vocabulary = json.load(open(f"{model}/tokenizer.json", encoding="utf-8"))["model"]["vocab"]
        self.words = sorted(w for w in vocabulary if re.fullmatch("[a-z]{3,9}", w))
        self.random, self.given = random.Random(3), set()

    def batch(self, count, tokens):
        lengths = [self.random.randint(6, 122) if tokens == "mixed" else int(tokens) for _ in range(count)]
        return [self.text(length - 2) for length in lengths]

    def text(self, words):
        while True:
            text = " ".join(self.random.choices(self.words, k=words))
            if text not in self.given:
                self.given.add(text)
                return text


class Running:
    """The subjects' processes at one number of threads."""

    def __init__(self, a, threads):
        wanted, self.processes = {s.process: s for s in a.subjects}, {}
        for adapted in {s.adapted for s in a.subjects}:
            reference = Subject.of(REFERENCES[adapted])
            wanted.setdefault(reference.process, reference)
        with_adapters = {s.process for s in a.subjects if s.ours and s.adapted}
        for name, subject in wanted.items():
            try:
                folders = adapter_folders(a.model, a.cache) if name in with_adapters else []
                self.processes[name] = Process(subject, a, threads, folders)
            except (Failed, OSError) as error:
                emit(about="left out", subject=name, threads=threads, error=str(error))
        for name, process in list(self.processes.items()):
            try:
                hello = process.answer()
                process.subject.check(hello)
                emit(about=name, threads=threads, **{k: v for k, v in hello.items() if k != "threads"})
            except Failed as error:
                self.drop(name, str(error), threads=threads)

    def drop(self, name, error, **where):
        emit(about="left out", subject=name, error=error, **where)
        self.processes.pop(name).close()

    def close(self):
        for process in self.processes.values():
            process.close()


class Batch:
    """Everyone on the same texts."""

    def __init__(self, a, running, threads, tokens, texts):
        self.a, self.running, self.texts = a, running, texts
        self.adapters = [i % ADAPTERS for i in range(len(texts))]
        self.tokens = sum(len(text.split()) + 2 for text in texts)
        self.where = {"threads": threads, "batch": len(texts), "tokens": tokens}
        self.shape, self.vectors, self.ways = f"{len(texts)} of {tokens}", {}, {}

    def ask(self, subject, **request):
        adapters = self.adapters if subject.adapted else None
        if not subject.ours:
            request.update(variant=subject.variant, shape=self.shape)
        return self.running.processes[subject.process].ask(texts=self.texts, adapters=adapters, **request)

    def prepare(self, subject, timed):
        """The vectors, and of the ways that it has the fastest here. Ours gives its vectors with every turn."""
        if not subject.ours:
            answer = self.ask(subject, prepare=True, trials=timed)
            self.vectors[subject.name], self.ways[subject.name] = answer["embeddings"], answer["way"]

    def turn(self, subject, quiet):
        """The times, cores that it used, cores that others used: of the least disturbed try."""
        best = None
        for left in reversed(range(self.a.tries)):
            time.sleep(0.25)  # threads of the one before stop spinning
            quiet.others()
            process, began = self.running.processes[subject.process], time.perf_counter()
            before = process.cpu_ticks()
            answer = self.ask(subject, seconds=self.a.seconds)
            cores = (process.cpu_ticks() - before) / quiet.tick / (time.perf_counter() - began)
            used = quiet.others()
            if best is None or used < best[2]:
                best = answer["ms"], cores, used
            if used <= DISTURBED or not left:
                break
            quiet.wait()
        if subject.ours:
            self.vectors[subject.name] = answer["embeddings"]
            if answer["tokens"] != self.tokens:
                raise Failed(f"it counts {answer['tokens']} tokens where there are {self.tokens}")
        return best

    def measure(self, subjects):
        quiet, turns, left = Quiet(self.running.processes.values()), {s: [] for s in subjects}, set()
        references = [Subject.of(REFERENCES[adapted]) for adapted in sorted({s.adapted for s in subjects})]

        def attempt(subject, what):
            if subject.process in self.running.processes and subject.name not in left:
                try:
                    return what()
                except Failed as error:
                    left.add(subject.name)
                    emit(about="left out", subject=subject.name, error=str(error), **self.where)
            return None
        for subject in dict.fromkeys([*subjects, *references]):
            attempt(subject, lambda: self.prepare(subject, subject in subjects))
        for round_ in range(self.a.rounds):
            order = list(subjects)
            random.Random(round_).shuffle(order)
            for subject in order:
                turns[subject].append(attempt(subject, lambda: self.turn(subject, quiet)))
        for subject in subjects:
            if turns[subject] and all(turns[subject]):
                self.report(subject, turns[subject])

    def report(self, subject, turns):
        import numpy as np
        ms, reference = [t for turn in turns for t in turn[0]], REFERENCES[subject.adapted]
        cosine = None
        if reference in self.vectors and subject.name in self.vectors:
            ours = np.asarray(self.vectors[subject.name])
            cosine = round(float((ours * np.asarray(self.vectors[reference])).sum(1).min()), 6)
        median = statistics.median(ms)
        emit(subject=subject.name, **self.where, adapters=len(set(self.adapters)) if subject.adapted else 0,
             all_tokens=self.tokens, ms=round(median, 3), min=round(min(ms), 3), max=round(max(ms), 3), passes=len(ms),
             round_ms=[round(statistics.median(turn[0]), 3) for turn in turns],
             texts_s=round(len(self.texts) / median * 1e3, 1), cosine=cosine, cosine_to=reference,
             cores=round(statistics.median(turn[1] for turn in turns), 2),
             other_programs=round(max(turn[2] for turn in turns), 2), way=self.ways.get(subject.name))


def cpu():
    names = re.findall("model name\\s*: (.*)", open("/proc/cpuinfo").read())
    return names[0] if names else platform.processor()


def main():
    a, kinds = arguments(), set()
    kinds.update("adapters" for s in a.subjects if s.adapted)
    kinds.update("onnx" for s in a.subjects if s.engine in ("ort", "ov"))
    emit(about="run", cpu=cpu(), cores=os.cpu_count(), command=sys.argv[1:])
    for kind in sorted(kinds):  # a failure shows where the file is loaded
        subprocess.run([sys.executable, str(HERE / "peer_files.py"), a.model, a.cache, kind], check=False)
    pool = Texts(a.model)
    for threads in a.threads:
        running = Running(a, threads)
        for tokens in a.tokens:
            for size in a.batch:
                subjects = [s for s in a.subjects if s.fits(size, tokens) and (not s.adapted or size == max(a.batch))]
                if subjects:
                    Batch(a, running, threads, tokens, pool.batch(size, tokens)).measure(subjects)
        running.close()


if __name__ == "__main__":
    main()
