"""OpenVINO GenAI: its LLMPipeline on the CPU plugin, which batches continuously over blocks of KV cache.

On a CPU with AMX the plugin's default is to compute in bf16, which is its fastest for prompts and batches; one stream decodes
faster in fp32, so it is measured both ways: `folder` is the default, `folder#f32` hints at fp32.
"""

from __future__ import annotations

import time
from importlib.metadata import version

import numpy as np
import openvino as ov
import openvino_genai as genai


class _Times(genai.StreamerBase):
    """Keeps tokens and when they came; nothing is turned into text."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []
        self.times: list[float] = []

    def write(self, token) -> genai.StreamingStatus:
        now = time.perf_counter()
        for one in token if isinstance(token, list) else [token]:
            self.tokens.append(one)
            self.times.append(now)
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        pass


class Adapter:
    def load(self, model: str, num_threads: int, max_tokens: int) -> dict:
        self._model, _, precision = model.partition("#")
        self._properties: dict[str, object] = {"INFERENCE_NUM_THREADS": num_threads}
        if precision:
            self._properties["INFERENCE_PRECISION_HINT"] = precision
        self._pipeline = genai.LLMPipeline(self._model, "CPU", **self._properties)
        return {
            "versions": {name: version(name) for name in ("openvino-genai", "openvino", "optimum-intel", "nncf")},
            "flags": {"device": "CPU", **self._properties, "pipeline": "LLMPipeline, defaults"},
            "logits": "the same exported model through OpenVINO Runtime on the same plugin; GenAI gives no logits",
        }

    def generate(self, prompt: list[int], num_tokens: int) -> tuple[list[int], list[float]]:
        streamer = _Times()
        self._pipeline.generate(ov.Tensor(np.array([prompt], np.int64)), _greedy(num_tokens), streamer)
        return streamer.tokens, streamer.times

    def batch(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        ids = np.array(prompts, np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        return self._pipeline.generate(inputs, _greedy(num_tokens)).tokens

    def logits(self, tokens: list[int]) -> np.ndarray:
        if not hasattr(self, "_request"):
            compiled = ov.Core().compile_model(f"{self._model}/openvino_model.xml", "CPU", self._properties)
            self._request, self._inputs = compiled.create_infer_request(), {port.any_name for port in compiled.inputs}
        self._request.reset_state()
        num = len(tokens)
        feed = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, num), np.int64),
            "position_ids": np.arange(num, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.infer({name: array for name, array in feed.items() if name in self._inputs})
        return self._request.get_tensor("logits").data[0].copy()


def _greedy(num_tokens: int) -> genai.GenerationConfig:
    return genai.GenerationConfig(max_new_tokens=num_tokens, ignore_eos=True, do_sample=False)
