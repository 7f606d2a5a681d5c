"""Stage: how many sequences and tokens a step may hold, from measured steps of the chosen plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.kv_cache import kv_bytes_per_token
from artifacts.manifest import Limits
from artifacts.precision import KvDtype
from optimizer.measure.workload import Workload
from optimizer.tuning.winner import NEAR_TIE
from search_spaces.schema import ServingSpace

#: the cache holds this many times what the workload's largest batch needs, so that prefixes stay
CACHE_SLACK = 2


@dataclass(frozen=True)
class StepTime:
    """One measured step: `num_seqs` sequences of `num_tokens` new tokens in all, `context` tokens each in the cache."""

    num_seqs: int
    num_tokens: int
    context: int
    ms: float


def choose_size(candidates: Sequence[int], ms: Sequence[float], itl_ms: float | None) -> int:
    """The size whose steps serve most tokens per second without breaking the inter-token target; near-ties to the smaller.

    A smaller step costs less memory and less waiting. If no size keeps the target, the smallest is the least bad.
    """
    order = sorted(range(len(candidates)), key=lambda i: candidates[i])
    allowed = [i for i in order if itl_ms is None or ms[i] <= itl_ms] or order[:1]
    best = max(candidates[i] / ms[i] for i in allowed)
    return next(candidates[i] for i in allowed if candidates[i] / ms[i] >= best / (1 + NEAR_TIE))


def tune_limits(
    space: ServingSpace,
    architecture: Architecture,
    workload: Workload,
    itl_ms: float | None,
    *,
    kv_dtype: KvDtype,
    kv_block_size: int,
    cache_bytes: int,
    num_threads: int,
    measure: Callable[[int, bool], StepTime],
) -> tuple[Limits, list[StepTime]]:
    """Limits, and the surface they were read from. `measure` times a step of so many sequences, or of a prompt of so many
    tokens; `cache_bytes` is what the KV cache may take. UserError if it cannot hold even one block-sized context."""
    decodes = [measure(num_seqs, True) for num_seqs in space.max_num_seqs]
    prefills = [measure(num_tokens, False) for num_tokens in space.max_num_batched_tokens]
    max_num_seqs = choose_size(space.max_num_seqs, [step.ms for step in decodes], itl_ms)
    max_num_batched_tokens = choose_size(space.max_num_batched_tokens, [step.ms for step in prefills], itl_ms)

    affordable = cache_bytes // kv_bytes_per_token(architecture, kv_dtype)
    max_model_len = min(architecture.max_position, affordable // kv_block_size * kv_block_size)
    if max_model_len < kv_block_size:
        raise UserError(
            f"what the KV cache may take of the target's memory ({cache_bytes / 2**30:.1f} GiB) holds {max(0, affordable)} "
            f"tokens of this model, less than one block of {kv_block_size}; a device with more memory is needed"
        )
    wanted = max_num_seqs * (workload.prompt_tokens + workload.output_tokens) * CACHE_SLACK
    num_kv_tokens = min(max(max_model_len, wanted), affordable)
    limits = Limits(
        kv_block_size=kv_block_size,
        num_kv_blocks=-(-num_kv_tokens // kv_block_size),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(max_num_batched_tokens, max_num_seqs),
        max_model_len=max_model_len,
        num_threads=num_threads,
    )
    return limits, sorted(decodes + prefills, key=lambda step: (step.num_seqs, step.num_tokens))
