"""Whom `peers.py` measures: each in a process of its own, a JSON request a line, a JSON answer a line.

A subject's name is `ENGINE-DTYPE[@ISA][+VARIANT]`: `polylora-int8@avxvnni`, `ort-f32+sorted`. What differs only in its variant
shares a process.
"""
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
DISTURBED = 0.15  # cores that other programs may use during a turn
# What limits an engine to an instruction set; the other engines have nothing of the kind.
TORCH_LIMITS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
}


class Failed(Exception):
    """A subject did not start, ended, or could not do what was asked."""


@dataclasses.dataclass(frozen=True)
class Subject:
    name: str
    engine: str
    dtype: str
    isa: str
    variant: str

    @classmethod
    def of(cls, name):
        found = re.fullmatch(r"(?P<engine>\w+)-(?P<dtype>\w+)(@(?P<isa>\w+))?(\+(?P<variant>\w+))?", name)
        if not found:
            raise ValueError(f"{name}: a subject is ENGINE-DTYPE[@ISA][+VARIANT], as polylora-f32 or ort-int8+sorted")
        return cls(name, **{key: value or "" for key, value in found.groupdict().items()})

    @property
    def process(self):
        return self.name.split("+")[0]

    @property
    def ours(self):
        return self.engine == "polylora"

    @property
    def adapted(self):
        """Whether its texts have adapters."""
        return self.engine == "peft" or self.variant == "adapters"

    def check(self, hello):
        """That a program of ours computes as its subject's name says, and did not fall back to something else."""
        device = re.sub("[^a-z0-9]", "", hello.get("device", "").lower())
        if self.ours and self.isa not in device:
            raise Failed(f"it was to be limited to {self.isa} and says that it runs on {hello['device']}")
        if self.ours and hello.get("dtype", self.dtype) != self.dtype:
            raise Failed(f"it was to compute in {self.dtype} and says that it computes in {hello['dtype']}")

    def fits(self, batch, tokens):
        """Sorting changes nothing about texts of one length, or one text."""
        return self.variant != "sorted" or (tokens == "mixed" and batch > 1)


def environment(subject, threads):
    found = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "TRANSFORMERS_VERBOSITY": "error",
             "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"]:
        found[variable] = str(threads)
    for variable in ["POLYLORA_CPU_ISA", *TORCH_LIMITS["avx2"]]:
        found.pop(variable, None)
    if subject.isa and subject.ours:
        found["POLYLORA_CPU_ISA"] = subject.isa
    elif subject.isa and subject.engine == "torch" and subject.isa in TORCH_LIMITS:
        found.update(TORCH_LIMITS[subject.isa])
    elif subject.isa:
        raise Failed(f"{subject.engine} cannot be limited to {subject.isa}")
    return found


def command(subject, a, threads, adapters):
    if not subject.ours:
        isa = ["--isa", subject.isa] if subject.isa else []
        return [sys.executable, str(HERE / "peer_serve.py"), f"{subject.engine}-{subject.dtype}", "--model", a.model,
                "--cache", a.cache, "--threads", str(threads), *isa]
    found = [a.ours, "--model", a.model, "--threads", str(threads)]
    knows = "--dtype" in subprocess.run([a.ours, "--help"], capture_output=True, text=True, check=False).stdout
    if knows or subject.dtype != "f32":  # a program from before the option computes in f32
        found += ["--dtype", subject.dtype]
    for folder in adapters:
        found += ["--adapter", str(folder)]
    return found


class Process:
    def __init__(self, subject, a, threads, adapters=()):
        self.subject = subject
        self.inner = subprocess.Popen(command(subject, a, threads, adapters), env=environment(subject, threads),
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer(self):
        line = self.inner.stdout.readline()
        if not line:
            raise Failed(f"it ended with code {self.inner.wait()}")
        found = json.loads(line)
        if "error" in found:
            raise Failed(found["error"])
        return found

    def ask(self, **request):
        try:
            self.inner.stdin.write(json.dumps(request) + "\n")
            self.inner.stdin.flush()
        except BrokenPipeError:
            pass  # `answer` says how it ended
        return self.answer()

    def cpu_ticks(self):
        return ticks(self.inner.pid)

    def close(self):
        try:
            self.inner.stdin.close()
        except BrokenPipeError:
            pass
        self.inner.wait()


def ticks(pid):
    """Processor time that a process has used (Linux)."""
    try:
        fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0
    return int(fields[11]) + int(fields[12])


class Quiet:
    """How many cores programs other than the measured ones and this one used since the last question (Linux)."""

    def __init__(self, processes):
        self.processes, self.tick = processes, os.sysconf("SC_CLK_TCK")
        self.last = self.read()

    def read(self):
        system = [int(n) for n in open("/proc/stat").readline().split()[1:]]
        busy = sum(system[:3]) + sum(system[5:8])  # user, nice, system; interrupts and time stolen by the host
        busy -= ticks("self") + sum(process.cpu_ticks() for process in self.processes)
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
