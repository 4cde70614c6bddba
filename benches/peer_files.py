#!/usr/bin/env python3
"""What the others of `peers.py` load, made once and kept: the encoder as ONNX, fused and in int8, and LoRA adapters.

    peer_files.py MODEL CACHE onnx|adapters

A file's name holds a digest of the weights and the version of the package that made it, so that a stale one is never used.
The graphs give normalised vectors: pooling is inside, where the engines run it with all their threads.
"""
import contextlib
import functools
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
from importlib.metadata import version

ADAPTERS = 13
RANK = 8
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


@functools.cache
def digest(model):
    return hashlib.sha256(pathlib.Path(model, "model.safetensors").read_bytes()).hexdigest()[:12]


def onnx_paths(model, cache):
    """The graph as exported, fused by ONNX Runtime's optimiser, and that in int8."""
    stem, with_ = f"{digest(model)}-pooled", f"ort{version('onnxruntime')}"
    names = {"raw": f"{stem}-raw.onnx", "f32": f"{stem}-fused-{with_}.onnx", "int8": f"{stem}-int8-{with_}.onnx"}
    return {kind: str(pathlib.Path(cache) / name) for kind, name in names.items()}


def adapter_folders(model, cache):
    """Each a PEFT folder, rank 8 on all linear layers, random weights."""
    stem = pathlib.Path(cache) / f"{digest(model)}-adapters-r{RANK}"
    return [stem / f"domain{i}" for i in range(ADAPTERS)]


def bert(model, **options):
    import torch
    from transformers import BertModel
    return BertModel.from_pretrained(model, dtype=torch.float32, add_pooling_layer=False, **options).eval()


def make_onnx(model, cache):
    paths = onnx_paths(model, cache)
    if all(os.path.exists(path) for path in paths.values()):
        return
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = {kind: os.path.join(folder, os.path.basename(path)) for kind, path in paths.items()}
        export(model, made["raw"])
        fuse(made["raw"], made["f32"])
        quantise(made["f32"], made["int8"])
        for kind, path in paths.items():
            os.replace(made[kind], path)


def export(model, path):
    import torch

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = bert(model, attn_implementation="eager")

        def forward(self, input_ids, attention_mask, token_type_ids):
            hidden = self.inner(input_ids, attention_mask, token_type_ids)[0]
            mask = attention_mask.unsqueeze(1).to(hidden.dtype)
            # A product in place of masking and summing: it writes nothing as large as `hidden`. The norm takes the mean's
            # divisor out again.
            return torch.nn.functional.normalize((mask @ hidden).squeeze(1), dim=1)

    sample = torch.ones(2, 8, dtype=torch.int64)
    axes = {**{name: {0: "batch", 1: "tokens"} for name in INPUTS}, "vectors": {0: "batch"}}
    torch.onnx.export(Pooled(), (sample, sample, torch.zeros_like(sample)), path, input_names=INPUTS,
                      output_names=["vectors"], dynamic_axes=axes, opset_version=17, dynamo=False)


def fuse(source, path):
    from onnxruntime.transformers import optimizer
    graph = optimizer.optimize_model(source, model_type="bert", num_heads=12, hidden_size=384)
    fused = graph.get_fused_operator_statistics()
    if fused.get("Attention", 0) != 6 or fused.get("SkipLayerNormalization", 0) != 12:
        raise RuntimeError(f"the optimiser did not fuse the six layers, the figures would be unfair: {fused}")
    graph.save_model_to_file(path)


def quantise(source, path):
    from onnxruntime.quantization import QuantType, quantize_dynamic
    quantize_dynamic(source, path, weight_type=QuantType.QInt8, per_channel=True, extra_options={"DefaultTensorType": 1})


def make_adapters(model, cache):
    import torch
    from peft import LoraConfig, get_peft_model
    folders = adapter_folders(model, cache)
    if all((folder / "adapter_model.safetensors").exists() for folder in folders):
        return
    torch.manual_seed(4)

    def config():
        return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["query", "key", "value", "dense"],
                          init_lora_weights=False)
    peft = get_peft_model(bert(model), config(), adapter_name=folders[0].name)
    for folder in folders[1:]:
        peft.add_adapter(folder.name, config())
    for name, values in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.uniform_(values.data, -0.02, 0.02)
    with tempfile.TemporaryDirectory(dir=cache) as made:
        peft.save_pretrained(made)
        shutil.rmtree(folders[0].parent, ignore_errors=True)
        folders[0].parent.mkdir()
        for folder in folders:
            os.replace(os.path.join(made, folder.name), folder)


def main():
    model, cache, kind = sys.argv[1:]
    pathlib.Path(cache).mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        {"onnx": make_onnx, "adapters": make_adapters}[kind](model, cache)


if __name__ == "__main__":
    main()
