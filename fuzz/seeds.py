"""Writes first inputs for the fuzz targets into DIR/TARGET, from the tests' fixtures and a few lines here.

    python3 fuzz/seeds.py DIR

A fuzzer that begins with whole adapters, bodies and sentences changes them, where one that begins with nothing has to
find JSON first. Standard library only.
"""

import json
import struct
import sys
from pathlib import Path

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
# As fuzz/src/tiny_base.rs has them: module, inputs, outputs.
MODULES = {
    "attention.self.query": (8, 8),
    "attention.self.key": (8, 8),
    "attention.self.value": (8, 8),
    "attention.output.dense": (8, 8),
    "intermediate.dense": (8, 16),
    "output.dense": (16, 8),
}
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query", "value"]}
BODIES = [
    {"input": "a text", "model": "base"},
    {"input": ["one", "two"], "model": "law", "encoding_format": "base64"},
    {"input": [1, 2, 3], "dimensions": 4, "user": "u"},
    {"input": [[1, 2], [3]], "lora_name": "law", "truncate_prompt_tokens": -1},
    {"input": "x", "lora_request": {"lora_name": "law", "lora_int_id": 1}, "prompt_name": "query"},
    {"input": None, "model": None, "encoding_format": "float"},
]


def tensors(modules, rank, dtype="F32", dora=False, bias=False):
    """An adapter's tensors: name to dtype, shape and bytes."""
    size, one = {"F32": (4, struct.pack("<f", 0.5)), "F16": (2, b"\x00\x38"), "BF16": (2, b"\x00\x3f")}[dtype]
    found = {}
    for layer in range(2):
        for module in modules:
            inputs, outputs = MODULES[module]
            name = f"base_model.model.encoder.layer.{layer}.{module}."
            shapes = {"lora_A.weight": [rank, inputs], "lora_B.weight": [outputs, rank]}
            if dora:
                shapes["lora_magnitude_vector"] = [outputs]
            if bias:
                shapes["bias"] = [outputs]
            for part, shape in shapes.items():
                count = shape[0] * (shape[1] if len(shape) > 1 else 1)
                found[name + part] = (dtype, shape, one * count)
    return found


def safetensors(found):
    """Header and data."""
    header, data = {}, b""
    for name, (dtype, shape, values) in found.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    return json.dumps(header, separators=(",", ":")).encode(), data


def adapters():
    """Configurations and tensors that belong together."""
    qv = ["attention.self.query", "attention.self.value"]
    yield PLAIN, tensors(qv, 2)
    yield PLAIN | {"use_rslora": True, "target_modules": "all-linear"}, tensors(MODULES, 2, "F16")
    yield PLAIN | {"use_dora": True}, tensors(qv, 2, dora=True)
    yield PLAIN | {"bias": "lora_only"}, tensors(qv, 2, "BF16", bias=True)
    yield PLAIN | {"target_modules": ".*layer\\.\\d+\\.attention\\.self\\.(query|value)"}, tensors(qv, 2)
    yield PLAIN | {"r": 1, "rank_pattern": {"query": 2, "value": 2}, "alpha_pattern": {"query": 3.5}}, tensors(qv, 2)
    yield PLAIN | {"exclude_modules": ["value"], "layers_to_transform": [0, 1]}, tensors(qv[:1], 2)


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def main(into):
    for number, (config, found) in enumerate(adapters()):
        text, (header, data) = json.dumps(config).encode(), safetensors(found)
        weights = struct.pack("<Q", len(header)) + header + data
        write(into / "peft_folder", f"own-{number}", struct.pack("<H", len(text)) + text + weights)
        write(into / "tensor_header", f"own-{number}", struct.pack("<H", len(data)) + header)
    for folder in sorted(FIXTURES.glob("minilm/*/*/")):
        config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
        text = config.read_bytes() if config.is_file() else b""
        write(into / "peft_folder", folder.name, struct.pack("<H", len(text)) + text)
        if weights.is_file() and weights.stat().st_size >= 8:
            head = weights.read_bytes()[:8192]
            length = min(struct.unpack("<Q", head[:8])[0], len(head) - 8)
            write(into / "tensor_header", folder.name, b"\0\0" + head[8 : 8 + length])
    for number, body in enumerate(BODIES):
        write(into / "openai_body", f"own-{number}", json.dumps(body).encode())
    sentences = json.loads((FIXTURES / "encoders" / "sentences.json").read_text())
    for number, sentence in enumerate(s for s in sentences if isinstance(s, str)):
        write(into / "word_piece", f"sentence-{number}", bytes([number * 7 % 256]) + sentence.encode())
    # Read as numbers, any bytes are a layer.
    for target in ["linear", "attention"]:
        for number in range(8):
            write(into / target, f"own-{number}", bytes((i * (2 * number + 1) + number) % 256 for i in range(64)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
