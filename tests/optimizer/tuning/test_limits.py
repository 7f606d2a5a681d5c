from __future__ import annotations

import pytest

from artifacts.architecture import Architecture
from artifacts.kv_cache import kv_bytes_per_token
from artifacts.manifest import Limits
from optimizer.measure.workload import Workload
from optimizer.tuning.limits import StepTime, choose_size, tune_limits
from runtime.block_manager import BlockManager
from runtime.request import Request, SamplingParams
from runtime.scheduler import Scheduler
from runtime.sequence import Sequence
from search_spaces.schema import ServingSpace

ARCHITECTURE = Architecture(
    family="llama", vocab_size=99, hidden_size=64, intermediate_size=96, num_layers=2, num_q_heads=4, num_kv_heads=2,
    head_dim=16, max_position=1024, rms_norm_eps=1e-5,
)  # fmt: skip
SPACE = ServingSpace(kv_block_size=(16,), max_num_seqs=(4, 2, 8), max_num_batched_tokens=(64, 128))
BYTES = kv_bytes_per_token(ARCHITECTURE, "fp32")


@pytest.mark.parametrize(("ms", "itl_ms", "expected"), [
    ([10.0, 12.0, 16.0], None, 8),  # bigger steps serve more
    ([10.0, 20.0, 40.0], None, 2),  # nothing gained: the smallest
    ([10.0, 12.0, 23.5], None, 4),  # a near-tie goes to the smaller
    ([10.0, 12.0, 16.0], 12.0, 4),  # the largest within the target
    ([10.0, 12.0, 16.0], 1.0, 2),  # none within it: the smallest is the least bad
])  # fmt: skip
def test_choice(ms: list[float], itl_ms: float | None, expected: int) -> None:
    assert choose_size([2, 4, 8], ms, itl_ms) == expected
    assert choose_size([8, 2, 4], [ms[2], ms[0], ms[1]], itl_ms) == expected, "order does not matter"


def tuned(memory_bytes: int) -> tuple[Limits, list[StepTime]]:
    return tune_limits(
        SPACE, ARCHITECTURE, Workload(100, 100, 4), None, kv_dtype="fp32", kv_block_size=16, cache_bytes=memory_bytes // 4,
        num_threads=3, measure=lambda size, decodes: StepTime(size if decodes else 1, size, 100, 1.0),
    )  # fmt: skip


def serve(scheduler: Scheduler, prompts: list[int]) -> list[Sequence]:
    """The workload's requests, all at once: a prompt of 100 tokens for each of `prompts`, and 100 tokens after it."""
    params = SamplingParams(max_tokens=100)
    served = [Sequence.from_request(Request(f"{n}", range(100 * n, 100 * n + 100), params)) for n in prompts]
    for sequence in served:
        scheduler.add(sequence)
    while scheduler.running or scheduler.waiting:
        for scheduled in scheduler.schedule():
            sequence = scheduled.sequence
            sequence.num_computed_tokens += scheduled.num_new_tokens
            scheduler.blocks.publish(sequence)
            if sequence.num_uncomputed_tokens == 0:
                sequence.token_ids.append(-1)
                if sequence.num_generated_tokens == 100:
                    scheduler.remove(sequence)
    return served


def test_the_workload_is_served_without_preemption_and_its_prefixes_outlive_another_batch() -> None:
    limits, surface = tuned(1 << 30)
    assert limits.max_model_len == 1024 and limits.max_num_seqs == 8 and limits.num_threads == 3
    assert len(surface) == 5
    blocks = BlockManager(limits.num_kv_blocks, limits.kv_block_size)
    scheduler = Scheduler(blocks, limits.max_num_seqs, limits.max_num_batched_tokens)
    first, other, again = list(range(8)), list(range(8, 16)), list(range(8))
    assert all(sequence.num_cached_tokens == 0 for prompts in (first, other) for sequence in serve(scheduler, prompts))
    assert all(sequence.num_cached_tokens >= 80 for sequence in serve(scheduler, again)), "all but a block or two"
    assert scheduler.num_preemptions == 0


def test_little_memory_shortens_what_can_be_served() -> None:
    limits, _ = tuned(4 * BYTES * 500)
    assert limits.max_model_len == 496
    assert 496 <= limits.num_kv_blocks * 16 <= 512


def test_too_little_memory() -> None:
    with pytest.raises(ValueError, match=r"holds 15 tokens .* less than one block of 16"):
        tuned(4 * BYTES * 15)
