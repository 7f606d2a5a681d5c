"""One contract for every GPU entry point: what it writes lies within the tolerance of the truth, and what it reads stays.

The reference in fp64 is the truth. The same reference in the kernel's own dtypes, rounding where the kernel rounds, is the
yardstick: a kernel may be off by a small multiple of what those roundings cost, never by more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch

from kernels import registry
from kernels.gpu.launch import OpPlan
from kernels.gpu.target import Target
from kernels.gpu.tensors import TORCH_DTYPES, problem
from kernels.gpu.tuning import Point
from kernels.spec import Arguments, Case, OpSpec

#: Half the distance from 1 to the next number.
EPSILON = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-9, "e4m3": 2.0**-4}
#: On small cases the reference may be exact by luck; so many half-ulps of the largest element may always be lost.
FLOOR = 2.0
#: An integer that is rounded from a value may fall to either side of a tie.
INTEGERS = ("i8", "u8", "i32", "u32", "i64")

TARGET = Target.of("sm_90", 132)

Run: TypeAlias = Callable[[OpPlan, Mapping[str, torch.Tensor | None]], None]
Values: TypeAlias = dict[str, object]


def cases(act: str) -> list[tuple[OpSpec, Case]]:
    """Every GPU entry point with every case of its spec."""
    return [(spec.typed(act), case) for spec in registry.specs("gpu").values() for case in spec.cases]


def make(spec: OpSpec, case: Case, seed: int = 0) -> Arguments:
    return spec.make_inputs(np.random.default_rng(seed), case)


def values(spec: OpSpec, arguments: Arguments, wider: torch.dtype | None = None) -> Values:
    """Arguments as torch tensors of the spec's dtypes, strides kept; float tensors of dtype `wider` if it is given."""
    made: Values = {scalar.name: arguments[scalar.name] for scalar in spec.scalars}
    for tensor in spec.tensors:
        array = arguments.get(tensor.name)
        made[tensor.name] = _typed(array, tensor.dtype, wider) if isinstance(array, np.ndarray) else None
    return made


def _typed(array: np.ndarray, dtype: str, wider: torch.dtype | None) -> torch.Tensor:
    stored = torch.from_numpy(array)
    if dtype in ("bf16", "e4m3") and array.dtype in (np.uint16, np.uint8):
        stored = stored.view(TORCH_DTYPES[dtype])
    # What was drawn is rounded to the kernel's dtype first: the truth is of the same inputs.
    rounded = stored.to(TORCH_DTYPES[dtype])
    final = wider if wider is not None and rounded.dtype in (torch.float32, torch.float16, torch.bfloat16) else rounded.dtype
    return torch.empty_strided(array.shape, stored.stride(), dtype=final).copy_(rounded)


def outputs(spec: OpSpec, made: Values) -> dict[str, torch.Tensor]:
    return {t.name: v for t in spec.tensors if t.role != "in" and isinstance(v := made[t.name], torch.Tensor)}


def violations(spec: OpSpec, case: Case, run: Run, point: Point | None = None, target: Target = TARGET) -> list[str]:
    """What a backend gets wrong on `case`: outputs out of tolerance, and inputs that it changed."""
    arguments = make(spec, case)
    oracle, yardstick, got = values(spec, arguments, torch.float64), values(spec, arguments), values(spec, arguments)
    registry.reference(spec.symbol)(**oracle)
    registry.reference(spec.symbol)(**yardstick)
    tensors = {t.name: v if isinstance(v := got[t.name], torch.Tensor) else None for t in spec.tensors}
    run(registry.plan_call(problem(spec, got), target, point), tensors)

    found = []
    truth, naive = outputs(spec, oracle), outputs(spec, yardstick)
    for name, written in outputs(spec, got).items():
        if not written.numel():
            continue
        true, found_value = truth[name].double(), written.double()
        error, allowed = (found_value - true).abs().max().item(), _allowed(spec, name, true, naive[name].double())
        if not error <= allowed:
            found.append(f"{name}: error {error:.3g} exceeds {allowed:.3g}")
    given = values(spec, arguments)
    for tensor in spec.tensors:
        before, after = given[tensor.name], got[tensor.name]
        if tensor.role == "in" and isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
            same = before.contiguous().view(torch.uint8).equal(after.contiguous().view(torch.uint8)) if before.numel() else True
            found += [] if same else [f"{tensor.name}: is an input, and was changed"]
    return found


def _allowed(spec: OpSpec, name: str, true: torch.Tensor, naive: torch.Tensor) -> float:
    dtype = spec.tensor(name).dtype
    if dtype in INTEGERS:
        return max(1.0 if dtype == "i8" else 0.0, (naive - true).abs().max().item())
    largest = true.abs().max().item()
    return spec.tolerance * (naive - true).abs().max().item() + FLOOR * EPSILON[dtype] * largest
