"""Biases and penalties on logits, in place, before they are sampled; and the table of what each sequence has seen.

process_logits, in this order, which is that of runtime/sampler.py: adds a bias to single tokens (-inf forbids one; an id of -1
is padding, and no id comes twice in a row); divides positive logits of every token seen by the repetition penalty and
multiplies the others; subtracts frequency x count + presence from those of generated tokens.

`seen` has a row per sequence, and slots[r] is the row of row r of the logits; a slot of -1 has no penalties. An entry is
2 x times generated + (1 if it is in the prompt). count_tokens adds the tokens that were drawn; slots that are not -1 differ.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _slots(rng: np.random.Generator, num_rows: int, num_slots: int) -> np.ndarray:
    slots = rng.permutation(num_slots)[:num_rows].astype(np.int32)
    slots[1:2] = -1
    return slots


def _seen(rng: np.random.Generator, num_slots: int, vocab_size: int) -> np.ndarray:
    return (rng.integers(0, 7, (num_slots, vocab_size)) * (rng.random((num_slots, vocab_size)) < 0.5)).astype(np.int32)


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    r, v, s, b = (case.sizes[axis] for axis in "RVSB")
    bias_ids = np.stack([rng.permutation(v)[:b] for _ in range(r)]) if r else np.zeros((0, b))
    biases = rng.standard_normal((r, b), np.float32) * np.float32(5)
    bias_ids[:, 1::3] = -1
    return {
        "logits": (rng.standard_normal((r, v + 8), np.float32) * np.float32(4))[:, :v],
        "slots": _slots(rng, r, s),
        "seen": _seen(rng, s, v),
        "repetition_penalties": rng.uniform(0.5, 2, r).astype(np.float32),
        "frequency_penalties": rng.uniform(-1, 1, r).astype(np.float32),
        "presence_penalties": rng.uniform(-1, 1, r).astype(np.float32),
        "bias_ids": bias_ids.astype(np.int32),
        "biases": biases,
    }


def _make_count_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    r, v, s = (case.sizes[axis] for axis in "RVS")
    return {
        "token_ids": rng.integers(0, v, r, np.int32),
        "slots": _slots(rng, r, s),
        "seen": _seen(rng, s, v),
    }


def _cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["R"] * sizes["V"]
    return Cost(12 * elements, 6 * elements)


_SOURCE = "Keskar et al. 2019, CTRL (repetition penalty, section 4.1); OpenAI API reference (frequency and presence penalties)"

SPECS = (
    OpSpec(
        symbol="gpu_process_logits",
        op="process_logits",
        summary="biases and penalties on logits",
        tensors=(
            Tensor("logits", "f32", ("R", "V"), "inout"),
            Tensor("slots", "i32", ("R",)),
            Tensor("seen", "i32", ("S", "V")),
            Tensor("repetition_penalties", "f32", ("R",)),
            Tensor("frequency_penalties", "f32", ("R",)),
            Tensor("presence_penalties", "f32", ("R",)),
            Tensor("bias_ids", "i32", ("R", "B")),
            Tensor("biases", "f32", ("R", "B")),
        ),
        scalars=(),
        variable=("R",),
        source=_SOURCE,
        cases=tuple(
            Case(name, {"R": r, "V": v, "S": s, "B": b})
            for name, r, v, s, b in (
                ("some", 3, 50, 5, 12),
                ("several_blocks", 2, 2100, 2, 300),
                ("one", 1, 8, 1, 1),
                ("no_rows", 0, 50, 3, 4),
            )
        ),
        make_inputs=_make_inputs,
        cost=_cost,
        backend="gpu",
    ),
    OpSpec(
        symbol="gpu_count_tokens",
        op="process_logits",
        summary="adds drawn tokens to what their sequences have seen",
        tensors=(
            Tensor("token_ids", "i32", ("R",)),
            Tensor("slots", "i32", ("R",)),
            Tensor("seen", "i32", ("S", "V"), "inout"),
        ),
        scalars=(),
        variable=("R",),
        source=_SOURCE,
        cases=tuple(
            Case(name, {"R": r, "V": v, "S": s})
            for name, r, v, s in (("some", 4, 50, 6), ("one", 1, 8, 1), ("no_rows", 0, 50, 3))
        ),
        make_inputs=_make_count_inputs,
        cost=lambda sizes: Cost(16 * sizes["R"], sizes["R"]),
        backend="gpu",
    ),
)
