"""How a GPU bundle stores weights: the parts of a layer group in each scheme, and their way to the device."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import prod

import numpy as np
import torch

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.layer_groups import is_table
from artifacts.precision import Plan, Scheme
from kernels.formats.format import GpuPacking
from kernels.formats.table import gpu_packing
from kernels.spec import Array, Tensor, axis_divisor
from runtime.stored_tensors import tensor_shapes

#: tensors that no plan quantizes and that kernels read in the activation dtype; all others stay fp32
_ACT_TENSORS = ("k_up.weight", "v_up.weight", "router.weight")
#: of these, a head's matrix has its rows where the kernels want its columns
_TRANSPOSED_TENSORS = ("k_up.weight", "v_up.weight")


def gpu_packing_of(scheme: Scheme) -> GpuPacking:
    """How a matrix lies under `scheme`; UserError where GPUs have no kernels for it."""
    packing = gpu_packing(scheme.variant)
    if packing is None:
        raise UserError(f"there are no GPU kernels for {scheme.name}; choose another scheme")
    return packing


def stored_parts(scheme: Scheme) -> tuple[Tensor, ...]:
    """The tensors of a layer group, over the axes N, K and `groups`."""
    return gpu_packing_of(scheme).tensors


def refusal(scheme: Scheme, kind: str, architecture: Architecture) -> str | None:
    """Why a layer group of `kind` (qkv, embed, experts_down ...) cannot be stored in `scheme` for GPUs, or None."""
    packing = gpu_packing(scheme.variant)
    if packing is None:
        return f"there are no GPU kernels for {scheme.name}"
    if scheme.static_activations and (architecture.moe is not None or architecture.mla is not None):
        return "static scales are calibrated on dense decoders only"
    if kind.startswith("experts") and architecture.moe is not None:
        rows = {"experts_gate_up": 2 * architecture.moe.intermediate_size, "experts_down": architecture.hidden_size}[kind]
        block = max(axis_divisor(tensor.axes[0]) for tensor in packing.tensors)
        if rows % block:
            return f"blocks of {block} rows would span two experts, which have {rows}"
    if is_table(kind) and packing.embedding is None:
        return "an embedding has kernels for bf16, int8 and int4"
    return None


def device_bytes(architecture: Architecture, plan: Plan) -> dict[str, int]:
    """Tensor -> the bytes that it takes on a device, where activations have 16 bits (`to_device`)."""
    shapes = tensor_shapes(architecture, plan, stored_parts)
    return {
        name: prod(shape) * (2 if name.endswith(_ACT_TENSORS) else np.dtype(dtype).itemsize)
        for name, (dtype, shape) in shapes.items()
    }


def to_torch(tensors: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """Views of a bundle's tensors."""
    with warnings.catch_warnings():
        # A bundle's tensors are mapped read-only, and no kernel writes them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {name: torch.from_numpy(array) for name, array in tensors.items()}


def to_device(
    tensors: Mapping[str, torch.Tensor], plan: Plan, act: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor]:
    """A bundle's tensors as the kernels take them: bf16 weights in the activation dtype, e4m3 codes typed as such."""
    dtypes = {f"{group}.{part.name}": part.dtype for group, scheme in plan.items() for part in stored_parts(scheme)}
    placed = {}
    for name, stored in tensors.items():
        tensor = stored
        if dtypes.get(name) == "bf16":
            tensor = tensor.view(torch.bfloat16).to(act)
        elif dtypes.get(name) == "e4m3":
            tensor = tensor.view(torch.float8_e4m3fn)
        elif name.endswith(_ACT_TENSORS):
            tensor = tensor.to(act)
        if name.endswith(_TRANSPOSED_TENSORS):
            tensor = tensor.transpose(1, 2).contiguous()
        placed[name] = tensor.to(device)
    return placed
