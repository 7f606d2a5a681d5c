"""How a GPU bundle stores weights: the parts of a layer group in each scheme, and their way to the device."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from artifacts.architecture import Architecture
from artifacts.precision import FP8_BLOCK, Plan, Scheme
from kernels.quant_matmul.gpu_packing import packed_tensors
from kernels.scaled_matmul.variants import VARIANTS
from kernels.spec import Array, Tensor

#: the calibrated scale of the activations that meet a matrix
INPUT_SCALE = "input_scale"
#: tensors that no plan quantizes and that kernels read in the activation dtype; all others stay fp32
_ACT_TENSORS = ("k_up.weight", "v_up.weight", "router.weight")
#: of these, a head's matrix has its rows where the kernels want its columns
_TRANSPOSED_TENSORS = ("k_up.weight", "v_up.weight")


def stored_parts(scheme: Scheme) -> tuple[Tensor, ...]:
    """The tensors that a matrix [N, K] takes under `scheme`; `weight` is bf16 whatever the activation dtype."""
    if scheme.weights == "bf16":
        return (Tensor("weight", "bf16", ("N", "K")),)
    if scheme.weights == "int8":
        return Tensor("codes", "i8", ("N", "K")), Tensor("scales", "f32", ("N",))
    if scheme.weights == "int4":
        return packed_tensors("int4_sym" if scheme.symmetric else "int4_asym", "N", "K")
    if scheme.weights in ("mxfp4", "nvfp4"):
        return VARIANTS[f"gpu_scaled_matmul_{scheme.weights}"].tensors[1:]
    if scheme.weights == "fp8":
        block = scheme.granularity == "block"
        parts = Tensor("codes", "e4m3", ("N", "K")), Tensor("scales", "f32", ("N/128", "K/128") if block else ("N",))
        return (*parts, Tensor(INPUT_SCALE, "f32", (1,))) if scheme.static_activations else parts
    raise ValueError(f"there are no GPU kernels for {scheme.name}; choose another scheme")


def refusal(scheme: Scheme, kind: str, architecture: Architecture) -> str | None:
    """Why a layer group of `kind` (qkv, embed, experts_down ...) cannot be stored in `scheme` for GPUs, or None."""
    cpu_only = scheme.weights in ("fp32", "int4-twolevel") or scheme.int16_activations
    if cpu_only or (scheme.weights == "int4" and scheme.int8_activations):
        return f"there are no GPU kernels for {scheme.name}"
    if kind.startswith("experts") and not (scheme.weights in ("bf16", "fp8") or scheme.int8_activations):
        return "experts have kernels for bf16, int8-a8, fp8 and fp8-block"
    if kind.startswith("experts") and scheme.granularity == "block" and architecture.moe is not None:
        rows = {"experts_gate_up": 2 * architecture.moe.intermediate_size, "experts_down": architecture.hidden_size}[kind]
        if rows % FP8_BLOCK:
            return f"blocks of {FP8_BLOCK} rows would span two experts, which have {rows}"
    if scheme.static_activations and (architecture.moe is not None or architecture.mla is not None):
        return "static scales are calibrated on dense decoders only"
    if kind == "embed" and scheme.weights in ("fp8", "mxfp4", "nvfp4"):
        return "an embedding has kernels for bf16, int8 and int4"
    return None


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
