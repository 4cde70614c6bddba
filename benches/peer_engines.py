"""The others that `peers.py` measures: each function gives names and what is called to embed texts.

`run(texts, adapters)` gives normalised vectors; `adapters` is a domain's number for each text where the peer has adapters.
"""
import contextlib
import os

DOMAINS = 13
RANK = 8


def mean_normalised(hidden, mask):
    import torch
    mask = mask.unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


class Tokenizer:
    """The model's own tokenizer, padding to the longest of the batch."""

    def __init__(self, model):
        import tokenizers
        self.inner = tokenizers.Tokenizer.from_file(f"{model}/tokenizer.json")
        self.inner.enable_truncation(256)
        self.inner.enable_padding()

    def __call__(self, texts):
        import numpy as np
        found = self.inner.encode_batch(texts)
        ids = np.array([f.ids for f in found], dtype=np.int64)
        mask = np.array([f.attention_mask for f in found], dtype=np.int64)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def bert(model, **options):
    import torch
    from transformers import BertModel
    return BertModel.from_pretrained(model, dtype=torch.float32, add_pooling_layer=False, **options).eval()


def tensors(found):
    import torch
    return {name: torch.from_numpy(values) for name, values in found.items()}


def sentence_transformers(a):
    """As its users call it, but all in one batch where that is faster than its default of 32."""
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(a.model, device="cpu")

    def of(batch_size):
        return lambda texts, _: model.encode(texts, batch_size=batch_size, normalize_embeddings=True)
    return {"sentence-transformers": of(32), "sentence-transformers, batch_size=128": of(128)}


def torch_plain(a):
    import torch
    tokenizer, model = Tokenizer(a.model), bert(a.model)

    def run(texts, _):
        with torch.inference_mode():
            found = tensors(tokenizer(texts))
            return mean_normalised(model(**found)[0], found["attention_mask"]).numpy()
    return {"torch": run}


def onnx_runtime(a, folder):
    """The encoder exported once, its attention and norms fused by ONNX Runtime's own optimiser."""
    import numpy as np
    import onnxruntime
    import torch
    from onnxruntime.transformers import optimizer

    class LastHidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = bert(a.model, attn_implementation="eager")

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.inner(input_ids, attention_mask, token_type_ids)[0]

    names, sample = ["input_ids", "attention_mask", "token_type_ids"], torch.ones(2, 8, dtype=torch.int64)
    axes = {name: {0: "batch", 1: "tokens"} for name in [*names, "hidden"]}
    raw, fused = str(folder / "raw.onnx"), str(folder / "fused.onnx")
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        torch.onnx.export(LastHidden(), (sample, sample, torch.zeros_like(sample)), raw, input_names=names,
                          output_names=["hidden"], dynamic_axes=axes, opset_version=17, dynamo=False)
    graph = optimizer.optimize_model(raw, model_type="bert", num_heads=12, hidden_size=384)
    graph.save_model_to_file(fused)
    if graph.get_fused_operator_statistics().get("Attention", 0) != 6:
        raise RuntimeError("the optimiser did not fuse the six attentions: the figures would be unfair")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = a.threads
    engine = onnxruntime.InferenceSession(fused, settings, providers=["CPUExecutionProvider"])
    wanted, tokenizer = {i.name for i in engine.get_inputs()}, Tokenizer(a.model)

    def run(texts, _):
        found = tokenizer(texts)
        hidden = engine.run(None, {k: v for k, v in found.items() if k in wanted})[0]
        mask = found["attention_mask"][:, :, None].astype(np.float32)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return {"onnxruntime": run}


def peft_adapters(a, folder):
    """13 adapters with random weights on every linear layer, and PEFT's three ways to serve a batch of all of them."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(4)
    names = [f"domain{i}" for i in range(DOMAINS)]

    def config():
        return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["query", "key", "value", "dense"],
                          init_lora_weights=False)
    model = get_peft_model(bert(a.model), config(), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config())
    for name, values in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.uniform_(values.data, -0.02, 0.02)
    model.save_pretrained(folder)
    model.eval()
    tokenizer = Tokenizer(a.model)

    def forward(texts, **options):
        with torch.inference_mode():
            found = tensors(tokenizer(texts))
            return mean_normalised(model(**found, **options)[0], found["attention_mask"]).numpy()

    def mixed(texts, adapters):
        return forward(texts, adapter_names=[names[i] for i in adapters])

    def domain(texts, adapters):
        vectors = np.empty((len(texts), 384), dtype=np.float32)
        for d in sorted(set(adapters)):
            rows = [i for i, other in enumerate(adapters) if other == d]
            model.set_adapter(names[d])
            vectors[rows] = forward([texts[i] for i in rows])
        return vectors

    def serial(texts, adapters):
        vectors = []
        for text, d in zip(texts, adapters):
            model.set_adapter(names[d])
            vectors.append(forward([text])[0])
        return np.stack(vectors)
    peers = {"PEFT, mixed": mixed, "PEFT, by domain": domain, "PEFT, one by one": serial}
    return peers, [folder / name for name in names]
