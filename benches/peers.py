#!/usr/bin/env python3
"""polylora's lockstep program in turn with other ways to embed the same texts on the same CPU, all in f32.

Texts in, normalised vectors out, tokenising included. Everyone gets the same texts, no two alike within a batch. Each
figure is gathered in rounds; in a round everyone has one turn, in an order that is shuffled anew. One JSON object a line:
median, fastest and slowest pass in ms, how many passes, the ratio of our rate to the other's (above 1: we are faster),
the lowest cosine between our vectors and the other's, so that nobody is timed on other work, and the most cores that
other programs used during a turn: a turn that was disturbed is repeated, since threads that spin lose far more by it.
"""
import argparse
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import tempfile
import time
import warnings

from peer_engines import DOMAINS, onnx_runtime, peft_adapters, sentence_transformers, torch_plain

DISTURBED = 0.15  # cores that other programs may use during a turn


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="directory of all-MiniLM-L6-v2")
    p.add_argument("--ours", required=True, help="the lockstep program")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--batch", default="1,10,100")
    p.add_argument("--tokens", default="16,128,mixed")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=0.25, help="of each turn, about")
    p.add_argument("--tries", type=int, default=6, help="of a turn, when other programs use the CPU meanwhile")
    p.add_argument("--only", choices=["base", "adapters"])
    return p.parse_args()


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


class Ours:
    """The lockstep program: a request a line, an answer a line."""

    def __init__(self, a, adapters=()):
        command = [a.ours, "--model", a.model, "--threads", str(a.threads)]
        for folder in adapters:
            command += ["--adapter", str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hello = json.loads(self.process.stdout.readline())

    def turn(self, texts, adapters, seconds):
        request = {"texts": texts, "adapters": adapters, "seconds": seconds}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.tokens = answer["tokens"]
        return answer["ms"], answer["embeddings"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Quiet:
    """How many cores programs other than ours and this one used since the last question (Linux)."""

    def __init__(self, ours):
        self.ours, self.tick = ours, os.sysconf("SC_CLK_TCK")
        self.last = self.read()

    def read(self):
        system = [int(n) for n in open("/proc/stat").readline().split()[1:]]
        busy = sum(system[:3]) + sum(system[5:8])  # user, nice, system; interrupts and time stolen by the host
        for process in ["self", self.ours.process.pid]:
            fields = open(f"/proc/{process}/stat").read().rsplit(")", 1)[1].split()
            busy -= int(fields[11]) + int(fields[12])
        return busy / self.tick, time.perf_counter()

    def others(self):
        (busy, at), self.last = self.last, self.read()
        return max(0.0, (self.last[0] - busy) / (self.last[1] - at))

    def wait(self):
        """Until others are quiet for a second; a minute at most."""
        for _ in range(60):
            self.others()
            time.sleep(1)
            if self.others() <= DISTURBED:
                return


class Peer:
    """Anything in this process: `run(texts, adapters)` gives vectors."""

    def __init__(self, run):
        self.run = run

    def turn(self, texts, adapters, seconds):
        vectors = self.run(texts, adapters)
        self.run(texts, adapters)
        times, began = [], time.perf_counter()
        while len(times) < 2 or time.perf_counter() - began < seconds:
            start = time.perf_counter()
            self.run(texts, adapters)
            times.append((time.perf_counter() - start) * 1e3)
        return times, vectors


def compare(a, ours, peers, texts, tokens, adapters=None):
    """Everyone in turn on one batch."""
    import numpy as np
    everyone, times, vectors, others, quiet = {name: Peer(run) for name, run in peers.items()}, {}, {}, {}, Quiet(ours)
    everyone["polylora"] = ours
    for round_ in range(a.rounds):
        order = list(everyone)
        random.Random(round_).shuffle(order)
        for name in order:
            for _ in range(a.tries):
                time.sleep(0.25)  # threads of the one before stop spinning
                quiet.others()
                ms, vectors[name] = everyone[name].turn(texts, adapters, a.seconds)
                used = quiet.others()
                if used <= DISTURBED:
                    break
                quiet.wait()
            times.setdefault(name, []).extend(ms)
            others[name] = max(others.get(name, 0), used)
    our_vectors, our_ms = np.asarray(vectors["polylora"]), statistics.median(times["polylora"])
    for name, ms in times.items():
        median = statistics.median(ms)
        cosine = float((our_vectors * np.asarray(vectors[name])).sum(1).min())
        emit(peer=name, batch=len(texts), tokens=tokens, adapters=len(set(adapters or [])),
             all_tokens=ours.tokens, threads=a.threads, ms=round(median, 2),
             min=round(min(ms), 2), max=round(max(ms), 2), passes=len(ms), texts_s=round(len(texts) / median * 1e3, 1),
             ours_over_peer=round(median / our_ms, 2), cosine=round(cosine, 6), other_programs=round(others[name], 2))


def main():
    a = arguments()
    for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"]:
        os.environ[variable] = str(a.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    warnings.simplefilter("ignore")
    import torch
    torch.set_num_threads(a.threads)
    pool, sizes = Texts(a.model), [int(b) for b in a.batch.split(",")]

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if a.only != "adapters":
            peers = {}
            for make in [lambda: sentence_transformers(a), lambda: torch_plain(a), lambda: onnx_runtime(a, folder)]:
                try:
                    peers.update(make())
                except Exception as error:  # one that is not installed must not stop the others
                    emit(about="left out", error=f"{type(error).__name__}: {error}"[:300])
            ours = Ours(a)
            emit(about="polylora", **ours.hello)
            for tokens in a.tokens.split(","):
                for size in sizes:
                    compare(a, ours, peers, pool.batch(size, tokens), tokens)
            ours.close()
        if a.only != "base":
            peers, folders = peft_adapters(a, folder)
            ours = Ours(a, folders)
            for tokens in a.tokens.split(","):
                size = max(sizes)
                adapters = [i % DOMAINS for i in range(size)]
                compare(a, ours, peers, pool.batch(size, tokens), tokens, adapters)
            ours.close()


if __name__ == "__main__":
    main()
