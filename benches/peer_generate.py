#!/usr/bin/env python3
"""A text generator beside ours, in a process of its own: a JSON request a line, a JSON answer a line.

    peer_generate.py --engine transformers|vllm --llm DIR [--adapters DIR NAME..] --dtype bf16|f32 --threads N

`cargo bench -p polylora-benches --bench generate -- --peer-python PYTHON --vllm-python PYTHON` runs it. The first line it
writes says what the engine is, or `error`. With adapters, text after text goes through another one: PEFT's mixed batches,
vLLM's multi-LoRA. Request: {"prompts": [[id, ..], ..], "new": N}; greedy, no token ends a text. Answer: {"first_ms", "step_ms",
"tokens"}, `first_ms` of a run to one token, `step_ms` each of the others of a run to `new` tokens.
"""
import argparse
import os
import time

from peer_lines import serve

DTYPES = {"bf16": "bfloat16", "f32": "float32"}
MOST_RANK = 16
MOST_TEXTS = 16


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engine", choices=["transformers", "vllm"], required=True)
    p.add_argument("--llm", required=True, help="directory of the model")
    p.add_argument("--adapters", nargs="+", default=[], help="directory of PEFT folders, then their names")
    p.add_argument("--dtype", choices=list(DTYPES), required=True)
    p.add_argument("--threads", type=int, required=True)
    return p.parse_args()


def transformers(a, adapters):
    import torch
    import transformers
    torch.set_num_threads(a.threads)
    torch.set_grad_enabled(False)
    model = transformers.AutoModelForCausalLM.from_pretrained(a.llm, dtype=getattr(torch, DTYPES[a.dtype])).eval()
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    names = [f"a{number}" for number in range(len(adapters))]
    if adapters:
        import peft
        model = peft.PeftModel.from_pretrained(model, adapters[0], adapter_name=names[0]).eval()
        for name, folder in zip(names[1:], adapters[1:]):
            model.load_adapter(folder, adapter_name=name)
        versions = f"PEFT {peft.__version__}, {versions}"

    def run(prompts, new):
        ids = torch.tensor(prompts)
        through = {"adapter_names": [names[i % len(names)] for i in range(len(prompts))]} if names else {}
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=new,
                             max_new_tokens=new, eos_token_id=None, pad_token_id=0, **through)
        return out[:, ids.shape[1]:].tolist()
    return versions, run


def vllm(a, adapters):
    # The engine within this process: a second one that waits for work would take time from whoever's turn it is.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{a.threads - 1}")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import vllm
    from vllm.lora.request import LoRARequest
    lora = dict(enable_lora=True, max_loras=len(adapters), max_lora_rank=MOST_RANK) if adapters else {}
    model = vllm.LLM(a.llm, skip_tokenizer_init=True, dtype=DTYPES[a.dtype], max_model_len=2048, max_num_seqs=MOST_TEXTS,
                     enable_prefix_caching=False, disable_log_stats=True, **lora)

    def run(prompts, new):
        sampling = vllm.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        numbers = [i % len(adapters) for i in range(len(prompts))] if adapters else []
        through = [LoRARequest(f"a{n}", n + 1, adapters[n]) for n in numbers] or None
        out = model.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, lora_request=through,
                             use_tqdm=False)
        return [list(o.outputs[0].token_ids) for o in out]
    return f"vLLM {vllm.__version__}", run


def main():
    a = arguments()
    folder, *names = a.adapters or [""]
    adapters = [os.path.join(folder, name) for name in names]

    def begin():
        versions, run = {"transformers": transformers, "vllm": vllm}[a.engine](a, adapters)

        def timed(prompts, new):
            began = time.perf_counter()
            tokens = run(prompts, new)
            took = time.perf_counter() - began
            assert all(len(text) == new for text in tokens), [len(text) for text in tokens]
            return took, tokens

        def answer(prompts, new):
            first, _ = timed(prompts, 1)
            whole, tokens = timed(prompts, new)
            return {"first_ms": first * 1e3, "step_ms": (whole - first) / (new - 1) * 1e3, "tokens": tokens}
        return {"versions": versions}, answer
    serve(begin)


if __name__ == "__main__":
    main()
