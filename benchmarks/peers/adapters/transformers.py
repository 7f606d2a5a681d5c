"""The reference: transformers in fp32. Nothing of it is timed; every KL is to its logits."""

from __future__ import annotations

import numpy as np
import torch
import transformers


class Adapter:
    def load(self, model: str, num_threads: int, max_tokens: int) -> dict:
        torch.set_num_threads(num_threads)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        return {
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
            "flags": {"dtype": "float32"},
        }

    def logits(self, tokens: list[int]) -> np.ndarray:
        with torch.no_grad():
            return self._model(torch.tensor([tokens])).logits[0].numpy()
