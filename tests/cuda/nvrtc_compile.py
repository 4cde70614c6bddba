"""Compiles CUDA C++ kernels to machine code with NVRTC, without a GPU.

    nvrtc_compile.py FOLDER [ARCH...]        ARCH: real architectures, sm_80 and sm_90a without

Each FOLDER/*.cu is compiled for each architecture with the options that CubeCL's CUDA runtime (cubecl-cuda 0.11.3,
`compile_to_ptx`) passes on the machine with the GPU. That runtime takes the PTX and leaves the rest to the driver; here
NVRTC goes on to a cubin, so that the assembler has accepted the kernel for that card too. The one option more, `-v` for
the assembler, makes the log say what the kernel uses.

One line a kernel and architecture, the log of what failed, and `N of M compiled` at the end. Exit status 0 when all of at
least one compiled, 1 when something failed, 2 when nothing could be tried. Needs requirements.txt of this folder.
"""

import argparse
import ctypes
import importlib.util
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = ["sm_80", "sm_90a"]
PROCESSES = 2


class CannotRun(Exception):
    """Nothing can be compiled at all: the message says what to do."""


@dataclass
class Outcome:
    """What became of one kernel on one architecture."""

    summary: str
    log: str = ""
    failed: bool = False


def wheel(package: str) -> Path:
    """The folder of one of NVIDIA's wheels."""
    try:
        found = importlib.util.find_spec(f"nvidia.{package}")
    except ModuleNotFoundError:
        found = None
    if found is None or not found.submodule_search_locations:
        requirements = Path(__file__).with_name("requirements.txt")
        raise CannotRun(f"nvidia.{package} is not installed: {sys.executable} -m pip install -r {requirements}")
    return Path(found.submodule_search_locations[0])


class Nvrtc:
    """libnvrtc, as much of it as a compilation needs."""

    def __init__(self) -> None:
        libraries = wheel("cuda_nvrtc") / "lib"
        # NVRTC opens its built-in headers by their bare name, which the loader then knows already.
        compilers = sorted(path for path in libraries.glob("libnvrtc.so.*") if ".alt." not in path.name)
        if not compilers:
            raise CannotRun(f"no libnvrtc.so in {libraries}: this needs the wheels for Linux")
        try:
            for builtins in libraries.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            self.library = ctypes.CDLL(str(compilers[0]))
        except OSError as error:
            raise CannotRun(f"NVRTC cannot be loaded: {error}") from error
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
        # The wheels split what is one include folder in an installed toolkit; cuda_nvcc has the other half of mma.h.
        toolkit = ["cuda_runtime", "cuda_nvcc", "cuda_cccl"]
        self.includes = [f"--include-path={wheel(package) / 'include'}" for package in toolkit]

    def version(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.check(self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return f"{major.value}.{minor.value}"

    def options(self, architecture: str) -> list[str]:
        return [f"--gpu-architecture={architecture}", *self.includes, "-lineinfo"]

    def compile(self, source: bytes, architecture: str) -> Outcome:
        # A NUL would end the C string early and leave the rest unread.
        if b"\0" in source:
            return Outcome("the source has a NUL byte", failed=True)
        options = self.options(architecture)
        outcome = self.compile_with(source, [*options, "--ptxas-options=-v"])
        # The assembler does not say what is wrong when it says what is used.
        return self.compile_with(source, options) if outcome.failed and "ptxas" in outcome.log else outcome

    def compile_with(self, source: bytes, options: list[str]) -> Outcome:
        program = ctypes.c_void_p()
        self.check(self.library.nvrtcCreateProgram(ctypes.byref(program), source, None, 0, None, None))
        try:
            arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            status = self.library.nvrtcCompileProgram(program, len(options), arguments)
            log = self.text(program, "ProgramLog")
            if status != 0:
                return Outcome(self.library.nvrtcGetErrorString(status).decode(), log, failed=True)
            uses = resources(log)
            if not uses:
                return Outcome("no kernel in the source, or no real architecture", log, failed=True)
            if self.size(program, "PTX") <= 1:
                return Outcome("NVRTC gave no PTX, which the runtime loads", log, failed=True)
            cubin = self.size(program, "CUBIN")
            if cubin == 0:
                return Outcome("NVRTC gave no cubin", log, failed=True)
            return Outcome(f"cubin {cubin} B, {uses}", log)
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))

    def size(self, program: ctypes.c_void_p, what: str) -> int:
        size = ctypes.c_size_t()
        self.check(getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        return size.value

    def text(self, program: ctypes.c_void_p, what: str) -> str:
        buffer = ctypes.create_string_buffer(self.size(program, what))
        self.check(getattr(self.library, f"nvrtcGet{what}")(program, buffer))
        return buffer.value.decode(errors="replace")

    def check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(self.library.nvrtcGetErrorString(status).decode())


def resources(log: str) -> str:
    """What the assembler says each kernel uses; empty without a kernel. Shared memory is what is declared with a size."""
    patterns = {
        "registers": r"Used (\d+) registers",
        "B shared": r"(\d+) bytes smem",
        "B spilled": r"(\d+) bytes spill (?:stores|loads)",
    }
    found = []
    for kernel in log.split("Compiling entry function")[1:]:
        counts = {unit: sum(map(int, re.findall(pattern, kernel))) for unit, pattern in patterns.items()}
        found.append(", ".join(f"{count} {unit}" for unit, count in counts.items()))
    return "; ".join(found)


compiler: Nvrtc | None = None


def compile_file(path: Path, architecture: str) -> Outcome:
    """Runs in a process of the pool, each of which loads the library once."""
    global compiler
    compiler = compiler or Nvrtc()
    return compiler.compile(path.read_bytes(), architecture)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compiles FOLDER/*.cu with NVRTC, without a GPU.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("architectures", nargs="*", metavar="ARCH", default=ARCHITECTURES)
    arguments = parser.parse_args()

    kernels = sorted(arguments.folder.glob("*.cu"))
    if not kernels:
        raise CannotRun(f"no .cu file in {arguments.folder}: nothing was proved")
    nvrtc = Nvrtc()
    print(f"NVRTC {nvrtc.version()}: {' '.join(nvrtc.options('ARCH'))}", flush=True)

    tasks = [(kernel, architecture) for kernel in kernels for architecture in arguments.architectures]
    compiled = 0
    with ProcessPoolExecutor(PROCESSES) as pool:
        futures = [pool.submit(compile_file, *task) for task in tasks]
        for (kernel, architecture), future in zip(tasks, futures):
            try:
                outcome = future.result()
            except BrokenProcessPool:
                outcome = Outcome("not compiled: NVRTC took its process down, on this kernel or one near it", failed=True)
            except (OSError, RuntimeError) as error:
                outcome = Outcome(str(error), failed=True)
            word = "FAILED" if outcome.failed else "ok"
            print(f"{word:6} {architecture:7} {kernel.stem}: {outcome.summary}", flush=True)
            if outcome.failed:
                print("".join(f"    {line}\n" for line in outcome.log.splitlines() if line), end="", flush=True)
            compiled += not outcome.failed
    print(f"{compiled} of {len(tasks)} compiled")
    return 0 if compiled == len(tasks) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotRun as reason:
        print(f"NOT RUN: {reason}", file=sys.stderr)
        sys.exit(2)
