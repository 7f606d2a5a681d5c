"""How a step's tokens are shared out among the prompts that it computes. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def split(num_tokens: int, lacks: Sequence[int]) -> list[int]:
    """Of `num_tokens`, how many each prompt gets; `lacks` are the tokens that each still has to compute, oldest first.

    The oldest gets at least half, so that it ends however many short ones come. The other half goes to whoever lacks least,
    the oldest too, so that a short prompt does not wait for a long one, and prompts of one length run one after the other.
    """
    if not lacks:
        return []
    shares = [0] * len(lacks)
    shares[0] = min(lacks[0], -(-num_tokens // 2))
    rest = num_tokens - shares[0]
    for index in sorted(range(len(lacks)), key=lacks.__getitem__):
        more = min(lacks[index] - shares[index], rest)
        shares[index] += more
        rest -= more
    return shares
