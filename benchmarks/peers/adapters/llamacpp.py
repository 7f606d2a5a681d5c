"""llama.cpp by its C functions, as llama-cpp-python binds them: no sampling or detokenizing in Python is timed.

The binding has no server with continuous batching. `batch` does what llama.cpp's own does at best: all prompts in as few
steps as `n_batch` allows, then one step for all sequences at a time.
"""

from __future__ import annotations

import ctypes
import time
from importlib.metadata import version

import llama_cpp as llama
import numpy as np


class Adapter:
    def load(self, model: str, num_threads: int, max_tokens: int) -> dict:
        llama.llama_backend_init()
        self._model = llama.llama_model_load_from_file(model.encode(), llama.llama_model_default_params())
        if not self._model:
            raise ValueError(f"llama.cpp cannot load {model}")
        self._vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._num_threads = num_threads
        self._sampler = llama.llama_sampler_init_greedy()
        self._max_tokens = max_tokens
        self._one = self._context(max_tokens, 1)
        return {
            "versions": {"llama-cpp-python": version("llama-cpp-python")},
            "flags": {
                "system": llama.llama_print_system_info().decode(),
                "n_ctx": llama.llama_n_ctx(self._one),
                "n_batch": llama.llama_n_batch(self._one),
                "n_ubatch": llama.llama_n_ubatch(self._one),
                "flash_attn": "auto",
            },
        }

    def generate(self, prompt: list[int], num_tokens: int) -> tuple[list[int], list[float]]:
        llama.llama_memory_clear(llama.llama_get_memory(self._one), True)
        tokens, times = [], []
        pending = prompt
        while len(tokens) < num_tokens:
            self._decode_one(pending)
            tokens.append(llama.llama_sampler_sample(self._sampler, self._one, -1))
            times.append(time.perf_counter())
            pending = tokens[-1:]
        return tokens, times

    def batch(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        context = self._many(len(prompts), max(map(len, prompts)) + num_tokens)
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        generated: list[list[int]] = [[] for _ in prompts]
        prompt_rows = [
            (token, place, sequence, place == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        step = llama.llama_n_batch(context)
        for start in range(0, len(prompt_rows), step):
            self._decode_rows(context, prompt_rows[start : start + step], generated)
        for count in range(1, num_tokens):
            rows = [(generated[s][-1], len(prompt) + count - 1, s, True) for s, prompt in enumerate(prompts)]
            self._decode_rows(context, rows, generated)
        return generated

    def logits(self, tokens: list[int]) -> np.ndarray:
        llama.llama_memory_clear(llama.llama_get_memory(self._one), True)
        rows = []
        for start in range(0, len(tokens), llama.llama_n_batch(self._one)):
            part = tokens[start : start + llama.llama_n_batch(self._one)]
            self._decode(self._one, [(token, start + i, 0, True) for i, token in enumerate(part)])
            stored = llama.llama_get_logits(self._one)
            rows.append(np.ctypeslib.as_array(stored, (len(part), self._vocab_size)).copy())
        return np.concatenate(rows)

    def _context(self, num_tokens: int, num_seqs: int):
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = -(-num_tokens // 256) * 256 * num_seqs, num_seqs
        params.n_threads = params.n_threads_batch = self._num_threads
        context = llama.llama_init_from_model(self._model, params)
        if not context:
            raise ValueError(f"llama.cpp cannot make a context of {params.n_ctx} tokens")
        return context

    def _many(self, num_seqs: int, num_tokens: int):
        if getattr(self, "_many_shape", None) != (num_seqs, num_tokens):
            self._many_context, self._many_shape = self._context(num_tokens, num_seqs), (num_seqs, num_tokens)
        return self._many_context

    def _decode_one(self, tokens: list[int]) -> None:
        for start in range(0, len(tokens), llama.llama_n_batch(self._one)):
            part = tokens[start : start + llama.llama_n_batch(self._one)]
            array = (ctypes.c_int32 * len(part))(*part)
            _succeeded(llama.llama_decode(self._one, llama.llama_batch_get_one(array, len(part))))

    def _decode_rows(self, context, rows: list[tuple[int, int, int, bool]], generated: list[list[int]]) -> None:
        self._decode(context, rows)
        for index, (_, _, sequence, is_read) in enumerate(rows):
            if is_read:
                generated[sequence].append(llama.llama_sampler_sample(self._sampler, context, index))

    def _decode(self, context, rows: list[tuple[int, int, int, bool]]) -> None:
        """Rows are (token, position, sequence, whether its logits are read)."""
        batch = llama.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, is_read) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, is_read
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        _succeeded(llama.llama_decode(context, batch))
        llama.llama_batch_free(batch)


def _succeeded(code: int) -> None:
    if code:
        raise RuntimeError(f"llama_decode returned {code}")
