"""A matrix multiplication to be timed, the tile it is cut into, and how routed tokens fill tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Element = Literal["bf16", "fp16", "fp8", "int8", "int4"]
BYTES: dict[Element, float] = {"bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "int4": 0.5}
#: tensors of a call that have a part for each expert
OF_EXPERTS = ("weight", "codes", "scales", "zeros", "row_scales", "bias")
#: of a block-scaled matmul, the length in k that has one scale
SCALE_BLOCK_K = 128
_OUT_BYTES = 2


@dataclass(frozen=True)
class MatmulProblem:
    """out[m, n] = a[m, k] @ b[k, n], out in 16 bits; with experts, m tokens that go to `top_k` of `num_experts` matrices each.

    `a` is computed in: a narrower `b` is widened to it. `block_scaled`: a scale per `SCALE_BLOCK_K` of k, applied to the
    running sum in every iteration. Routing is taken to be uniform, a token's experts distinct.
    """

    m: int
    n: int
    k: int
    a: Element = "bf16"
    b: Element = "bf16"
    num_experts: int = 1
    top_k: int = 1
    block_scaled: bool = False

    def __post_init__(self) -> None:
        if min(self.m, self.n, self.k, self.num_experts, self.top_k) < 1:
            raise ValueError(f"every extent of a matmul must be at least 1, got {self}; leave an empty one out")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k must be at most num_experts ({self.num_experts}), got {self.top_k}")

    @property
    def is_grouped(self) -> bool:
        return self.num_experts > 1

    @property
    def rows(self) -> int:
        """Rows of the output."""
        return self.m * self.top_k

    @property
    def unique_bytes(self) -> float:
        """Bytes that must cross to or from memory once: the matrices of the experts that have tokens, activations, output."""
        experts = filled(self.m, self.top_k, self.num_experts, 1)[1]
        return experts * self.n * self.k * BYTES[self.b] + self.rows * self.k * BYTES[self.a] + self.rows * self.n * _OUT_BYTES

    def row_blocks(self, block_m: int) -> float:
        """Expected number of blocks of `block_m` rows, each expert's last one padded."""
        return filled(self.m, self.top_k, self.num_experts, block_m)[0]


@dataclass(frozen=True, order=True)
class Tile:
    """How a kernel cuts a matmul. `group_m`: row blocks that are walked together so that they share columns in L2."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    group_m: int = 1
    split_k: int = 1

    def __post_init__(self) -> None:
        for name in ("block_m", "block_n", "block_k", "num_warps", "num_stages", "group_m", "split_k"):
            value = getattr(self, name)
            if value < 1 or (name.startswith(("block", "num_warps")) and value & (value - 1)):
                raise ValueError(f"a tile's {name} must be a positive number, blocks and warps a power of two; got {value}")


@lru_cache(maxsize=65536)
def filled(tokens: int, top_k: int, num_experts: int, block_m: int) -> tuple[float, float]:
    """(expected blocks of `block_m` rows, expected experts with any token) of uniformly routed tokens.

    The tokens of one expert are binomial: each token picks it with probability top_k / num_experts.
    """
    if num_experts == top_k:
        return float(num_experts * math.ceil(tokens / block_m)), float(num_experts)
    chance = top_k / num_experts
    mean, spread = tokens * chance, math.sqrt(tokens * chance * (1 - chance))
    active = num_experts * -math.expm1(tokens * math.log1p(-chance))
    if spread > block_m:
        return num_experts * (mean / block_m + 0.5), active  # the last block of each is, on average, half full
    blocks = 0.0
    for count in range(max(1, int(mean - 8 * spread)), min(tokens, int(mean + 8 * spread + 12)) + 1):
        ways = math.lgamma(tokens + 1) - math.lgamma(count + 1) - math.lgamma(tokens - count + 1)
        probability = math.exp(ways + count * math.log(chance) + (tokens - count) * math.log1p(-chance))
        blocks += probability * math.ceil(count / block_m)
    return num_experts * blocks, active
