"""Log-probabilities of given tokens by other runtimes, each in an environment of its own: run by this package's __main__.py.

    PYTHON -P readers.py vllm|llama.cpp|onnxruntime EXPORT ASKED.json ANSWER.json LOGPROBS.npy

ASKED.json holds `texts`, lists of token ids of one length n, and `strings`. LOGPROBS.npy becomes fp32
[texts, n - 1, vocab_size], after each token but the last; ANSWER.json the runtime's `version`, and `tokens`, the strings as
token ids, of a runtime that has a tokenizer of its own. Needs numpy and the runtime only.
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
#: version, log-probabilities, tokens of the strings
Answer = tuple[str, Floats, list[list[int]] | None]


def log_softmax(logits: NDArray[Any]) -> Floats:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return (wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))).astype(np.float32)


def by_vllm(export: Path, texts: list[list[int]], strings: list[str]) -> Answer:
    """Logits are taken where the model computes them: asking for a whole vocabulary of log-probabilities takes minutes.

    On CPUs with AMX vLLM 0.32 gives int8 layers a kernel that refused float32 and aborted in float16; there its oneDNN kernel
    is used, as on all other CPUs.
    """
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    import vllm
    from vllm.model_executor.kernels.linear.scaled_mm import cpu

    computed: list[NDArray[Any]] = []

    def watch(model: Any) -> None:
        model.logits_processor.register_forward_hook(lambda module, inputs, logits: computed.append(logits.float().numpy()))

    length = len(texts[0])
    dtype = json.loads((export / "config.json").read_text())["torch_dtype"]  # left to itself, it computes float32 in 16 bits
    if dtype != "bfloat16":
        cpu.check_cpu_sgl_kernel = lambda *_: False
    model = vllm.LLM(str(export), dtype=dtype, max_model_len=length + 16, max_num_seqs=1, enforce_eager=True)
    model.apply_model(watch)
    found = []
    for tokens in texts:
        computed.clear()
        model.generate([{"prompt_token_ids": tokens}], vllm.SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1))
        (logits,) = (rows for rows in computed if len(rows) == length - 1)
        found.append(log_softmax(logits))
    return vllm.__version__, np.stack(found), None


def by_llama_cpp(export: Path, texts: list[list[int]], strings: list[str]) -> Answer:
    """By llama.cpp's C functions, with keys and values in fp32 and the kernels that every CPU of the kind has.

    Its kernels for AMX die where a virtual machine shows the flag but does not let tiles be configured.
    """
    import llama_cpp as llama

    llama.llama_backend_init()
    model_params = llama.llama_model_default_params()
    model_params.use_extra_bufts = False
    model = llama.llama_model_load_from_file(str(export).encode(), model_params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {export}")
    vocabulary = llama.llama_model_get_vocab(model)
    length, vocab_size = len(texts[0]), llama.llama_vocab_n_tokens(vocabulary)
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 256, 1, 1
    params.type_k = params.type_v = llama.GGML_TYPE_F32
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama.llama_init_from_model(model, params)
    batch = llama.llama_batch_init(length, 0, 1)
    found = []
    for tokens in texts:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        batch.n_tokens = length
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        if status := llama.llama_decode(context, batch):
            raise SystemExit(f"llama_decode ended with status {status}")
        logits = np.ctypeslib.as_array(llama.llama_get_logits(context), (length, vocab_size))
        found.append(log_softmax(logits[:-1]))
    return llama.__version__, np.stack(found), [_llama_tokens(llama, vocabulary, text.encode()) for text in strings]


def _llama_tokens(llama: Any, vocabulary: Any, text: bytes) -> list[int]:
    """Special tokens by their names, and none added."""
    room = (llama.llama_token * (len(text) + 8))()
    return list(room[: llama.llama_tokenize(vocabulary, text, len(text), room, len(room), False, True)])


def by_onnxruntime(export: Path, texts: list[list[int]], strings: list[str]) -> Answer:
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
    return onnxruntime.__version__, np.stack(found), None


READERS: dict[str, Callable[[Path, list[list[int]], list[str]], Answer]] = {
    "vllm": by_vllm,
    "llama.cpp": by_llama_cpp,
    "onnxruntime": by_onnxruntime,
}

if __name__ == "__main__":
    reader, export, asked, answer, logprobs = sys.argv[1:]
    version, found, tokens = READERS[reader](Path(export), **json.loads(Path(asked).read_text()))
    np.save(logprobs, found)
    Path(answer).write_text(json.dumps({"version": version, "tokens": tokens}))
