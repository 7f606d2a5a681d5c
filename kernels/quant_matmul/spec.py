"""out[t, n] = sum_k x[t, k] W[n, k] (+ bias[n]), W in a layout of kernels/formats/; fp32 accumulation in ascending k.

The `_a8` entry points take int8 activations (see quantize_activations): integer dot products over each group of K, exact
in int32, then out = x_scale * sum over groups of scale * (dot - zero * sum of x codes). Under int4_twolevel the dot product is
over all of K, of step * (code - 8). `_a16` takes int16 activations as two rows of bytes, which stand for 256 times the first
plus the second.

The `_experts` entry points have E matrices of N rows each, N a multiple of 16, and as many biases, or none: rows offsets[e] to
offsets[e + 1] of x are multiplied by the e-th, 0 <= offsets[0] <= ... <= offsets[E] <= T; other rows of out stay as they are.
Each row's numbers are those that the product with its matrix alone has, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kernels.formats.table import cpu_packing, cpu_products
from kernels.spec import Arguments, Array, Case, Cost, OpSpec, Tensor

_CASES = tuple(
    Case(name, {"T": t, "K": k, "N": n, "G": g, "bias": bias})
    for name, t, k, n, g, bias in (
        ("decode", 1, 192, 160, 32, 0),
        ("ragged_rows", 13, 128, 72, 64, 1),
        ("one_channel", 2, 64, 1, 32, 1),
        ("prefill", 37, 256, 100, 128, 0),
        ("groups_of_192", 21, 576, 48, 192, 0),
        ("no_tokens", 0, 64, 32, 32, 0),
    )
)
_EXPERT_CASES = tuple(
    Case(name, {"T": t, "E": e, "hit": hit, "K": k, "N": n, "G": g, "bias": bias, "others": others})
    for name, t, e, hit, k, n, g, bias, others in (
        ("decode", 4, 9, 4, 192, 160, 32, 1, 0),
        ("one_row", 1, 5, 1, 64, 48, 64, 0, 0),
        ("one_expert", 21, 3, 1, 128, 80, 64, 0, 0),
        ("prefill", 90, 6, 4, 256, 96, 128, 1, 0),
        ("some_rows", 30, 4, 3, 64, 48, 32, 1, 11),
        ("no_tokens", 0, 4, 2, 64, 32, 32, 1, 0),
    )
)


def random_weight(rng: np.random.Generator, variant: str, rows: int, columns: int, group_size: int) -> dict[str, Array]:
    """Packed parts of a random matrix with entries of about 1 / sqrt(columns)."""
    values = rng.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)
    packing = cpu_packing(variant)
    return packing.pack(packing.random(rng, values, group_size))


def is_integer(variant: str) -> bool:
    """Whether activations come as integers."""
    return variant.endswith(("a8", "a16"))


def rows_per_token(variant: str) -> int:
    """Of integer activations: the high and the low bytes of 16 bits are rows of their own."""
    return 2 if variant.endswith("a16") else 1


def _activations(variant: str) -> tuple[Tensor, ...]:
    if not is_integer(variant):
        return (Tensor("x", "f32", ("T", "K")),)
    rows = "T" if rows_per_token(variant) == 1 else f"T*{rows_per_token(variant)}"
    return (
        Tensor("x_codes", "i8", (rows, "K")),
        Tensor("x_scales", "f32", ("T",)),
        Tensor("x_sums", "i32", (rows, "K/32")),
    )


def _random_activations(rng: np.random.Generator, variant: str, t: int, k: int) -> Arguments:
    if not is_integer(variant):
        return {"x": rng.standard_normal((t, k), np.float32)}
    codes = rng.integers(-127, 128, (t * rows_per_token(variant), k), np.int8)
    return {
        "x_codes": codes,
        "x_scales": rng.uniform(0.01, 0.02, t).astype(np.float32),
        "x_sums": codes.reshape(len(codes), k // 32, 32).sum(axis=2, dtype=np.int32).cumsum(axis=1, dtype=np.int32),
    }


def _cost(variant: str, sizes: Mapping[str, int]) -> Cost:
    """Of experts, every one that can have rows is read once."""
    t, k, n = (sizes[axis] for axis in "TKN")
    activations = t * k * (rows_per_token(variant) if is_integer(variant) else 4)
    weights = min(sizes.get("E", 1), max(t, 1)) * n * k * cpu_packing(variant).bits(sizes.get("G", 0)) / 8
    return Cost(weights + activations + 4 * t * n, 2.0 * t * k * n * rows_per_token(variant))


def _spec(variant: str) -> OpSpec:
    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, k, n = (case.sizes[axis] for axis in "TKN")
        arguments: Arguments = {**random_weight(rng, variant, n, k, case.sizes["G"])}
        arguments["bias"] = rng.standard_normal(n, np.float32) if case.sizes["bias"] else None
        arguments["out"] = np.zeros((t, n), np.float32)
        return arguments | _random_activations(rng, variant, t, k)

    return OpSpec(
        symbol=f"quant_matmul_{variant}",
        op="quant_matmul",
        summary=f"x times the transpose of a packed {variant} matrix",
        tensors=(
            *_activations(variant),
            *cpu_packing(variant).tiled("N/16", "K"),
            Tensor("bias", "f32", ("N",), optional=True),
            Tensor("out", "f32", ("T", "N"), "out"),
        ),
        scalars=(),
        variable=("T",),
        source="Frantar et al. 2022, GPTQ (groups); Xiao et al. 2022, SmoothQuant (per-token int8 activations)",
        cases=_CASES,
        make_inputs=make_inputs,
        cost=lambda sizes: _cost(variant, sizes),
    )


def _experts_spec(variant: str) -> OpSpec:
    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, e, k, n = (case.sizes[axis] for axis in "TEKN")
        # Some have all rows, most have none; a few rows, before and behind, are other matrices'.
        hit, others = rng.permutation(e)[: case.sizes["hit"]], case.sizes["others"]
        counts = np.bincount(rng.choice(hit, t - others), minlength=e) if t else np.zeros(e, np.int64)
        weight = random_weight(rng, variant, e * n, k, case.sizes["G"])
        return {
            **{name: tiles.reshape(e, -1, *tiles.shape[1:]) for name, tiles in weight.items()},
            "bias": rng.standard_normal((e, n), np.float32) if case.sizes["bias"] else None,
            "offsets": (np.concatenate([[0], counts.cumsum()]) + others // 2).astype(np.int32),
            "out": np.zeros((t, n), np.float32),
            **_random_activations(rng, variant, t, k),
        }

    tiles = cpu_packing(variant).tiled("N/16", "K")
    return OpSpec(
        symbol=f"quant_matmul_experts_{variant}",
        op="quant_matmul",
        summary=f"rows of x times the transpose of their expert's packed {variant} matrix",
        tensors=(
            *_activations(variant),
            *(replace(tensor, axes=("E", *tensor.axes)) for tensor in tiles),
            Tensor("offsets", "i32", ("E+1",)),
            Tensor("out", "f32", ("T", "N"), "out"),
            Tensor("bias", "f32", ("E", "N"), optional=True, is_added=True),
        ),
        scalars=(),
        variable=("T",),
        source="Shazeer et al. 2017, Outrageously Large Neural Networks; Gale et al. 2022, MegaBlocks (grouped products)",
        cases=_EXPERT_CASES,
        make_inputs=make_inputs,
        cost=lambda sizes: _cost(variant, sizes),
    )


SPECS = tuple(make(variant) for make in (_spec, _experts_spec) for variant in cpu_products())
