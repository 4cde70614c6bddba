"""What `peer_table.py` lays side by side, and the ratios that polylora is to reach."""
import dataclasses
from typing import Optional

DTYPES = ["f32", "bf16", "int8"]
PEERS = {"f32": ["ort-f32", "ov-f32", "torch-f32"], "bf16": ["ov-bf16", "torch-bf16"], "int8": ["ort-int8"]}
PEFT = ["peft-f32+mixed", "peft-f32+domain", "peft-f32+serial", "peft-bf16+mixed"]


@dataclasses.dataclass(frozen=True)
class Aim:
    """What the ratio to the fastest of `others` is to be: its geometric mean, and at every point. None: it is only shown."""
    others: list[str]
    mean: Optional[float] = None
    point: Optional[float] = None
    beside: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    ours: str
    others: list[str]
    aims: list[Aim]
    mixed: Optional[bool] = None  # None: texts of one length and of mixed lengths

    def holds(self, where):
        return self.mixed is None or self.mixed == (where[2] == "mixed")

    def counts(self, where):
        """Whether an aim is about this point: a batch of one text has no mixed lengths."""
        return self.holds(where) and not (self.mixed and where[1] == 1)


def uniform(dtype, aims):
    sentences = ["st-f32"] if dtype == "f32" else []
    return Section(f"{dtype}, texts of one length", f"polylora-{dtype}", PEERS[dtype] + sentences, aims, mixed=False)


def mixed(dtype):
    # sentence-transformers sorts by itself.
    by_length = [f"{name}+sorted" for name in PEERS[dtype]] + (["st-f32"] if dtype == "f32" else [])
    aims = [Aim(by_length, 1.3, 1.3, "the best that sorts by length"), Aim(PEERS[dtype], 1.8, 1.8, "the best that does not")]
    return Section(f"{dtype}, mixed lengths", f"polylora-{dtype}", PEERS[dtype] + by_length, aims, mixed=True)


def adapters(dtype):
    ours, base = f"polylora-{dtype}+adapters", f"polylora-{dtype}"
    peft = "peft-bf16+mixed" if dtype == "bf16" else "peft-f32+mixed"
    aims = [Aim([peft], 5, 5), Aim([base], 0.92, 0.92, "its own base alone")]
    return Section(f"{dtype}, 13 adapters in a batch, rank 8 on all linear layers", ours, [base, *PEFT], aims)


SECTIONS = [
    uniform("f32", [Aim(["ort-f32"], 1.0, 0.9), Aim(["ov-f32"], None, 0.9)]),
    uniform("bf16", [Aim(["ov-bf16"], 1.4, 1.15), Aim(["torch-bf16"])]),
    uniform("int8", [Aim(["ort-int8"], 1.2, 1.2)]),
    *map(mixed, DTYPES),
    Section("f32, limited to AVX2", "polylora-f32@avx2", ["torch-f32@avx2"], [Aim(["torch-f32@avx2"], 0.9, 0.9)]),
    Section("int8 by AVX-VNNI beside f32 by AVX2", "polylora-int8@avxvnni", ["polylora-f32@avx2"],
            [Aim(["polylora-f32@avx2"], 2.5, 2.5)]),
    *map(adapters, DTYPES),
]
