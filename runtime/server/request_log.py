"""What was asked and how much was answered, without a word of it: a trace that can be measured and replayed elsewhere.

One JSON object a line, as Mooncake's traces have them: `timestamp` (arrival, ms), `input_length` and `output_length` (tokens),
and `hash_ids`, a number for each 512 tokens of the prompt, the last of which may be fewer. Two prompts begin with as many equal
numbers as equal blocks.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from artifacts.errors import UserError
from runtime.server.choice import Choice

logger = logging.getLogger(__name__)

BLOCK_SIZE = 512
#: Numbers that every reader of JSON keeps exactly; among a million blocks two are the same by chance once in 9,000 logs.
_HASH_BITS = 52


class RequestLog:
    """Appends to a file. A choice is a line, written when it ends; timestamps begin at 0, or go on where the file ends.

    Hashes are keyed with a secret that nobody keeps, so that no text can be tried against them; they are not the same after a
    restart. If the file can no longer be written, that is logged once, and serving goes on.
    """

    def __init__(self, path: Path) -> None:
        """UserError if the file cannot be opened, or is not such a trace."""
        try:
            self._file = path.open("a+", encoding="utf-8")
            self._file.seek(0)
            last_ms = max((int(json.loads(line)["timestamp"]) for line in self._file), default=0)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"a log of requests must be a new file or one that was written here; {path}: {error}; name another"
            ) from error
        self._secret = secrets.token_bytes(32)
        self._begin_s = time.perf_counter() - last_ms / 1e3
        self._has_failed = False

    def hash_ids(self, token_ids: Sequence[int]) -> list[int]:
        """A number for each 512 tokens, which also depends on all tokens before them."""
        tokens = np.asarray(token_ids, np.int32)
        ids: list[int] = []
        parent = b""
        for start in range(0, len(tokens), BLOCK_SIZE):
            block = parent + tokens[start : start + BLOCK_SIZE].tobytes()
            parent = blake2b(block, key=self._secret, digest_size=16).digest()
            ids.append(int.from_bytes(parent[:8], "big") >> (64 - _HASH_BITS))
        return ids

    def write(self, arrival_s: float, num_prompt_tokens: int, num_output_tokens: int, hash_ids: Sequence[int]) -> None:
        """`arrival_s` is by time.perf_counter."""
        line = {
            "timestamp": round((arrival_s - self._begin_s) * 1e3),
            "input_length": num_prompt_tokens,
            "output_length": num_output_tokens,
            "hash_ids": list(hash_ids),
        }
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except (OSError, ValueError) as error:
            if not self._has_failed:
                logger.error("requests are no longer logged: %s", error)
            self._has_failed = True

    def close(self) -> None:
        self._file.close()


def log_of(log: RequestLog | None, arrival_s: float, prompts: Sequence[Sequence[int]]) -> Callable[[Sequence[Choice]], None]:
    """What writes the lines of a request when its choices, as many for each of `prompts`, have ended."""
    if log is None:
        return lambda choices: None
    hash_ids = [log.hash_ids(token_ids) for token_ids in prompts]

    def write(choices: Sequence[Choice]) -> None:
        num_of_each = len(choices) // len(prompts)
        for choice in choices:
            prompt = choice.index // num_of_each
            log.write(arrival_s, len(prompts[prompt]), choice.num_generated_tokens, hash_ids[prompt])

    return write
