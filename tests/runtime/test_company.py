"""The engine over real kernels: company, chunking, preemption, cached prefixes and threads change no bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from artifacts.manifest import Limits
from artifacts.precision import KvDtype
from kernels.cpu.library import Library
from runtime.engine_core import EngineCore
from runtime.request import Request, SamplingParams
from runtime.scoring import score
from tests.runtime.conftest import Tiny, limits
from tests.runtime.generating import PREFIX, finish, prompt_of, results


@dataclass(frozen=True)
class Arrival:
    step: int
    num_shared: int
    num_own: int
    num_output: int
    temperature: float
    scores_prompt: bool

    def request(self, index: int) -> Request:
        prompt = prompt_of(self.num_shared, self.num_own, seed=self.num_own)
        return Request(
            str(index),
            prompt,
            SamplingParams(
                temperature=self.temperature,
                seed=index,
                max_tokens=self.num_output,
                logprobs=2,
                prompt_logprobs=self.scores_prompt,
            ),
        )


ARRIVALS = st.builds(
    Arrival,
    step=st.integers(0, 12),
    num_shared=st.sampled_from([0, 0, 15, 16, 33, 48, 64]),
    num_own=st.integers(1, 24),
    num_output=st.integers(1, 24),
    temperature=st.sampled_from([0.0, 0.0, 1.0]),
    scores_prompt=st.sampled_from([False, False, False, True]),
)
#: Seven blocks of 16 for four sequences of up to 111 tokens that share a prefix: all of it happens, and the test below says so.
CROWDED = [Arrival(i // 3, 48, 5 + i, 24, 0.0, i == 3) for i in range(8)]
CROWD_LIMITS = {"num_kv_blocks": 7, "max_num_seqs": 4, "max_num_batched_tokens": 13, "max_model_len": 112}

#: model, scheme, KV dtype: windows in all layers and in some, biases, QK-norm of each head and of all, branches that join the
#: stream before it is read, every kind of weight and of activation, experts, some of them apart, latents, sinks
MODELS: list[tuple[str, str, KvDtype]] = [
    ("mistral, tied, yarn", "fp32", "fp32"),
    ("qwen3", "bf16", "bf16"),
    ("qwen2, tied, window", "int8", "fp32"),
    ("qwen2", "int8-a8", "bf16"),
    ("llama, tied, biased, llama3", "int4-g32-sym", "fp32"),
    ("olmo2", "int4-g32-asym-a8", "fp32"),
    ("gemma4", "int4-g32-asym-a8", "int8"),
    ("mixtral", "int4-g32-asym-a8", "bf16"),
    ("mixtral, rare", "int4-g32-asym-a8, rare int8", "bf16"),
    ("deepseek_v3", "int8-a8", "bf16"),
    ("gpt_oss", "int4-g32-sym-a8", "int8"),
]


@pytest.mark.parametrize(("name", "scheme", "kv_dtype"), MODELS)
def test_company_changes_nothing(
    tiny: Callable[[str], Tiny], library: Library, name: str, scheme: str, kv_dtype: KvDtype
) -> None:
    model = tiny(name)

    def engine_of(room: Limits) -> EngineCore:
        return EngineCore(model.runner(library, scheme, room, kv_dtype), [])

    @settings(
        max_examples=8 if model.architecture.mla else 15 if model.architecture.moe or model.architecture.layers_differ else 40
    )
    @given(
        arrivals=st.lists(ARRIVALS, min_size=2, max_size=8),
        num_blocks=st.integers(7, 14),
        max_num_seqs=st.integers(1, 6),
        extra_tokens=st.integers(0, 40),
        num_threads=st.sampled_from([1, 2]),
    )
    @example(arrivals=CROWDED, num_blocks=7, max_num_seqs=4, extra_tokens=9, num_threads=2)
    def check(arrivals: list[Arrival], num_blocks: int, max_num_seqs: int, extra_tokens: int, num_threads: int) -> None:
        room = limits(
            num_kv_blocks=num_blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_seqs + extra_tokens,
            max_model_len=112,
            num_threads=num_threads,
        )
        requests = [arrival.request(index) for index, arrival in enumerate(arrivals)]
        by_step = {a.step: [r for b, r in zip(arrivals, requests, strict=True) if b.step == a.step] for a in arrivals}
        engine = engine_of(room)
        together = finish(engine, by_step)
        for request in requests:
            # Alone: one prompt in one step, another block size, one thread, nothing cached.
            alone = engine_of(limits(max_num_batched_tokens=112, max_model_len=112, kv_block_size=32, num_kv_blocks=4))
            assert results(together[request.id]) == results(finish(alone, {0: [request]})[request.id])
        stats = engine.stats()
        assert stats.num_free_blocks == num_blocks
        assert (stats.num_running, stats.num_waiting) == (0, 0)

    check()


#: of each kind of attention and of experts one
KINDS = [
    "llama", "mistral", "qwen2, tied, window", "qwen3", "gemma2", "gemma3", "gemma4", "gemma4, keys are values",
    "gemma4, experts", "glm4", "granite", "olmo2", "phi3, partial, longrope", "smollm3", "mixtral", "qwen3_moe",
    "qwen3_moe, normalized", "deepseek_v2", "deepseek_v3", "gpt_oss",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_three_hundred_mixed_requests_are_answered_as_each_alone(
    tiny: Callable[[str], Tiny], library: Library, name: str
) -> None:
    rng = random.Random(name)
    crowd = [
        Arrival(index // 3, rng.choice([0, 16, 33, 64]), rng.randint(1, 24), rng.randint(1, 24), 0.0, rng.random() < 0.1)
        for index in range(300)
    ]
    requests = [arrival.request(index) for index, arrival in enumerate(crowd)]
    by_step = {step: [requests[3 * step + i] for i in range(3)] for step in range(100)}
    model = tiny(name)
    engine = EngineCore(model.runner(library, "int4-g32-asym-a8", limits(**CROWD_LIMITS), "bf16"), [])
    together = finish(engine, by_step)
    stats = engine.stats()
    assert stats.num_preemptions > 20 and stats.num_cached_tokens > 1000 and stats.num_free_blocks == stats.num_blocks
    for request in requests:
        room = limits(max_num_batched_tokens=112, max_model_len=112, kv_block_size=32, num_kv_blocks=4)
        alone = EngineCore(model.runner(library, "int4-g32-asym-a8", room, "bf16"), [])
        assert results(together[request.id]) == results(finish(alone, {0: [request]})[request.id])


def test_a_crowd_is_preempted_chunked_and_finds_cached_prefixes(tiny: Callable[[str], Tiny], library: Library) -> None:
    """What `test_company_changes_nothing` relies on."""
    engine = EngineCore(tiny("qwen2").runner(library, "fp32", limits(**CROWD_LIMITS)), [])
    requests = [arrival.request(index) for index, arrival in enumerate(CROWDED)]
    outputs = finish(engine, {0: requests[:3], 1: requests[3:6], 2: requests[6:]})
    stats = engine.stats()
    assert stats.num_preemptions > 0
    assert stats.num_cached_tokens > 0
    assert all(len(r.prompt_token_ids) > CROWD_LIMITS["max_num_batched_tokens"] for r in requests)
    assert stats.num_cached_tokens == sum(outputs[r.id][0].num_cached_tokens for r in requests)
    assert stats.num_prompt_tokens == sum(len(r.prompt_token_ids) for r in requests)
    assert stats.num_generated_tokens == sum(len(outputs[r.id]) for r in requests)


@pytest.mark.parametrize("scheme", ["fp32", "int8", "int8-a8", "int4-g32-sym", "int4-g32-asym-a8"])
def test_the_number_of_threads_changes_no_bit(tiny: Callable[[str], Tiny], library: Library, scheme: str) -> None:
    model = tiny("qwen2")
    one, two, three = (score(model.runner(library, scheme, limits(num_threads=n)), PREFIX).tobytes() for n in (1, 2, 3))
    assert one == two == three
