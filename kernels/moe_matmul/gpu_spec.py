"""Mixture of experts, the experts: out[t, j, n] = topk_weights[t, j] (sum_c x[t, j, c] W[e(t, j), n, c] + bias[e(t, j), n]).

Sums are accumulated in fp32. The bias may be left out.

Pair (t, j) is token t at the j-th of its k experts. Rows are gathered by the alignment of moe_route (`gpu_moe_align`), whose
block_m is the tile's rows, and written to where the pair belongs; blocks beyond num_padded do nothing. x is [T, 1, K], a row
that all the experts of a token read, or [T, k, K], one for each (the second matmul of an expert). Without topk_weights the
factor is 1. There are no atomics: `gpu_moe_sum` adds up the k rows of a token in order, and then the output of the shared
experts if there is one, in fp32, rounded once.

w16: weight [E, N, K] in the activation dtype. w8, int4_sym, int4_asym: x in the activation dtype, and each expert's weights as
kernels/quant_matmul/gpu_spec.py has those of a matrix. Codes less their zero are exact, and scales meet sums in fp32. mxfp4,
nvfp4: the same by kernels/scaled_matmul/gpu_spec.py: a code times the scale of its group is a number of x's dtype. Under codes
of four bits N is a multiple of 16, so that an expert begins at a tile. int8 and e4m3: codes with a scale for each channel, x as
codes with a scale for each row (out = x_scale * scale * dot, the integer dot product exact in int32). e4m3_block: scales for
128 x 128 of W and for 1 x 128 of x, applied to each 128 columns' fp32 sum (DeepSeek-V3). Scales of x are as
quantize_activations makes them of [T * J, K].

How a decoder chains these: kernels/moe_route/gpu_spec.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kernels.moe_route.launch import max_blocks
from kernels.quant_matmul.gpu_packing import packed_tensors
from kernels.quant_matmul.gpu_spec import random_weight
from kernels.scaled_matmul.gpu_spec import random_float4
from kernels.scaled_matmul.variants import VARIANTS, Variant
from kernels.spec import Argument, Arguments, Array, Case, Cost, OpSpec, Tensor

#: what symbols of 4-bit codes end in
_INT4, _FLOAT4 = ("int4_sym", "int4_asym"), ("mxfp4", "nvfp4")


def _cases(*rows: tuple[str, tuple[int, ...]]) -> tuple[Case, ...]:
    axes = ("T", "J", "top_k", "N", "K", "E", "block_m", "weighted", "bias", "G")
    return tuple(Case(name, dict(zip(axes, extents, strict=False))) for name, extents in rows)


_CASES = _cases(
    ("decode", (5, 1, 2, 72, 136, 6, 16, 0, 1)),
    ("down", (6, 3, 3, 48, 160, 4, 16, 1, 1)),
    ("many", (70, 1, 2, 168, 144, 3, 64, 0, 0)),
    ("whole_columns", (20, 2, 2, 136, 256, 3, 32, 1, 0)),
    ("one", (1, 1, 1, 16, 32, 2, 16, 0, 0)),
    ("no_tokens", (0, 1, 2, 32, 32, 4, 16, 0, 1)),
)
_INT4_CASES = _cases(
    ("decode", (5, 1, 2, 80, 192, 6, 16, 0, 1, 64)),
    ("down", (6, 3, 3, 48, 160, 4, 16, 1, 1, 32)),
    ("many", (70, 1, 2, 176, 384, 3, 64, 0, 0, 128)),
    ("whole_columns", (20, 2, 2, 128, 256, 3, 32, 1, 0, 128)),
    ("two_tiles", (150, 1, 2, 48, 64, 2, 128, 0, 0, 32)),
    ("half_a_chunk", (9, 1, 2, 16, 96, 3, 16, 0, 0, 32)),
    ("no_tokens", (0, 1, 2, 32, 32, 4, 16, 0, 1, 32)),
)
_MXFP4_CASES = _cases(
    ("decode", (2, 1, 2, 80, 192, 4, 16, 0, 1)),
    ("down", (3, 2, 2, 48, 160, 3, 16, 1, 1)),
    ("many", (30, 1, 2, 144, 128, 2, 64, 0, 0)),
    ("half_a_chunk", (9, 1, 2, 16, 96, 3, 16, 0, 0)),
    ("no_tokens", (0, 1, 2, 32, 32, 4, 16, 0, 1)),
)
_NVFP4_CASES = _cases(
    ("down", (3, 2, 2, 48, 176, 3, 16, 1, 1)),
    ("half_a_chunk", (9, 1, 2, 80, 80, 3, 16, 0, 0)),
    ("no_tokens", (0, 1, 2, 32, 32, 4, 16, 0, 1)),
)
_CASES_OF = dict.fromkeys(_INT4, _INT4_CASES) | {"mxfp4": _MXFP4_CASES, "nvfp4": _NVFP4_CASES}


def _aligned(topk_ids: Array, num_experts: int, block_m: int) -> dict[str, Argument]:
    """What gpu_moe_align writes, in a straightforward way; blocks that are not in use hold numbers that nothing may follow."""
    pairs = topk_ids.ravel()
    num_blocks = max_blocks(len(pairs), num_experts, block_m) + 1
    sorted_ids, expert_ids, used = np.full((num_blocks, block_m), 1 << 20, np.int32), np.full(num_blocks, 1 << 20, np.int32), 0
    for expert in range(num_experts):
        mine = np.flatnonzero(pairs == expert)
        count = -(-len(mine) // block_m)
        sorted_ids[used : used + count] = len(pairs)
        sorted_ids.reshape(-1)[used * block_m :][: len(mine)] = mine
        expert_ids[used : used + count] = expert
        used += count
    num_padded = np.array([used * block_m], np.int32)
    return {"sorted_ids": sorted_ids, "expert_ids": expert_ids, "num_padded": num_padded}


def _strided(array: Array) -> Array:
    """The same values with rows that lie further apart."""
    width = int(np.prod(array.shape[1:]))
    wide = np.zeros((len(array), width + 16), array.dtype)
    view: Array = wide[:, :width].reshape(array.shape)
    view[...] = array
    return view


def _e4m3(rng: np.random.Generator, *shape: int) -> Array:
    """Codes of finite numbers of magnitude below 4."""
    codes: Array = rng.integers(0, 0x48, shape, np.uint8) | (rng.integers(0, 2, shape, np.uint8) << np.uint8(7))
    return codes


def _make_inputs(variant: str, rng: np.random.Generator, case: Case) -> Arguments:
    t, j, top_k, n, k, e = (case.sizes[axis] for axis in ("T", "J", "top_k", "N", "K", "E"))
    topk_ids = np.array([rng.permutation(e)[:top_k] for _ in range(t)], np.int64).reshape(t, top_k)
    made: Arguments = {
        **_aligned(topk_ids, e, case.sizes["block_m"]),
        "bias": rng.standard_normal((e, n), np.float32) if case.sizes["bias"] else None,
        "topk_weights": _strided(rng.uniform(0.1, 1, (t, top_k)).astype(np.float32)) if case.sizes["weighted"] else None,
        "out": _strided(np.zeros((t, top_k, n), np.float32)),
    }
    if variant == "w16":
        weight = rng.standard_normal((e, n, k), np.float32) / np.float32(k**0.5)
        return made | {"x": _strided(rng.standard_normal((t, j, k), np.float32)), "weight": weight}
    if variant in ("w8", *_INT4, *_FLOAT4):
        if variant in _FLOAT4:
            weights = random_float4(rng, _dense(variant), e * n, k)
        else:
            weights = random_weight(rng, "int8" if variant == "w8" else variant, e * n, k, case.sizes.get("G", 0))
        of_experts = {name: part.reshape(e, -1, *part.shape[1:]) for name, part in weights.items()}
        return made | {"x": _strided(rng.standard_normal((t, j, k), np.float32)), **of_experts}
    if variant == "int8":
        made["x_codes"] = _strided(rng.integers(-127, 128, (t, j, k), np.int8))
        made["codes"] = rng.integers(-127, 128, (e, n, k), np.int8)
    else:
        made["x_codes"], made["codes"] = _strided(_e4m3(rng, t, j, k)), _e4m3(rng, e, n, k)
    blocks = variant == "e4m3_block"
    x_scales = rng.uniform(0.01, 0.05, (t, j, -(-k // 128)) if blocks else (t, j)).astype(np.float32)
    scales = rng.uniform(0.01, 0.05, (e, -(-n // 128), -(-k // 128)) if blocks else (e, n)).astype(np.float32)
    return made | {"x_scales": _strided(x_scales), "scales": scales}


def _cost(variant: str, sizes: Mapping[str, int]) -> Cost:
    """Every expert that can be in use is read once."""
    t, j, top_k, n, k, e = (sizes[axis] for axis in ("T", "J", "top_k", "N", "K", "E"))
    per_group = {"int4_sym": 2, "int4_asym": 4}.get(variant, 0) * sizes.get("groups", 0)
    per_weight = {"w16": 2, "int4_sym": 0.5, "int4_asym": 0.5} | {name: _dense(name).weight_bits / 8 for name in _FLOAT4}
    of_expert = n * (k * per_weight.get(variant, 1) + per_group)
    x = t * j * k * (1 if variant in ("int8", "e4m3", "e4m3_block") else 2)
    return Cost(min(e, t * top_k) * of_expert + x + 2 * t * top_k * n, 2.0 * t * top_k * n * k)


def _dense(variant: str) -> Variant:
    return VARIANTS[f"gpu_scaled_matmul_{variant}"]


def _weight_only(variant: str) -> tuple[Tensor, ...]:
    if variant in _FLOAT4:
        parts = _dense(variant).tensors[1:]
    else:
        parts = packed_tensors("int8" if variant == "w8" else variant, "N", "K")
    return Tensor("x", "act", ("T", "J", "K")), *(replace(part, axes=("E", *part.axes)) for part in parts)


def _spec(variant: str) -> OpSpec:
    code = "i8" if variant == "int8" else "e4m3"
    operands = {
        "w16": (Tensor("x", "act", ("T", "J", "K")), Tensor("weight", "act", ("E", "N", "K"))),
        **{name: _weight_only(name) for name in ("w8", *_INT4, *_FLOAT4)},
        "e4m3_block": (
            Tensor("x_codes", code, ("T", "J", "K")),
            Tensor("x_scales", "f32", ("T", "J", "K/128")),
            Tensor("codes", code, ("E", "N", "K")),
            Tensor("scales", "f32", ("E", "N/128", "K/128")),
        ),
    }.get(
        variant,
        (
            Tensor("x_codes", code, ("T", "J", "K")),
            Tensor("x_scales", "f32", ("T", "J")),
            Tensor("codes", code, ("E", "N", "K")),
            Tensor("scales", "f32", ("E", "N")),
        ),
    )
    return OpSpec(
        symbol=f"gpu_moe_matmul_{variant}",
        op="moe_matmul",
        summary=f"each token's row times the {variant} matrices of its experts",
        tensors=(
            *operands,
            Tensor("bias", "f32", ("E", "N"), optional=True),
            Tensor("topk_weights", "f32", ("T", "top_k"), optional=True),
            Tensor("sorted_ids", "i32", ("num_blocks", "block_m")),
            Tensor("expert_ids", "i32", ("num_blocks",)),
            Tensor("num_padded", "i32", (1,)),
            Tensor("out", "act", ("T", "top_k", "N"), "out"),
        ),
        scalars=(),
        variable=("T",),
        source="Shazeer et al. 2017, Outrageously Large Neural Networks; Gale et al. 2022, MegaBlocks",
        cases=_CASES_OF.get(variant, _CASES),
        make_inputs=lambda rng, case: _make_inputs(variant, rng, case),
        cost=lambda sizes: _cost(variant, sizes),
        backend="gpu",
    )


def _sum_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, k, n = (case.sizes[axis] for axis in ("T", "top_k", "N"))
    return {
        "x": _strided(rng.standard_normal((t, k, n), np.float32)),
        "shared": _strided(rng.standard_normal((t, n), np.float32)) if case.sizes["shared"] else None,
        "out": _strided(np.zeros((t, n), np.float32)),
    }


def _sum_cost(sizes: Mapping[str, int]) -> Cost:
    t, k, n = (sizes[axis] for axis in ("T", "top_k", "N"))
    return Cost(2 * t * n * (k + 1), t * n * k)


SPECS = (
    *(_spec(variant) for variant in ("w16", "w8", *_INT4, *_FLOAT4, "int8", "e4m3", "e4m3_block")),
    OpSpec(
        symbol="gpu_moe_sum",
        op="moe_matmul",
        summary="sum of a token's rows over its experts, and of the shared experts' row",
        tensors=(
            Tensor("x", "act", ("T", "top_k", "N")),
            Tensor("shared", "act", ("T", "N"), optional=True),
            Tensor("out", "act", ("T", "N"), "out"),
        ),
        scalars=(),
        variable=("T",),
        source="Shazeer et al. 2017, Outrageously Large Neural Networks; Dai et al. 2024, DeepSeekMoE (shared experts)",
        cases=tuple(
            Case(name, {"T": t, "top_k": k, "N": n, "shared": shared})
            for name, t, k, n, shared in (
                ("shared", 4, 3, 72, 1),
                ("wide", 2, 2, 2100, 0),
                ("one", 1, 1, 8, 0),
                ("no_tokens", 0, 2, 8, 1),
            )
        ),
        make_inputs=_sum_inputs,
        cost=_sum_cost,
        backend="gpu",
    ),
)
