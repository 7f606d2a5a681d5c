"""out[t, n] = sum_k x[t, k] W[n, k] (+ bias[n]), W in a layout of kernels/formats/; fp32 accumulation in ascending k.

The `_a8` entry points take int8 activations (see quantize_activations): integer dot products over each group of K, exact
in int32, then out = x_scale * sum over groups of scale * (dot - zero * sum of x codes). Under int4_twolevel the dot product is
over all of K, of step * (code - 8). `_a16` takes int16 activations as two rows of bytes, which stand for 256 times the first
plus the second.
"""

from __future__ import annotations

from collections.abc import Mapping

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


def random_weight(rng: np.random.Generator, variant: str, rows: int, columns: int, group_size: int) -> dict[str, Array]:
    """Packed parts of a random matrix with entries of about 1 / sqrt(columns)."""
    values = rng.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)
    packing = cpu_packing(variant)
    return packing.pack(packing.random(rng, values, group_size))


def _spec(variant: str) -> OpSpec:
    rows_per_token = 2 if variant.endswith("a16") else 1
    is_integer = variant.endswith(("a8", "a16"))
    if is_integer:
        rows = "T" if rows_per_token == 1 else f"T*{rows_per_token}"
        inputs: tuple[Tensor, ...] = (
            Tensor("x_codes", "i8", (rows, "K")),
            Tensor("x_scales", "f32", ("T",)),
            Tensor("x_sums", "i32", (rows, "K/32")),
        )
    else:
        inputs = (Tensor("x", "f32", ("T", "K")),)
    layout = cpu_packing(variant)

    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, k, n = (case.sizes[axis] for axis in "TKN")
        arguments: Arguments = {**random_weight(rng, variant, n, k, case.sizes["G"])}
        arguments["bias"] = rng.standard_normal(n, np.float32) if case.sizes["bias"] else None
        arguments["out"] = np.zeros((t, n), np.float32)
        if not is_integer:
            return arguments | {"x": rng.standard_normal((t, k), np.float32)}
        codes = rng.integers(-127, 128, (t * rows_per_token, k), np.int8)
        scales = rng.uniform(0.01, 0.02, t).astype(np.float32)
        return arguments | {
            "x_codes": codes,
            "x_scales": scales,
            "x_sums": codes.reshape(len(codes), k // 32, 32).sum(axis=2, dtype=np.int32).cumsum(axis=1, dtype=np.int32),
        }

    def cost(sizes: Mapping[str, int]) -> Cost:
        t, k, n = (sizes[axis] for axis in "TKN")
        activations = t * k * (rows_per_token if is_integer else 4)
        weights = n * k * layout.bits(sizes.get("G", 0)) / 8
        return Cost(weights + activations + 4 * t * n, 2.0 * t * k * n * rows_per_token)

    return OpSpec(
        symbol=f"quant_matmul_{variant}",
        op="quant_matmul",
        summary=f"x times the transpose of a packed {variant} matrix",
        tensors=(
            *inputs,
            *layout.tiled("N/16", "K"),
            Tensor("bias", "f32", ("N",), optional=True),
            Tensor("out", "f32", ("T", "N"), "out"),
        ),
        scalars=(),
        variable=("T",),
        source="Frantar et al. 2022, GPTQ (groups); Xiao et al. 2022, SmoothQuant (per-token int8 activations)",
        cases=_CASES,
        make_inputs=make_inputs,
        cost=cost,
    )


SPECS = tuple(_spec(variant) for variant in cpu_products())
