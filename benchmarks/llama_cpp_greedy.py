"""Greedy tokens by llama.cpp, in an environment of its own: run by gguf_greedy.py.

    PYTHON -P llama_cpp_greedy.py MODEL.gguf ASKED.json ANSWER.json

ASKED.json holds `prompts`, lists of token ids, `num_tokens` to write after each, and `strings`. ANSWER.json becomes `version`,
`tokens` of each prompt, `best`: for each of those the 8 best (token, log-probability), and `strings` as token ids. Needs numpy
and llama-cpp-python only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

BEST = 8


def main() -> None:
    import llama_cpp as llama

    model_path, asked, answer = sys.argv[1:]
    request = json.loads(Path(asked).read_text())
    prompts, num_tokens = request["prompts"], request["num_tokens"]
    llama.llama_backend_init()
    model_params = llama.llama_model_default_params()
    model_params.use_extra_bufts = False  # AMX's die where a virtual machine does not let tiles be configured
    model = llama.llama_model_load_from_file(model_path.encode(), model_params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {model_path}")
    vocabulary = llama.llama_model_get_vocab(model)
    vocab_size = llama.llama_vocab_n_tokens(vocabulary)
    params = llama.llama_context_default_params()
    room = max(map(len, prompts)) + num_tokens
    params.n_ctx = params.n_batch = params.n_ubatch = -(-room // 256) * 256
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = llama.GGML_TYPE_F32
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama.llama_init_from_model(model, params)

    def logits_after(tokens: list[int]) -> Any:
        ids = (llama.llama_token * len(tokens))(*tokens)
        if status := llama.llama_decode(context, llama.llama_batch_get_one(ids, len(tokens))):
            raise SystemExit(f"llama_decode ended with status {status}")
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (vocab_size,))

    written, best = [], []
    for prompt in prompts:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        tokens: list[int] = []
        candidates = []
        for _ in range(num_tokens):
            logits = logits_after(tokens[-1:] or prompt).astype(np.float64)
            logits -= logits.max() + np.log(np.exp(logits - logits.max()).sum())
            order = np.argsort(-logits, kind="stable")[:BEST]
            candidates.append([(int(token), float(logits[token])) for token in order])
            tokens.append(int(order[0]))
        written.append(tokens)
        best.append(candidates)

    def tokenized(text: bytes) -> list[int]:
        room = (llama.llama_token * (len(text) + 8))()
        return list(room[: llama.llama_tokenize(vocabulary, text, len(text), room, len(room), False, True)])

    strings = [tokenized(text.encode()) for text in request["strings"]]
    Path(answer).write_text(json.dumps({"version": llama.__version__, "tokens": written, "best": best, "strings": strings}))


if __name__ == "__main__":
    main()
