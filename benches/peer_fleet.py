#!/usr/bin/env python3
"""PEFT with the adapters of the fleet bench, in a process of its own: a JSON request a line, a JSON answer a line.

    peer_fleet.py --model DIR --adapters DIR --count N --threads N

`cargo bench -p polylora-benches --bench fleet -- --peer-python PYTHON` runs it, PYTHON being that of the environment that
benches/peers.sh makes. The first N folders of the adapters are loaded before the first line is written, which says what PEFT
and torch are, or `error`. Requests, in all of which `names` and `texts` are gone round:

  {"do": "load", "names", "texts"}     each adapter is dropped, loaded, made active, and asked for two texts, by either way to
                                       load: {"default": [{"load", "first", "next"}], "low_cpu_mem_usage": [..]} in ms;
                                       `first` is from before the load to the first vector
  {"do": "switch", "names"}            {"ms": [..]} of set_adapter
  {"do": "serial", "names", "texts", "seconds"}          set_adapter and a pass for each text: {"texts", "seconds"}
  {"do": "mixed", "names", "texts", "seconds", "batch"}  one pass with adapter_names for each batch: likewise
"""
import argparse
import itertools
import pathlib
import time

from peer_lines import serve

WAYS = {"default": {}, "low_cpu_mem_usage": {"low_cpu_mem_usage": True}}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="directory of all-MiniLM-L6-v2")
    p.add_argument("--adapters", required=True, help="directory of PEFT folders adapter-0, adapter-1, ..")
    p.add_argument("--count", type=int, required=True, help="adapters that are loaded")
    p.add_argument("--threads", type=int, required=True)
    return p.parse_args()


def since(began):
    return (time.perf_counter() - began) * 1e3


class Fleet:
    def __init__(self, a):
        import peft
        import torch
        from peer_engines import Tokenizer
        from peer_files import bert
        torch.set_num_threads(a.threads)
        self.folder, self.tokenizer = pathlib.Path(a.adapters), Tokenizer(a.model)
        # One that is never dropped: PEFT needs an adapter that is active.
        self.stays = "adapter-0"
        self.model = peft.PeftModel.from_pretrained(bert(a.model), str(self.folder / self.stays), adapter_name=self.stays)
        for number in range(1, a.count):
            self.load(f"adapter-{number}", WAYS["low_cpu_mem_usage"])
        self.model.eval()
        self.check(a.count)
        self.hello = {"peft": peft.__version__, "torch": torch.__version__, "adapters": len(self.model.peft_config)}

    def load(self, name, way):
        found = self.model.load_adapter(str(self.folder / name), adapter_name=name, **way)
        # PEFT also counts those of adapters whose names begin with this one's.
        missing = [key for key in found.missing_keys if "lora_" in key and f".{name}." in key]
        if found.unexpected_keys or missing:
            raise RuntimeError(f"{name} is not taken whole: {[*found.unexpected_keys, *missing][:3]}")

    def check(self, count):
        """That adapters are in effect: two give two vectors, and a mixed batch gives what they give alone."""
        if count < 2:
            return
        import numpy as np
        text, names = "the quick brown fox", ["adapter-0", "adapter-1"]
        alone = [self.alone(name, text) for name in names]
        mixed = self.forward([text, text], adapter_names=names)
        if np.abs(alone[0] - alone[1]).max() < 1e-5 or np.abs(np.stack(alone) - mixed).max() > 1e-4:
            raise RuntimeError("the adapters have no effect, or another one in a mixed batch")

    def forward(self, texts, **options):
        import torch
        from peer_engines import mean_normalised, padded
        with torch.inference_mode():
            found = {name: torch.from_numpy(values) for name, values in padded(self.tokenizer(texts)).items()}
            return mean_normalised(self.model(**found, **options)[0], found["attention_mask"]).numpy()

    def alone(self, name, text):
        self.model.set_adapter(name)
        return self.forward([text])[0]

    def cold(self, names, texts):
        texts, found = itertools.cycle(texts), {way: [] for way in WAYS}
        for name in names:
            if name == self.stays:
                continue
            for way, options in WAYS.items():
                self.model.set_adapter(self.stays)
                self.model.delete_adapter(name)
                began = time.perf_counter()
                self.load(name, options)
                loaded = since(began)
                self.alone(name, next(texts))
                first, began = since(began), time.perf_counter()
                self.alone(name, next(texts))
                found[way].append({"load": loaded, "first": first, "next": since(began)})
        return found

    def switch(self, names):
        times = []
        for name in names:
            began = time.perf_counter()
            self.model.set_adapter(name)
            times.append(since(began))
        return {"ms": times}

    def serial(self, names, texts, seconds):
        return self.rate(names, texts, seconds, 1, lambda some, named: self.alone(named[0], some[0]))

    def mixed(self, names, texts, seconds, batch):
        return self.rate(names, texts, seconds, batch, lambda some, named: self.forward(some, adapter_names=named))

    @staticmethod
    def rate(names, texts, seconds, batch, run):
        """Texts in about `seconds`, in three passes at least; a quarter of that time runs before, uncounted."""
        names, texts = itertools.cycle(names), itertools.cycle(texts)
        count, began, warm = 0, time.perf_counter(), False
        while True:
            passed = time.perf_counter() - began
            if not warm and passed >= seconds / 4:
                count, began, warm = 0, time.perf_counter(), True
            elif warm and passed >= seconds and count >= 3 * batch:
                return {"texts": count, "seconds": passed}
            run(list(itertools.islice(texts, batch)), list(itertools.islice(names, batch)))
            count += batch

    def answer(self, do, **request):
        return {"load": self.cold, "switch": self.switch, "serial": self.serial, "mixed": self.mixed}[do](**request)


def main():
    a = arguments()

    def begin():
        fleet = Fleet(a)
        return fleet.hello, fleet.answer
    serve(begin)


if __name__ == "__main__":
    main()
