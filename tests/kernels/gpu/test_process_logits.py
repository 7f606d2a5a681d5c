"""Biases and penalties against the CPU's, for the same sequence."""

from __future__ import annotations

import numpy as np
import torch

from kernels import registry
from kernels.interpreter import Interpreter
from runtime.request import Request, SamplingParams
from runtime.sampler import _adjust
from runtime.sequence import Sequence
from tests.kernels.gpu import contract


def _run(symbol: str, arguments: dict[str, torch.Tensor | None]) -> None:
    problem = contract.problem(registry.spec(symbol), arguments)
    Interpreter().run(registry.plan_call(problem, contract.TARGET), arguments)


def test_a_sequence_is_penalized_as_on_the_cpu() -> None:
    """Token by token: what was drawn is counted, then penalizes the next logits; the bias forbids stop tokens at first."""
    vocab_size, prompt = 20, [3, 4, 4, 9]
    params = SamplingParams(
        repetition_penalty=1.3,
        presence_penalty=0.4,
        frequency_penalty=-0.7,
        logit_bias={4: 2.5, 7: -3.0},
        min_tokens=3,
        max_tokens=9,
        stop_token_ids=frozenset({11}),
    )
    sequence = Sequence.from_request(Request("r", tuple(prompt), params))
    seen = torch.zeros(2, vocab_size, dtype=torch.int32)
    seen[1, prompt] = 1
    rng = np.random.default_rng(0)
    for drawn in (5, 4, 5, 9, 5):
        logits = rng.standard_normal(vocab_size).astype(np.float32) * 3
        expected = _adjust(logits, sequence, frozenset({2}))
        biases = dict(params.logit_bias)
        if sequence.num_generated_tokens < params.min_tokens:
            biases |= {2: -np.inf, 11: -np.inf}
        ids = torch.tensor([[*biases, *[-1] * (6 - len(biases))]], dtype=torch.int32)
        values = torch.tensor([[*biases.values(), *[0.0] * (6 - len(biases))]])
        row = torch.from_numpy(logits)[None].clone()
        slots = torch.ones(1, dtype=torch.int32)
        _run(
            "gpu_process_logits",
            {
                "logits": row,
                "slots": slots,
                "seen": seen,
                "repetition_penalties": torch.tensor([params.repetition_penalty]),
                "frequency_penalties": torch.tensor([params.frequency_penalty]),
                "presence_penalties": torch.tensor([params.presence_penalty]),
                "bias_ids": ids,
                "biases": values,
            },
        )
        np.testing.assert_allclose(row[0].numpy(), expected, rtol=1e-6, atol=1e-6)
        _run("gpu_count_tokens", {"token_ids": torch.tensor([drawn], dtype=torch.int32), "slots": slots, "seen": seen})
        sequence.token_ids.append(drawn)
