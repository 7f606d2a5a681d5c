"""How far a result may be from the truth: the op's reference in fp64 is the truth, the reference in fp32 the yardstick."""

from __future__ import annotations

import numpy as np
import torch

from kernels import registry
from kernels.bfloat16 import from_bf16
from kernels.reference import views
from kernels.spec import Arguments, Array, Case, OpSpec

#: Half the distance from 1 to the next number.
EPSILON = {"f32": 2.0**-24, "bf16": 2.0**-9}
#: On cases this small the fp32 reference may be exact by luck, while any correct order of a few roundings is off by some
#: of them. Eight half-ulps of the largest element are what such a handful can add up to.
FLOOR = 8.0


def copied(arguments: Arguments) -> Arguments:
    """Arguments with arrays of their own, strides kept: views of one buffer stay rows of that length."""
    return {name: _copy(value) if isinstance(value, np.ndarray) else value for name, value in arguments.items()}


def _copy(array: Array) -> Array:
    if array.flags.c_contiguous or array.base is None:
        return array.copy()
    wide = np.zeros((array.shape[0], array.strides[0] // array.itemsize), array.dtype)
    view = wide[:, : int(np.prod(array.shape[1:]))].reshape(array.shape)
    assert np.shares_memory(view, wide) or not view.size
    view[...] = array
    return view


def truth(spec: OpSpec, arguments: Arguments, dtype: torch.dtype) -> dict[str, Array]:
    """What the reference writes when every fp32 tensor is of `dtype`."""
    given = views(spec.symbol, copied(arguments))
    typed = {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value
        for name, value in given.items()
    }
    registry.reference(spec.symbol)(**typed)
    written = (t.name for t in spec.tensors if t.is_output and typed[t.name] is not None)
    return {name: as_float64(typed[name]) for name in written}


def as_float64(value: object) -> Array:
    assert isinstance(value, torch.Tensor)
    return value.double().numpy()


def written(spec: OpSpec, arguments: Arguments) -> dict[str, Array]:
    """What a kernel has written into `arguments`, as fp64."""
    values = {t: arguments.get(t.name) for t in spec.tensors if t.is_output}
    return {
        t.name: (from_bf16(value) if t.dtype == "bf16" else value).astype(np.float64)
        for t, value in values.items()
        if isinstance(value, np.ndarray)
    }


def violations(spec: OpSpec, inputs: Arguments, outputs: Arguments) -> list[str]:
    """Which of a kernel's outputs are further from the truth than the op's tolerance allows."""
    oracle, yardstick = truth(spec, inputs, torch.float64), truth(spec, inputs, torch.float32)
    found = []
    for name, got in written(spec, outputs).items():
        if not got.size:
            continue
        error = np.abs(got - oracle[name]).max()
        naive = np.abs(yardstick[name] - oracle[name]).max()
        allowed = spec.tolerance * naive + FLOOR * EPSILON.get(spec.tensor(name).dtype, 0) * np.abs(oracle[name]).max()
        if not error <= allowed:
            found.append(f"{name}: error {error:.3g} exceeds {allowed:.3g} (the fp32 reference's is {naive:.3g})")
    return found


def make(spec: OpSpec, case: Case, seed: int = 0) -> Arguments:
    return spec.make_inputs(np.random.default_rng(seed), case)
