"""PEFT's three ways to serve a batch whose texts have different adapters."""
import numpy as np

from peer_engines import Tokenizer, mean_normalised, padded
from peer_files import adapter_folders, bert


class Peft:
    """The variant says how: `mixed` in one pass, `domain` a pass for each adapter, `serial` a pass for each text.

    `adapters`: the number of a folder for each text.
    """

    def __init__(self, a, dtype):
        import peft
        import torch
        folders = adapter_folders(a.model, a.cache)
        self.names, self.tokenizer = [folder.name for folder in folders], Tokenizer(a.model)
        self.model = peft.PeftModel.from_pretrained(bert(a.model), str(folders[0]), adapter_name=self.names[0])
        for folder in folders[1:]:
            self.model.load_adapter(str(folder), adapter_name=folder.name)
        if dtype == "bf16":
            self.model.to(torch.bfloat16)
        self.model.eval()
        self.hello = {"peft": peft.__version__, "torch": torch.__version__}

    def ways(self, variant, _):
        return {variant: {"mixed": self.mixed, "domain": self.domain, "serial": self.serial}[variant]}

    def forward(self, texts, **options):
        import torch
        with torch.inference_mode():
            found = {name: torch.from_numpy(values) for name, values in padded(self.tokenizer(texts)).items()}
            return mean_normalised(self.model(**found, **options)[0], found["attention_mask"]).numpy()

    def mixed(self, texts, adapters):
        return self.forward(texts, adapter_names=[self.names[i] for i in adapters])

    def domain(self, texts, adapters):
        vectors = np.empty((len(texts), 384), dtype=np.float32)
        for domain in sorted(set(adapters)):
            rows = [i for i, other in enumerate(adapters) if other == domain]
            self.model.set_adapter(self.names[domain])
            vectors[rows] = self.forward([texts[i] for i in rows])
        return vectors

    def serial(self, texts, adapters):
        vectors = []
        for text, domain in zip(texts, adapters):
            self.model.set_adapter(self.names[domain])
            vectors.append(self.forward([text])[0])
        return np.stack(vectors)
