"""out = f(x[:, :F]) * x[:, F:] in fp32, rounded once: to the activation dtype, or to codes.

silu_and_mul: f(z) = z * sigmoid(z), of SwiGLU. gelu_and_mul: f(z) = z * sigmoid(2 u) with u = sqrt(2 / pi) (z + 0.044715 z^3),
which is the tanh approximation of GELU, z / 2 (1 + tanh u), as Gemma has it. clamped_silu_and_mul: as
kernels/silu_and_mul/spec.py has it, and those that end in _gate. What the quantizing entry points write follows the rule of
kernels/quantize_activations/gpu_spec.py, and codes are of the fp32 product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kernels.quantize_activations.output import PLAIN, QUANTIZED, Form
from kernels.silu_and_mul.spec import SOURCES, random_scalars, scalars
from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _make_inputs(activation: str, form: Form, rng: np.random.Generator, case: Case) -> Arguments:
    t, f = case.sizes["T"], case.sizes["F"]
    x = (rng.standard_normal((t, 2 * f + 8), np.float32) * np.float32(case.sizes["spread"]))[:, : 2 * f]
    return {"x": x, **form.buffers(t, f), **random_scalars(activation)}


def _spec(activation: str, form: Form) -> OpSpec:
    def cost(sizes: Mapping[str, int]) -> Cost:
        elements = sizes["T"] * sizes["F"]
        return Cost((6 if form is PLAIN else 5) * elements, 6 * elements)

    return OpSpec(
        symbol=f"gpu_{activation}_and_mul{form.suffix}",
        op="silu_and_mul",
        summary=f"{activation} of the first half times the second"
        + ("" if form is PLAIN else f", {form.dtype} by {form.scaling}"),
        tensors=(Tensor("x", "act", ("T", "F*2")), *form.tensors("F")),
        scalars=scalars(activation),
        variable=("T",),
        source=SOURCES[activation],
        cases=tuple(
            Case(name, {"T": t, "F": f, "spread": spread})
            for name, t, f, spread in (
                ("several_blocks", 3, 2184, 3),
                ("extreme", 2, 40, 100),
                ("one", 1, 8, 1),
                ("no_tokens", 0, 8, 1),
                # A row that needs a scale and fits into no block.
                *((("long_row", 2, 16392, 3),) if form.scaling == "row" else ()),
            )
        ),
        make_inputs=lambda rng, case: _make_inputs(activation, form, rng, case),
        cost=cost,
        backend="gpu",
    )


def _make_gate_inputs(activation: str, rng: np.random.Generator, case: Case) -> Arguments:
    t, f, spread = case.sizes["T"], case.sizes["F"], np.float32(case.sizes["spread"])
    gate, x = ((rng.standard_normal((t, f + further), np.float32) * spread)[:, :f] for further in (8, 24))
    return {"gate": gate, "x": x, **PLAIN.buffers(t, f), **random_scalars(activation)}


def _gate(activation: str) -> OpSpec:
    return replace(
        _spec(activation, PLAIN),
        symbol=f"gpu_{activation}_gate",
        summary=f"{activation} of one tensor times another",
        tensors=(Tensor("gate", "act", ("T", "F")), Tensor("x", "act", ("T", "F")), *PLAIN.tensors("F")),
        make_inputs=lambda rng, case: _make_gate_inputs(activation, rng, case),
    )


SPECS = (
    *(_spec(activation, form) for activation in SOURCES for form in (PLAIN, *QUANTIZED)),
    *map(_gate, SOURCES),
)
