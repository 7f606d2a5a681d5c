"""Tiles of the grouped matmul. Rows of a tile, block_m, are the alignment's (a shape); the rest is a point of the kernel.

Under codes of four bits an alignment's rows may be several tiles, and block_m is of the point: the sums of 128 rows do not fit
everywhere beside widened codes. Where weights are widened, what is legal is what is legal for a dense matrix and so many tokens
as a tile has rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import DTYPES, Problem, TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tuning import GpuTuning, Point
from kernels.moe_matmul.launch import in_fragments, is_float4, is_widened
from kernels.quant_matmul.gpu_tuning import TUNING as QUANT_MATMUL
from kernels.scaled_matmul.gpu_tuning import TUNING as SCALED_MATMUL

#: What block_m of an alignment may be: to be tuned together with the points of both matmuls that share it.
BLOCK_MS = (8, 16, 32, 64, 128, 256)

_MATMUL: Mapping[str, tuple[int, ...]] = {
    "block_n": (32, 64, 128, 256),
    "block_k": (32, 64, 128, 256),
    "group_m": (1, 16, 32, 64),
    "swap": (0, 1),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
}
_W8: Mapping[str, tuple[int, ...]] = {
    "block_n": (64, 128, 256),
    "block_k": (64, 128, 256),
    "group_m": (1, 16, 32, 64),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
}
_INT4: Mapping[str, tuple[int, ...]] = {"block_m": (8, 16, 32, 64, 128), **_W8}
_FLOAT4: Mapping[str, tuple[int, ...]] = {"block_m": (16, 32, 64, 128), **_W8}
#: what a dense matrix's kernel calls the same
_AS_DENSE = {name: name.upper() for name in ("block_m", "block_n", "block_k", "group_m")} | {"w8": "int8"}
#: how a dense matrix's kernel would do what this one always does
_DENSE_CHOICES = {"SPLIT_K": 1, "PERSISTENT": 0, "USE_TMA": 0, "SWAP_AB": 1}
_SUM: Mapping[str, tuple[int, ...]] = {"block_n": (256, 512, 1024, 2048), "num_warps": (1, 2, 4, 8)}


def default_block_m(num_pairs: int, num_experts: int) -> int:
    """Rows of a tile for a step of `num_pairs` pairs that spread evenly: as many as an expert has, 64 where wgmma pays."""
    per_expert = num_pairs / num_experts
    return 16 if per_expert <= 16 else 32 if per_expert <= 32 else 64 if per_expert <= 128 else 128


def _parameters(symbol: str) -> Mapping[str, tuple[int, ...]]:
    if symbol == "gpu_moe_sum":
        return _SUM
    if is_float4(symbol):
        return _FLOAT4
    return _INT4 if in_fragments(symbol) else _W8 if symbol.endswith("w8") else _MATMUL


def _refusal(problem: Problem, point: Point, target: Target) -> str | None:
    if problem.symbol == "gpu_moe_sum":
        return None
    if is_widened(problem):
        return _widened_refusal(problem, point, target)
    arch, block_m = target.arch, problem["sorted_ids"].shape[1]
    block_n, block_k, num_warps = point["block_n"], point["block_k"], point["num_warps"]
    x = problem["x" if "x" in problem else "x_codes"]
    element_bytes = DTYPES[x.dtype][0]
    if x.dtype == "e4m3" and not arch.has_fp8:
        return f"{arch.name} has no e4m3 in its matrix units"
    if block_m not in BLOCK_MS:
        return f"block_m must be one of {BLOCK_MS}, got {block_m}"
    if point["swap"] and block_m > 64:
        return f"operands are swapped for tiles of few rows: block_m is at most 64, got {block_m}"
    if block_m < 16 and not (point["swap"] and arch.backend == "cuda"):
        return f"{block_m} rows fit the matrix units of NVIDIA only, and only with swapped operands"
    if problem.symbol == "gpu_moe_matmul_e4m3_block" and max(block_n, block_k) > 128:
        return f"a tile of {block_n} x {block_k} weights has more than one scale: both are at most 128"
    if element_bytes == 1 and block_k < 64 and arch.backend == "hip":
        return f"one-byte operands are multiplied 64 columns at a time on {arch.name}, got {block_k}"
    elements = block_m * block_n // (num_warps * arch.warp_size)
    accumulators = 2 if x.dtype == "e4m3" else 1
    if not 2 <= elements * accumulators <= 128:
        return f"{accumulators} accumulators of {elements} registers per thread: between 2 and 128 in all fit"
    stage = (block_m + block_n) * block_k * element_bytes
    if stage * point["num_stages"] > arch.tile_shared_bytes:
        return f"{point['num_stages']} stages of {stage} bytes exceed {arch.tile_shared_bytes} bytes of shared memory"
    return None


def _widened_refusal(problem: Problem, point: Point, target: Target) -> str | None:
    (n, k), aligned = (problem["out"].shape[2], problem["x"].shape[2]), problem["sorted_ids"].shape[1]
    block_m = point.get("block_m", aligned)
    if aligned not in BLOCK_MS:
        return f"block_m of an alignment must be one of {BLOCK_MS}, got {aligned}"
    if in_fragments(problem.symbol) and n % 16:
        return f"experts begin at tiles of 16 rows: theirs must be a multiple of 16, got {n}"
    if aligned % block_m:
        return f"an alignment of {aligned} rows has no whole number of tiles of {block_m}"
    if block_m < 16 and not in_fragments(problem.symbol):
        return f"{block_m} rows are less than the matrix units take"
    parts = ((name, problem[name]) for name in ("codes", "scales", "zeros", "row_scales") if name in problem)
    tensors = {name: TensorMeta(part.dtype, part.shape[1:], part.strides[1:]) for name, part in parts}
    tensors |= {name: TensorMeta.contiguous(problem[name].dtype, block_m, width) for name, width in (("x", k), ("out", n))}
    variant = problem.symbol.removeprefix("gpu_moe_matmul_")
    named = {"BLOCK_M": block_m, **_DENSE_CHOICES, **{_AS_DENSE.get(name, name): value for name, value in point.items()}}
    op, dense = ("scaled_matmul", SCALED_MATMUL) if is_float4(problem.symbol) else ("quant_matmul", QUANT_MATMUL)
    return dense.refusal(Problem(f"gpu_{op}_{_AS_DENSE.get(variant, variant)}", tensors), named, target)


def _widened_default(problem: Problem, target: Target) -> Point:
    """The largest tile that fits; of 64 channels where 128 would leave SMs without one.

    128 rows beside the scales of groups of 32 spill on gfx950. 4-bit floats take fewer instructions a code in blocks of 128
    columns, of which the last may be cut.
    """
    (tokens, top_k, n), k = problem["out"].shape, problem["x"].shape[2]
    aligned, is_cuda = problem["sorted_ids"].shape[1], target.arch.backend == "cuda"
    deep = k % 128 == 0 or (is_float4(problem.symbol) and k > 128 and aligned < 64)
    wide = min(problem["codes"].shape[0], tokens * top_k) * -(-n // 128) >= target.num_sms
    rows: tuple[int, ...] = (aligned,)
    if in_fragments(problem.symbol):
        small_groups = not is_float4(problem.symbol) and k // problem["scales"].shape[2] <= 32
        rows = (64, 32, 16, 8) if small_groups else (128, 64, 32, 16, 8)
    candidates = [
        {
            **({"block_m": block_m} if in_fragments(problem.symbol) else {}),
            "block_n": block_n,
            "block_k": block_k,
            "group_m": 16 if aligned >= 64 else 1,
            "num_warps": 8 if block_m >= 64 and block_n >= 128 else 4,
            "num_stages": stages,
        }
        for block_m in rows
        for block_n in ((128, 64) if wide else (64, 128))
        for block_k in ((128, 64) if deep else (64,))
        for stages in ((4, 3, 2) if is_cuda else (2,))
    ]
    return next((point for point in candidates if _widened_refusal(problem, point, target) is None), candidates[-1])


def _default(problem: Problem, target: Target) -> Point:
    if problem.symbol == "gpu_moe_sum":
        return {"block_n": 1024, "num_warps": 4}
    if is_widened(problem):
        return _widened_default(problem, target)
    block_m = problem["sorted_ids"].shape[1]
    large, blocks = block_m >= 64, problem.symbol == "gpu_moe_matmul_e4m3_block"
    element_bytes = DTYPES[problem["x" if "x" in problem else "x_codes"].dtype][0]
    point = {
        "block_n": 128 if large else 64,
        "block_k": 128 // element_bytes if large or blocks else 256 // element_bytes,
        "group_m": 16 if large else 1,
        # wgmma and tcgen05 take 64 rows of weights and as few columns of pairs as there are.
        "swap": int(not large and target.arch.name in ("sm_90", "sm_100")),
        "num_warps": 8 if block_m > 64 else 4,
        "num_stages": 4,
    }
    # Deep pipelines where shared memory has room for them.
    for stages in (4, 3, 2):
        point["num_stages"] = stages
        if _refusal(problem, point, target) is None:
            break
    return point


TUNING = GpuTuning(_parameters, _refusal, _default)
