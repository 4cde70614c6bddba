"""The others that `peers.py` measures, by name: PyTorch, sentence-transformers, ONNX Runtime, OpenVINO and PEFT.

An engine has `ways(variant, count)`: names of ways to embed `count` texts, and for each what is called, `run(texts, adapters)`,
which gives normalised vectors in the order of the texts. Where it has several (a hint, a size of bucket), whoever measures
keeps the fastest. `hello` is what there is to know about it.
"""
import os

import numpy as np

from peer_files import bert, onnx_paths

BUCKETS = [4, 8, 16, 32]
CAPABILITY = {"avx2": "AVX2", "avx512": "AVX512"}  # as PyTorch names what it was limited to


class Tokenizer:
    """The model's own tokenizer. Ids are padded here, so that texts can be put into buckets first."""

    def __init__(self, model):
        import tokenizers
        self.inner = tokenizers.Tokenizer.from_file(f"{model}/tokenizer.json")
        self.inner.enable_truncation(256)
        self.inner.no_padding()

    def __call__(self, texts):
        return [found.ids for found in self.inner.encode_batch_fast(texts)]


def padded(rows):
    """The three inputs of the encoder, padded to the longest."""
    ids = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, :len(row)], mask[at, :len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


class Padding:
    """An engine that takes padded batches.

    `forwards`: by name, how many batches it computes at a time, and what is called with a list of batches for a list of
    vectors. The variant `sorted` sorts by length and cuts buckets, so that little is padded.
    """

    def __init__(self, model, forwards, hello):
        self.tokenizer, self.forwards, self.hello = Tokenizer(model), forwards, hello

    def ways(self, variant, count):
        if variant not in ("", "sorted"):
            raise ValueError(f"no such variant: {variant}")
        if variant == "sorted":
            sizes = [size for size in BUCKETS if size < count] or [count]
            return {f"{name}, buckets of {size}": self.way(forward, size, True)
                    for name, (_, forward) in self.forwards.items() for size in sizes}
        return {name: self.way(forward, -(-count // at_a_time), False)
                for name, (at_a_time, forward) in self.forwards.items() if at_a_time <= count}

    def way(self, forward, size, by_length):
        def run(texts, _):
            rows = self.tokenizer(texts)
            order = list(range(len(rows)))
            if by_length:
                order.sort(key=lambda i: -len(rows[i]))  # the longest first: what is left for the end is short
            buckets = [order[at:at + size] for at in range(0, len(order), size)]
            found = forward([padded([rows[i] for i in bucket]) for bucket in buckets])
            vectors = np.empty((len(rows), found[0].shape[1]), dtype=np.float32)
            for bucket, some in zip(buckets, found):
                vectors[bucket] = some
            return vectors
        return run


def mean_normalised(hidden, mask):
    """The mean's divisor is left out: the norm takes it out again."""
    import torch
    return torch.nn.functional.normalize((mask.unsqueeze(1).to(hidden.dtype) @ hidden).squeeze(1).float(), dim=1)


def torch_plain(a, dtype):
    import torch

    def forward(model, autocast):
        def run(batches):
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                found = [{name: torch.from_numpy(values) for name, values in batch.items()} for batch in batches]
                return [mean_normalised(model(**batch)[0], batch["attention_mask"]).numpy() for batch in found]
        return run
    model = bert(a.model)
    if dtype == "bf16":
        forwards = {"bfloat16": (1, forward(bert(a.model).to(torch.bfloat16), False)), "autocast": (1, forward(model, True))}
    else:
        forwards = {"float32": (1, forward(model, False))}
    capability = torch.backends.cpu.get_cpu_capability()
    if a.isa and capability != CAPABILITY[a.isa]:
        raise RuntimeError(f"PyTorch was to be limited to {a.isa} and uses {capability}")
    return Padding(a.model, forwards, {"torch": torch.__version__, "isa": capability})


class SentenceTransformers:
    """As its users call it; it sorts by length and cuts batches by itself."""

    def __init__(self, a, _):
        import sentence_transformers
        self.model = sentence_transformers.SentenceTransformer(a.model, device="cpu")
        self.hello = {"sentence-transformers": sentence_transformers.__version__}

    def ways(self, _, count):
        def of(size):
            return lambda texts, _: self.model.encode(texts, batch_size=size, normalize_embeddings=True,
                                                      show_progress_bar=False)
        return {f"batch_size={size}": of(size) for size in ([32, 128] if count > 32 else [32])}


def onnx_runtime(a, dtype):
    import onnxruntime
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = a.threads
    path = onnx_paths(a.model, a.cache)[dtype]
    engine = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    wanted = [i.name for i in engine.get_inputs()]

    def run(batches):
        return [engine.run(None, {name: batch[name] for name in wanted})[0] for batch in batches]
    return Padding(a.model, {"whole": (1, run)}, {"onnxruntime": onnxruntime.__version__, "graph": os.path.basename(path)})


def openvino(a, dtype):
    from peer_openvino import engines
    forwards, hello = engines(a, dtype)
    return Padding(a.model, forwards, hello)


def peft(a, dtype):
    from peer_adapters import Peft
    return Peft(a, dtype)


ENGINES = {
    "st-f32": SentenceTransformers,
    "torch-f32": torch_plain, "torch-bf16": torch_plain,
    "ort-f32": onnx_runtime, "ort-int8": onnx_runtime,
    "ov-f32": openvino, "ov-bf16": openvino,
    "peft-f32": peft, "peft-bf16": peft,
}
