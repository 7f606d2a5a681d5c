"""ONNX Runtime GenAI on its CPU provider.

Its continuous batching needs CUDA: `batch` is one static batch, which prompts of one length need not pad.
"""

from __future__ import annotations

import json
import time
from importlib.metadata import version

import numpy as np
import onnxruntime_genai as og


class Adapter:
    def load(self, model: str, num_threads: int, max_tokens: int) -> dict:
        config = og.Config(model)
        options = {"session_options": {"intra_op_num_threads": num_threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model = og.Model(config)
        return {
            "versions": {name: version(name) for name in ("onnxruntime-genai", "onnxruntime")},
            "flags": {**options, "batch": "static"},
        }

    def generate(self, prompt: list[int], num_tokens: int) -> tuple[list[int], list[float]]:
        generator = self._generator([prompt], num_tokens)
        times = []
        while not generator.is_done():
            generator.generate_next_token()
            times.append(time.perf_counter())
        return generator.get_sequence(0)[len(prompt) :].tolist(), times

    def batch(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        generator = self._generator(prompts, num_tokens)
        while not generator.is_done():
            generator.generate_next_token()
        return [generator.get_sequence(i)[len(prompt) :].tolist() for i, prompt in enumerate(prompts)]

    def logits(self, tokens: list[int]) -> np.ndarray:
        generator = self._generator([tokens], 1)
        return generator.get_output("logits")[0].astype(np.float32)

    def _generator(self, prompts: list[list[int]], num_tokens: int):
        """Its prompt is run already. EOS is ignored by the only means there is: a minimal length."""
        length = len(prompts[0]) + num_tokens
        params = og.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, batch_size=len(prompts), min_length=length, max_length=length)
        generator = og.Generator(self._model, params)
        generator.append_tokens(np.array(prompts, np.int32))
        return generator
