"""out = f(x[:, :F]) * x[:, F:], a gated activation.

silu_and_mul: f(z) = z / (1 + e^-z), of SwiGLU. gelu_and_mul: f(z) = z / 2 (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))), the
approximation of GELU that Gemma has. Those that end in _a8 write what quantize_activations makes of that, to the bit.
clamped_silu_and_mul: with z = min(x[:, :F], limit), out = z / (1 + e^(-slope z)) * (1 + max(-limit, min(x[:, F:], limit))).
Those that end in _gate have both halves as tensors of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kernels.quantize_activations.spec import quantized, quantized_buffers
from kernels.spec import Arguments, Case, Cost, OpSpec, Scalar, Tensor

SOURCES = {
    "silu": "Shazeer 2020, GLU Variants Improve Transformer",
    "gelu": "Hendrycks & Gimpel 2016, Gaussian Error Linear Units; Shazeer 2020, GLU Variants Improve Transformer",
    "clamped_silu": "OpenAI 2025, gpt-oss-120b & gpt-oss-20b Model Card (2.2)",
}


def scalars(activation: str) -> tuple[Scalar, ...]:
    """What an entry point of `activation` takes beside its tensors."""
    return (Scalar("limit", "f64"), Scalar("slope", "f64")) if activation == "clamped_silu" else ()


def random_scalars(activation: str) -> Arguments:
    """Such that some of a test's values are clamped."""
    return {"limit": 2.5, "slope": 1.702} if activation == "clamped_silu" else {}


def _make_inputs(activation: str, rng: np.random.Generator, case: Case) -> Arguments:
    t, f = case.sizes["T"], case.sizes["F"]
    x = rng.standard_normal((t, 2 * f), np.float32) * np.float32(case.sizes["spread"])
    return {"x": x, "out": np.zeros((t, f), np.float32), **random_scalars(activation)}


def _cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["T"] * sizes["F"]
    return Cost(12 * elements, 5 * elements)


def _make_a8_inputs(activation: str, rng: np.random.Generator, case: Case) -> Arguments:
    t, f = case.sizes["T"], case.sizes["F"]
    return {"x": rng.standard_normal((t, 2 * f), np.float32), **quantized_buffers(t, f), **random_scalars(activation)}


def _a8_cost(sizes: Mapping[str, int]) -> Cost:
    elements = sizes["T"] * sizes["F"]
    return Cost(9 * elements, 9 * elements)


def _specs(activation: str, source: str) -> tuple[OpSpec, OpSpec]:
    return (
        OpSpec(
            symbol=f"{activation}_and_mul",
            op="silu_and_mul",
            summary=f"{activation} of the first half times the second",
            tensors=(Tensor("x", "f32", ("T", "F*2")), Tensor("out", "f32", ("T", "F"), "out")),
            scalars=scalars(activation),
            variable=("T",),
            source=source,
            cases=tuple(
                Case(name, {"T": t, "F": f, "spread": spread})
                for name, t, f, spread in (
                    ("some", 5, 40, 3),
                    ("extreme", 2, 33, 100),
                    ("one", 1, 7, 1),
                    ("no_tokens", 0, 8, 1),
                )
            ),
            make_inputs=lambda rng, case: _make_inputs(activation, rng, case),
            cost=_cost,
        ),
        OpSpec(
            symbol=f"{activation}_and_mul_a8",
            op="silu_and_mul",
            summary=f"{activation} of the first half times the second, quantized per token",
            tensors=(Tensor("x", "f32", ("T", "F*2")), *quantized("F")),
            scalars=scalars(activation),
            variable=("T",),
            source=f"{source}; Dettmers et al. 2022, LLM.int8() (section 2.1, absmax)",
            cases=tuple(Case(name, {"T": t, "F": f}) for name, t, f in (("some", 5, 96), ("one", 1, 32), ("no_tokens", 0, 32))),
            make_inputs=lambda rng, case: _make_a8_inputs(activation, rng, case),
            cost=_a8_cost,
        ),
    )


def _make_gate_inputs(activation: str, rng: np.random.Generator, case: Case) -> Arguments:
    t, f, spread = case.sizes["T"], case.sizes["F"], np.float32(case.sizes["spread"])
    gate, x = ((rng.standard_normal((t, f + further), np.float32) * spread)[:, :f] for further in (0, 24))
    return {"gate": gate, "x": x, "out": np.zeros((t, f), np.float32), **random_scalars(activation)}


def _gate(activation: str, source: str) -> OpSpec:
    plain, _ = _specs(activation, source)
    return replace(
        plain,
        symbol=f"{activation}_gate",
        summary=f"{activation} of one tensor times another",
        tensors=(Tensor("gate", "f32", ("T", "F")), Tensor("x", "f32", ("T", "F")), Tensor("out", "f32", ("T", "F"), "out")),
        make_inputs=lambda rng, case: _make_gate_inputs(activation, rng, case),
    )


SPECS = tuple(
    spec for activation, source in SOURCES.items() for spec in (*_specs(activation, source), _gate(activation, source))
)
