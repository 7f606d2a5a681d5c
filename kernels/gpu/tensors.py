"""Torch tensors as the contract sees them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kernels.gpu.launch import Problem, TensorMeta
from kernels.spec import OpSpec

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3": torch.float8_e4m3fn,
    "i8": torch.int8,
    "u8": torch.uint8,
    "i32": torch.int32,
    "u32": torch.uint32,
    "i64": torch.int64,
}
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def meta(tensor: torch.Tensor) -> TensorMeta:
    """Dtype, shape and strides of `tensor`; ValueError for a dtype that no kernel takes."""
    if tensor.dtype not in _NAMES:
        raise ValueError(f"a kernel's tensor is one of {', '.join(map(str, _NAMES))}; got {tensor.dtype}")
    return TensorMeta(_NAMES[tensor.dtype], tuple(tensor.shape), tuple(tensor.stride()))


def empty(meta: TensorMeta, device: torch.device | str = "cpu") -> torch.Tensor:
    """Zeroed memory for `meta`."""
    return torch.zeros(meta.shape, dtype=TORCH_DTYPES[meta.dtype], device=device)


def problem(spec: OpSpec, arguments: Mapping[str, object]) -> Problem:
    """The call of `spec` with `arguments`: torch tensors or None by tensor name, numbers by scalar name."""
    tensors = {
        tensor.name: meta(value) for tensor in spec.tensors if isinstance(value := arguments.get(tensor.name), torch.Tensor)
    }
    scalars = {scalar.name: value for scalar in spec.scalars if isinstance(value := arguments[scalar.name], int | float)}
    return Problem(spec.symbol, tensors, scalars)
