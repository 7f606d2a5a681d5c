"""out[t, n] = sum_k x[t, k] W[n, k] (+ bias[n]) with W quantized and x not: w8a16 and w4a16, as `gpu_packing.py` packs them.

x in the activation dtype; `out` too, or f32 where a caller binds an f32 tensor (a head's logits). Codes less their zero are
integers that bf16 and f16 hold exactly, and are multiplied as such, accumulated in fp32; the f32 scale of a row (int8) or the
f16 scale of a group of G columns (int4; G is 32, 64 or 128 and divides K) meets the sum in fp32. Nothing but x and out is ever
rounded to 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.quant_matmul.gpu_packing import GPU_VARIANTS, pack, packed_tensors
from kernels.spec import Arguments, Array, Case, Cost, OpSpec, Tensor

_CASES = tuple(
    Case(name, {"T": t, "K": k, "N": n, "G": g, "bias": bias})
    for name, t, k, n, g, bias in (
        ("decode", 1, 256, 144, 128, 0),
        ("split", 3, 512, 48, 64, 1),
        ("ragged", 13, 192, 72, 64, 1),
        ("half_a_chunk", 2, 96, 40, 32, 0),
        ("prefill", 70, 128, 100, 32, 0),
        ("no_tokens", 0, 64, 32, 32, 0),
    )
)


def random_weight(rng: np.random.Generator, variant: str, rows: int, columns: int, group_size: int) -> dict[str, Array]:
    """Packed parts of a random matrix with entries of about 1 / sqrt(columns)."""
    if variant == "int8":
        codes = rng.integers(-128, 128, (rows, columns), np.int8)
        return pack({"codes": codes, "scales": (rng.uniform(0.01, 0.02, rows) / columns**0.5).astype(np.float32)}, "int8")
    groups = (rows, columns // group_size)
    parts: dict[str, Array] = {
        "codes": rng.integers(0, 16, (rows, columns), np.uint8),
        # A symmetric scale may be negative.
        "scales": (rng.uniform(-0.4, 0.4, groups) / columns**0.5).astype(np.float16),
    }
    if variant == "int4_asym":
        parts["zeros"] = rng.integers(0, 17, groups, np.uint8)
    return pack(parts, "int4")


def _spec(variant: str) -> OpSpec:
    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, k, n = (case.sizes[axis] for axis in "TKN")
        # Rows of x and of out lie further apart than they are long.
        return {
            "x": rng.standard_normal((t, k + 16), np.float32)[:, :k],
            **random_weight(rng, variant, n, k, case.sizes["G"]),
            "bias": rng.standard_normal(n, np.float32) if case.sizes["bias"] else None,
            "out": np.full((t, n + 8), 7, np.float32)[:, :n],
        }

    def cost(sizes: Mapping[str, int]) -> Cost:
        t, k, n = (sizes[axis] for axis in "TKN")
        per_group = {"int8": 0, "int4_sym": 2, "int4_asym": 4}[variant] * sizes.get("groups", 0)
        weights = n * (k + 4) if variant == "int8" else n * (k / 2 + per_group)
        return Cost(weights + 2 * t * (k + n), 2.0 * t * k * n)

    return OpSpec(
        symbol=f"gpu_quant_matmul_{variant}",
        op="quant_matmul",
        summary=f"x times the transpose of a packed {variant} matrix",
        tensors=(
            Tensor("x", "act", ("T", "K")),
            *packed_tensors(variant, "N", "K"),
            Tensor("bias", "f32", ("N",), optional=True),
            Tensor("out", "act", ("T", "N"), "out"),
        ),
        scalars=(),
        variable=("T",),
        source="Frantar et al. 2022, GPTQ; Lin et al. 2023, AWQ (groups); Kim et al. 2022, Who Says Elephants Can't Run",
        cases=_CASES,
        make_inputs=make_inputs,
        cost=cost,
        backend="gpu",
    )


SPECS = tuple(_spec(variant) for variant in GPU_VARIANTS)
