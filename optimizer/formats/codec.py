"""What the optimizer knows of a kind of weights: how codes are found for it, and what other formats make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artifacts.precision import Scheme
from optimizer.formats.grid import Grid
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import Misfit, StoredMatrix

#: (tensor name, fp32 weight [N, K], scheme, largest magnitude of the whole matrix, share of the range) -> grid
Fit: TypeAlias = Callable[[str, Tensor, Scheme, float, Tensor | float], Grid]

#: Shares of a scale's range that clipping tries, the whole range first: equal errors keep it.
SHRINK_FACTORS = tuple(1 - step / 20 for step in range(13))


@dataclass(frozen=True)
class Widened:
    """A format that other programs know, which has the same values bit for bit."""

    scheme: Callable[[Scheme], Scheme]
    matrix: Callable[[QuantizedMatrix], QuantizedMatrix]
    note: str
    """What an export says of it."""


@dataclass(frozen=True)
class CompressedTensors:
    """How the format of that name has the weights. `group` is a config group without its targets."""

    group: Callable[[Scheme], dict[str, object]]
    tensors: Callable[[QuantizedMatrix], dict[str, torch.Tensor]]
    """By the names that compressed-tensors gives them."""


@dataclass(frozen=True)
class Codec:
    """A kind of weights. `weights` is its name in artifacts/weight_formats.py.

    An ONNX graph needs no more than the parts, but for what `onnx` is False.
    """

    weights: str
    colours: Mapping[str, str]
    """Of the report: scheme, activations aside -> CSS colour."""
    compressed_tensors: CompressedTensors
    gguf: str = "F16"
    """The ggml type that loses nothing, or least."""
    gguf_asymmetric: str = ""
    fit: Fit | None = None
    """None for floats, which have no scales."""
    rounded: Callable[[str, Tensor], Tensor] | None = None
    """For floats: (tensor name, fp32 weight) -> `weight` as it is stored."""
    kept: Callable[[StoredMatrix, Scheme], QuantizedMatrix | Misfit] | None = None
    """A checkpoint's own codes and scales in a scheme, of the same values bit for bit; None where no checkpoint has such."""
    factors: tuple[float, ...] = SHRINK_FACTORS
    """Shares of the range that clipping tries."""
    onnx: bool = True
    """Whether runtimes of ONNX multiply by such weights on a CPU."""
    widened: Widened | None = None
    """What exports take in its place, where no format of theirs has it."""


def float_group(scheme: Scheme) -> dict[str, object]:
    raise AssertionError(f"{scheme.name} weights are listed as ignored")


def weight_arguments(num_bits: int, kind: str, strategy: str, **others: object) -> dict[str, object]:
    """The `weights` of a config group of compressed-tensors."""
    return {"num_bits": num_bits, "type": kind, "symmetric": True, "strategy": strategy, "dynamic": False} | others


def config_group(form: str, weights: dict[str, object], inputs: dict[str, object] | None = None) -> dict[str, object]:
    return {"weights": weights, "input_activations": inputs, "output_activations": None, "format": form}


def rounded_inputs(kind: str, strategy: str = "token", *, dynamic: bool = True, **others: object) -> dict[str, object]:
    """The `input_activations` of a config group: of 8 bits."""
    return {"num_bits": 8, "type": kind, "symmetric": True, "strategy": strategy, "dynamic": dynamic} | others


def words(codes: NDArray[Any], bits: int) -> torch.Tensor:
    """u8 codes [N, K] -> i32 [N, ceil(K bits / 32)] as compressed-tensors has them, the first of a row in the lowest bits."""
    per_word = 32 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_word)))
    octets = padded if bits == 8 else padded[:, 0::2] | (padded[:, 1::2] << np.uint8(4))
    return torch.from_numpy(np.ascontiguousarray(octets).view("<i4").copy())


def copied(part: NDArray[Any] | None) -> torch.Tensor:
    """A part of a matrix that it has, as a tensor of its own."""
    assert part is not None
    return torch.from_numpy(part.copy())
