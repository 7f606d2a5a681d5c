"""out[t, n] = sum_k x[t, k] W[n, k], scaled, (+ bias[n]): operands of one dtype, row-major, summed in fp32 (int8: int32).

Scales multiply the accumulator, once at the end or, where they cover 128 of K, once per 128 of K: sums of 128 products are
taken unscaled. `out` is of the activations' dtype or f32 (the logits): its tensor says which. MXFP4 and NVFP4 weights become
numbers of x's dtype before they are multiplied, on every target alike; NVFP4's scale of the tensor, which each row has for
itself since rows of several tensors may be joined, multiplies the sum. K is a multiple of 16, for MXFP4 of 32.
Layouts: kernels/scaled_matmul/packing.py; x codes and x scales: kernels/quantize_activations/gpu_spec.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from kernels.gpu.launch import DTYPES
from kernels.scaled_matmul.packing import encode_e2m1, encode_e4m3, encode_mxfp4, pack_mxfp4, pack_nvfp4, pair_nibbles
from kernels.scaled_matmul.variants import VARIANTS, Variant
from kernels.spec import Arguments, Array, Case, Cost, OpSpec, Tensor, axis_extent

_CASES = tuple(
    Case(name, {"T": t, "N": n, "K": k, "bias": bias, "apart": apart})
    for name, t, n, k, bias, apart in (
        ("decode", 1, 160, 576, 0, 0),
        ("ragged", 37, 72, 288, 1, 0),
        ("one_channel", 2, 1, 32, 1, 0),
        ("prefill", 150, 200, 192, 0, 0),
        ("rows_apart", 21, 64, 64, 1, 16),
        ("no_tokens", 0, 64, 64, 0, 0),
    )
)


def _codes(rng: np.random.Generator, variant: Variant, rows: int, width: int, apart: int, size: float) -> Array:
    """Entries of about `size` where the dtype has a scale of its own; rows `apart` further apart than they are long."""
    shape = (rows, width + apart)
    if variant.dtype == "i8":
        return rng.integers(-127, 128, shape, np.int8)[:, :width]
    if variant.dtype == "e4m3":
        return encode_e4m3(rng.standard_normal(shape, np.float32) * np.float32(100))[:, :width]
    return (rng.standard_normal(shape, np.float32) * np.float32(size))[:, :width]


def random_float4(rng: np.random.Generator, variant: Variant, rows: int, width: int) -> dict[str, Array]:
    """Packed parts of a random matrix of 4-bit floats."""
    if variant.scaling == "mx":
        # Rows of different sizes have different scales.
        values = rng.standard_normal((rows, width), np.float32)
        values = values * np.exp2(rng.integers(-6, 1, (rows, width // 32))).repeat(32, axis=1)
        codes, scales = pack_mxfp4(*encode_mxfp4(values.astype(np.float32)))
        return {"codes": codes, "scales": scales}
    # Every scale, subnormal ones too.
    local = rng.integers(0, 0x7F, (rows, width // 16), np.uint8)
    numbers = encode_e2m1(rng.standard_normal((rows, width), np.float32) * np.float32(3))
    codes, scales = pack_nvfp4(pair_nibbles(numbers), local)
    return {"codes": codes, "scales": scales, "row_scales": rng.uniform(0.005, 0.02, rows).astype(np.float32)}


def _spec(symbol: str, variant: Variant) -> OpSpec:
    tensors = (*variant.tensors, Tensor("bias", "f32", ("N",), optional=True), Tensor("out", "act", ("T", "N"), "out"))

    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, n, k = (case.sizes[axis] for axis in "TNK")
        made: Arguments = {variant.x: _codes(rng, variant, t, k, case.sizes["apart"], 1.0)}
        if variant.is_float4:
            made |= random_float4(rng, variant, n, k)
        else:
            made[variant.weight] = _codes(rng, variant, n, k, 0, k**-0.5)
        for tensor in tensors:
            if tensor.dtype == "f32" and not tensor.optional and tensor.name not in made:
                shape = tuple(axis_extent(axis, case.sizes) for axis in tensor.axes)
                made[tensor.name] = rng.uniform(0.005, 0.02, shape).astype(np.float32)
        made["bias"] = rng.standard_normal(n, np.float32) if case.sizes["bias"] else None
        made["out"] = np.zeros((t, n + case.sizes["apart"]), np.float32)[:, :n]
        return made

    def cost(sizes: Mapping[str, int]) -> Cost:
        widths = {"act": 2, **{name: width for name, (width, _) in DTYPES.items()}}
        moved = (widths[tensor.dtype] * prod(axis_extent(axis, sizes) for axis in tensor.axes) for tensor in tensors)
        return Cost(sum(moved), 2.0 * sizes["T"] * sizes["N"] * sizes["K"])

    return OpSpec(
        symbol=symbol,
        op="scaled_matmul",
        summary=variant.summary,
        tensors=tensors,
        scalars=(),
        variable=("T",),
        source="Xiao et al. 2022, SmoothQuant; DeepSeek-AI 2024, DeepSeek-V3 (section 3.3); OCP Microscaling Formats 1.0",
        cases=_CASES,
        make_inputs=make_inputs,
        cost=cost,
        backend="gpu",
    )


SPECS = tuple(_spec(symbol, variant) for symbol, variant in VARIANTS.items())
