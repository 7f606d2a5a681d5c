"""One engine in one process: commands as JSON lines on stdin, one JSON line of answer each on what was stdout.

    python -P worker.py adapters/ENGINE.py

It runs in the engine's own environment, so it imports numpy and the standard library alone, and loads by path what it
needs of the repository. Whatever an engine prints goes to stderr. The adapter's class is `Adapter`:

    load(model: str, num_threads: int, max_tokens: int) -> dict       facts: versions, flags
    generate(prompt, num_tokens) -> (tokens, times)                   greedy, EOS ignored; perf_counter() after each token
    batch(prompts, num_tokens) -> list of tokens                      all at once, by the engine's own batching
    logits(tokens) -> float32 [len(tokens), vocab_size]               of every position, up to a constant for each
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

#: of linux/prctl.h
PR_SET_PDEATHSIG = 1
METRICS = Path(__file__).parents[2] / "optimizer" / "evaluation" / "metrics.py"


def module_at(path: Path) -> ModuleType:
    """The module in the file at `path`, under a name that no package of an environment has."""
    spec = importlib.util.spec_from_file_location(f"coldforge_peers_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Commands:
    """What the parent may ask. Times are seconds, measured here around the engine's own calls."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def load(self, **arguments: Any) -> dict[str, Any]:
        start = time.perf_counter()
        facts: dict[str, Any] = self._adapter.load(**arguments)
        return {**facts, "load_s": time.perf_counter() - start}

    def decode(self, prompt: list[int], num_tokens: int) -> dict[str, Any]:
        start = time.perf_counter()
        tokens, times = self._adapter.generate(prompt, num_tokens)
        _check(num_tokens, tokens, times)
        decode_s = times[-1] - times[0]
        return {"ttft_s": times[0] - start, "decode_s": decode_s, "tokens": tokens}

    def batch(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        start = time.perf_counter()
        generated = self._adapter.batch(prompts, num_tokens)
        seconds = time.perf_counter() - start
        if len(generated) != len(prompts):
            raise ValueError(f"asked for {len(prompts)} continuations, got {len(generated)}")
        for tokens in generated:
            _check(num_tokens, tokens)
        return {"batch_s": seconds, "tokens": generated}

    def reference(self, sequences: list[list[int]], out: str) -> dict[str, Any]:
        """Write the logits of `sequences`, end to end, to the .npy file `out`; row i predicts token i + 1."""
        rows = [self._adapter.logits(tokens)[:-1] for tokens in sequences]
        np.save(out, np.concatenate(rows).astype(np.float32))
        return {"num_rows": sum(map(len, rows))}

    def kl(self, sequences: list[list[int]], reference: str) -> dict[str, Any]:
        """The scores of each sequence against the logits in the file `reference`, by the gate's own metric."""
        compare = module_at(METRICS).compare
        stored, start, scores = np.load(reference, mmap_mode="r"), 0, []
        for tokens in sequences:
            end = start + len(tokens) - 1
            logits = np.asarray(self._adapter.logits(tokens), np.float32)
            # Some engines pad the vocabulary: ids beyond it are not tokens.
            scores.append(vars(compare(tokens, stored[start:end], logits[:-1, : stored.shape[1]])))
            start = end
        return {"scores": scores}


def _check(num_tokens: int, *lists: list[Any]) -> None:
    for values in lists:
        if len(values) != num_tokens:
            raise ValueError(f"asked for {num_tokens} tokens, got {len(values)}")


def serve(adapter_path: Path) -> None:
    """Answer until stdin ends."""
    # A stopped process would not see that its parent is gone.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    commands = None
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            if commands is None:
                commands = Commands(module_at(adapter_path).Adapter())
            answer = {"result": getattr(commands, arguments.pop("command"))(**arguments)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
    # Some engines crash or hang while they are torn down; nothing is left to write.
    sys.stderr.flush()
    os._exit(0)
