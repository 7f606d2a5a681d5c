"""What is measured: kinds of work, their sizes, and the prompts of each turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["decode", "prefill", "batch", "start"]
_UNITS: dict[Kind, str] = {"decode": "tok/s", "prefill": "ms", "batch": "tok/s", "start": "s"}


#: the round that counts nowhere
WARM_UP = -1


@dataclass(frozen=True)
class Work:
    """`num_requests` prompts of `prompt_tokens`, each continued by `output_tokens`, greedily and past any EOS.

    `max_rounds` is for what takes some engines minutes.
    """

    name: str
    title: str
    kind: Kind
    prompt_tokens: int
    output_tokens: int
    num_requests: int = 1
    max_rounds: int | None = None

    @property
    def unit(self) -> str:
        return _UNITS[self.kind]

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit == "tok/s"

    def value(self, result: Mapping[str, Any]) -> float:
        """What a turn is worth, in `unit`, from the worker's times: decoding counts what follows the first token."""
        if self.kind == "decode":
            return (self.output_tokens - 1) / float(result["decode_s"])
        if self.kind == "prefill":
            return 1e3 * float(result["ttft_s"])
        if self.kind == "batch":
            return self.num_requests * self.output_tokens / float(result["batch_s"])
        return float(result["start_s"])


FULL = (
    Work("decode", "decode, 1 stream, 128 in / 128 out", "decode", 128, 128),
    Work("prefill", "prompt of 512, time to first token", "prefill", 512, 1),
    Work("batch", "32 requests, 128 in / 64 out, output", "batch", 128, 64, 32),
    Work("long", "decode at a context of 1,500", "decode", 1500, 64),
    Work("start", "process start to first token", "start", 16, 1, max_rounds=3),
)
#: shows that every engine works, and nothing else
QUICK = (
    Work("decode", "decode, 1 stream, 16 in / 4 out", "decode", 16, 4),
    Work("prefill", "prompt of 64, time to first token", "prefill", 64, 1),
    Work("batch", "4 requests, 16 in / 4 out, output", "batch", 16, 4, 4),
    Work("long", "decode at a context of 200", "decode", 200, 4),
    Work("start", "process start to first token", "start", 16, 1),
)


class Prompts:
    """Windows of a long text of token ids, the same for all engines, others in each round: no cache of prefixes helps."""

    def __init__(self, token_ids: Sequence[int], seed: int = 0) -> None:
        self._ids, self._seed = token_ids, seed

    def of(self, work: Work, round_index: int) -> list[list[int]]:
        """The prompts of one turn. ValueError if the text is shorter than one of them."""
        room = len(self._ids) - work.prompt_tokens
        if room < 0:
            raise ValueError(f"the text must have {work.prompt_tokens} tokens for {work.name}, it has {len(self._ids)}")
        rng = np.random.default_rng([self._seed, round_index - WARM_UP, *work.name.encode()])
        starts = rng.integers(0, room + 1, work.num_requests)
        return [list(self._ids[start : start + work.prompt_tokens]) for start in starts]
