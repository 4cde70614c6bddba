#!/usr/bin/env python3
"""Writes the example adapters: PEFT directories for all-MiniLM-L6-v2 with RANDOM weights.

They show the format and the serving of several domains at once; they know nothing of medicine, law or code.
Only the standard library is used; the same script gives the same bytes.
"""
import json
import pathlib
import random
import struct

LAYERS, WIDTH = 6, 384
ADAPTERS = {  # name: (rank, alpha, target modules, seed)
    "medical": (4, 8, ["query", "value"], 1),
    "law": (2, 4, ["key", "query", "value"], 2),
    "programming": (8, 16, ["value"], 3),
}
OUT = pathlib.Path(__file__).parent / "adapters"


def half(values):
    return struct.pack(f"<{len(values)}e", *values)


def write(name, rank, alpha, targets, seed):
    rng = random.Random(seed)
    tensors = {}
    for layer in range(LAYERS):
        for target in targets:
            module = f"base_model.model.encoder.layer.{layer}.attention.self.{target}"
            a = [rng.uniform(-0.05, 0.05) for _ in range(rank * WIDTH)]
            b = [rng.uniform(-0.05, 0.05) for _ in range(WIDTH * rank)]
            tensors[f"{module}.lora_A.weight"] = ([rank, WIDTH], half(a))
            tensors[f"{module}.lora_B.weight"] = ([WIDTH, rank], half(b))
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for key in sorted(tensors):
        shape, raw = tensors[key]
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = {
        "base_model_name_or_path": "sentence-transformers/all-MiniLM-L6-v2",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": targets,
        "task_type": "FEATURE_EXTRACTION",
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


for name, arguments in ADAPTERS.items():
    write(name, *arguments)
