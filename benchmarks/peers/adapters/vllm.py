"""vLLM for CPUs, its engine in this process, one step at a time."""

from __future__ import annotations

import os
import time

import numpy as np


class Adapter:
    def load(self, model: str, num_threads: int, max_tokens: int) -> dict:
        # A model is named `folder#dtype` or `folder#dtype-eager`, because one folder serves all of them.
        folder, _, kind = model.partition("#")
        cores = sorted(os.sched_getaffinity(0))[:num_threads]
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            # What it compiles ahead of time fails to load again (0.32.0), so that every start would compile for a minute.
            "VLLM_USE_AOT_COMPILE": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        import vllm

        options = {
            "dtype": kind.removesuffix("-eager"),
            "enforce_eager": kind.endswith("-eager"),
            "max_model_len": max_tokens,
            "max_num_seqs": 32,
            "enable_prefix_caching": False,
        }
        self._llm, self._vllm, self._num_requests = vllm.LLM(folder, skip_tokenizer_init=True, **options), vllm, 0
        return {"versions": {"vllm": vllm.__version__}, "flags": {**options, "cores": cores, "kv_cache_gib": 1}}

    def generate(self, prompt: list[int], num_tokens: int) -> tuple[list[int], list[float]]:
        name = self._add(prompt, num_tokens)
        tokens, times = [], []
        while self._llm.llm_engine.has_unfinished_requests():
            for output in self._llm.llm_engine.step():
                assert output.request_id == name
                tokens = list(output.outputs[0].token_ids)
                times.append(time.perf_counter())
        return tokens, times

    def batch(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        generated: dict[str, list[int]] = {self._add(prompt, num_tokens): [] for prompt in prompts}
        while self._llm.llm_engine.has_unfinished_requests():
            for output in self._llm.llm_engine.step():
                generated[output.request_id] = list(output.outputs[0].token_ids)
        return list(generated.values())

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Scoring a prompt computes logits of all its positions; they are kept on their way to the top ones."""
        kept = []
        model = self._llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
        compute = model.compute_logits

        def keep(*arguments, **named):
            logits = compute(*arguments, **named)
            kept.append(logits.float().numpy().copy())
            return logits

        model.compute_logits = keep
        try:
            params = self._vllm.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1, detokenize=False)
            self._llm.generate([{"prompt_token_ids": tokens}], params, use_tqdm=False)
        finally:
            del model.compute_logits
        # One call was for the last position, to sample from, and one for all before it.
        last, before = sorted(kept, key=len)
        return np.concatenate([before, last])

    def _add(self, prompt: list[int], num_tokens: int) -> str:
        self._num_requests += 1
        params = self._vllm.SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True, detokenize=False)
        self._llm.llm_engine.add_request(str(self._num_requests), {"prompt_token_ids": prompt}, params)
        return str(self._num_requests)
