"""MiniLM on a GPU as others run it: each function gives a name and what is called to embed rows of ids.

`run(rows, adapters)` takes lists of ids on the host and gives normalised vectors on the host, as polylora's own bench does;
`adapters` is an adapter's number for each row where the peer has adapters.
"""
import torch

from peer_engines import mean_normalised

ADAPTERS = 13
TARGETS = {"q,v": ["query", "value"], "all-linear": ["query", "key", "value", "dense"]}


def bert(model, device, dtype, **options):
    from transformers import BertModel
    found = BertModel.from_pretrained(model, dtype=dtype, add_pooling_layer=False, attn_implementation="sdpa", **options)
    return found.eval().to(device)


def padded(rows, device, to=None):
    """Ids and mask, padded to the longest row or to a bucket, uploaded."""
    longest = to or max(len(row) for row in rows)
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, :len(row)] = torch.tensor(row)
        mask[i, :len(row)] = 1
    return ids.to(device, non_blocking=True), mask.to(device, non_blocking=True)


def embedder(model, device, bucket=None):
    """Rows to vectors through anything that is called as a BertModel."""
    def run(rows, _adapters, **options):
        with torch.inference_mode():
            ids, mask = padded(rows, device, bucket and bucket(max(len(row) for row in rows)))
            hidden = model(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids), **options)[0]
            return mean_normalised(hidden, mask).float().cpu()
    return run


def eager(model, device, dtype):
    return embedder(bert(model, device, dtype), device)


def compiled(model, device, dtype, mode):
    """torch.compile with static shapes: a graph for each batch and each length of 16, 32, 64, 128, 256."""
    inner = torch.compile(bert(model, device, dtype), mode=mode, dynamic=False)
    return embedder(inner, device, lambda longest: max(16, 1 << (longest - 1).bit_length()))


def peft_mixed(model, device, dtype, targets, rank):
    """PEFT's own batches of several adapters: `adapter_names`."""
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(4)
    names = [f"domain{i}" for i in range(ADAPTERS)]

    def config():
        return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS[targets], init_lora_weights=False)
    adapted = get_peft_model(bert(model, device, torch.float32), config(), adapter_name=names[0])
    for name in names[1:]:
        adapted.add_adapter(name, config())
    for name, values in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.uniform_(values.data, -0.02, 0.02)
    embed = embedder(adapted.to(device, dtype).eval(), device)
    return lambda rows, adapters: embed(rows, adapters, adapter_names=[names[i] for i in adapters])
