"""Truncation against a sort, the noise against Philox's published vectors, and frequencies against the distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels import registry
from kernels.interpreter import Interpreter
from kernels.sampling.gpu_reference import gpu_sample, philox
from runtime.request import Request, SamplingParams
from runtime.sampler import sample
from runtime.sequence import Sequence
from tests.kernels.gpu import contract
from tests.kernels.gpu.support import support_kernel

FILTERS = [
    # temperature, top_k, top_p, min_p
    (1.0, 0, 1.0, 0.0),
    (1.0, 1, 1.0, 0.0),
    (2.0, 7, 1.0, 0.0),
    (1.0, 99, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (4.0, 0, 0.35, 0.0),
    (0.3, 0, 0.999, 0.0),
    (1.0, 0, 1.0, 0.2),
    (2.0, 9, 0.6, 0.0),
    (8.0, 30, 0.4, 0.1),
    (3.0, 5, 0.97, 0.5),
]


def _sorted_support(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> set[int]:
    """By the definitions: order all tokens by (likelihood, id), then cut the list, once for each filter."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    order = [int(t) for t in np.lexsort((np.arange(len(weights)), -weights)) if weights[t] >= max(min_p, 1e-300)]
    order = order[: top_k or None]
    if top_p < 1:
        cumulative = np.cumsum(weights[order])
        order = order[: int(np.argmax(cumulative >= top_p * cumulative[-1])) + 1]
    return set(order)


@pytest.mark.parametrize("number", range(len(FILTERS)))
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_truncation_leaves_what_a_sort_leaves(ties: bool, number: int) -> None:
    rng = np.random.default_rng(number)
    logits = rng.standard_normal(60).astype(np.float32) * 3
    if ties:
        logits = np.round(logits)
    logits[::9] = -np.inf
    kept = torch.zeros(60, dtype=torch.int32)
    values, ids = torch.zeros(64), torch.zeros(64, dtype=torch.int32)
    # A workspace that holds every candidate, and in turn with it one that does not.
    capacity = (64, 2)[number % 2]
    x = torch.from_numpy(logits)
    support_kernel[(1,)](x, kept, values, ids, *FILTERS[number], V=60, CAPACITY=capacity, BLOCK=32, WHOLE=64)
    assert set(kept.nonzero().flatten().tolist()) == _sorted_support(logits, *FILTERS[number])


def _philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's integers (Salmon et al. 2011, section 3.3)."""
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            second >> 32 ^ counter[1] ^ key[0],
            second & 0xFFFFFFFF,
            first >> 32 ^ counter[3] ^ key[1],
            first & 0xFFFFFFFF,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def test_noise_is_philox() -> None:
    # Known answers of Random123, the authors' own implementation.
    assert _philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert _philox([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    seeds = torch.tensor([0, 1, 2**40 + 7, -1])
    positions = torch.tensor([0, 5, 131071, 2**31 - 1], dtype=torch.int32)
    words = philox(seeds, positions, 10)
    for row, (seed, position) in enumerate(zip(seeds.tolist(), positions.tolist(), strict=True)):
        key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
        expected = [word for quad in range(3) for word in _philox([quad, position, 0, 0], list(key))]
        assert words[row].tolist() == expected[:10]


def _draw(logits: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor, run: bool, **filters: float) -> torch.Tensor:
    """Tokens for rows of `logits`, by the kernel if `run`, else by the reference."""
    rows = len(logits)
    arguments: dict[str, torch.Tensor | None] = {
        "logits": logits,
        "temperatures": torch.full((rows,), filters.get("temperature", 1.0)),
        "top_ks": torch.full((rows,), int(filters.get("top_k", 0)), dtype=torch.int32),
        "top_ps": torch.full((rows,), filters.get("top_p", 1.0)),
        "min_ps": torch.full((rows,), filters.get("min_p", 0.0)),
        "seeds": seeds,
        "positions": positions,
        "token_ids": torch.zeros(rows, dtype=torch.int32),
    }
    if run:
        problem = contract.problem(registry.spec("gpu_sample"), arguments)
        Interpreter().run(registry.plan_call(problem, contract.TARGET), arguments)
    else:
        gpu_sample(**arguments)  # type: ignore[arg-type]
    token_ids = arguments["token_ids"]
    assert token_ids is not None
    return token_ids


def _steps(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(num) % 97, (torch.arange(num) // 97).to(torch.int32)


@pytest.mark.parametrize("filters", [{}, {"temperature": 2.0}, {"temperature": 1.5, "top_k": 6, "top_p": 0.9}], ids=str)
def test_frequencies_are_those_of_the_distribution(filters: dict[str, float]) -> None:
    num = 8000
    logits = torch.linspace(-2, 2, 12)[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    drawn = _draw(logits.expand(num, 12), *_steps(num), run=False, **filters)
    weights = np.exp(logits.double().numpy() / filters.get("temperature", 1.0))
    kept = _sorted_support(
        logits.numpy(), filters.get("temperature", 1.0), int(filters.get("top_k", 0)), filters.get("top_p", 1.0), 0.0
    )
    expected = np.array([weights[t] if t in kept else 0.0 for t in range(12)])
    expected *= num / expected.sum()
    counts = np.bincount(drawn.numpy(), minlength=12)
    assert not counts[expected == 0].any()
    there = expected > 0
    chi_square = float(((counts - expected)[there] ** 2 / expected[there]).sum())
    # 99.9 % of chi-square with 11 degrees of freedom lies below this.
    assert chi_square < 31.3


def test_kernel_draws_what_the_reference_draws() -> None:
    logits = torch.randn(24, 40, generator=torch.Generator().manual_seed(5))
    seeds, positions = torch.arange(24) * 2**33, torch.arange(24, dtype=torch.int32)
    assert torch.equal(_draw(logits, seeds, positions, True), _draw(logits, seeds, positions, False))


def test_draw_does_not_depend_on_the_batch() -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(6))
    seeds, positions = torch.tensor([7, 8, 9]), torch.tensor([1, 2, 3], dtype=torch.int32)
    together = _draw(logits, seeds, positions, True)
    alone = [_draw(logits[row : row + 1], seeds[row : row + 1], positions[row : row + 1], True) for row in (2, 1, 0)]
    assert together.tolist() == [int(token) for token in reversed(torch.cat(alone).tolist())]


def test_greedy_and_supports_are_those_of_the_cpu() -> None:
    """Over many positions, this and runtime.sampler draw the same set of tokens."""
    logits = torch.randn(1, 16, generator=torch.Generator().manual_seed(2)) * 2
    params = SamplingParams(temperature=2.0, top_k=9, top_p=0.8, min_p=0.02, seed=3)
    num = 3000
    ours = _draw(logits.expand(num, 16), *_steps(num), run=False, temperature=2.0, top_k=9, top_p=0.8, min_p=0.02)
    theirs = set()
    for position in range(600):
        sequence = Sequence(Request("r", tuple(range(1)), params), [0] * (position + 1))
        theirs.add(sample(logits[0].numpy(), sequence, frozenset())[0])
    assert set(ours.tolist()) == theirs
    greedy = SamplingParams(temperature=0)
    tied = torch.tensor([[0.0, 3.0, -1.0, 3.0]])
    token, _ = sample(tied[0].numpy(), Sequence(Request("r", (0,), greedy), [0]), frozenset())
    one = torch.zeros(1, dtype=torch.int64)
    assert _draw(tied, one, one.to(torch.int32), True, temperature=0.0).item() == token == 1
