"""A bundle's weights before any kernel's memory layout: the logical codes and scales that formats store in their own ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.architecture import Architecture
from artifacts.manifest import Manifest
from artifacts.precision import FP8_BLOCK, Scheme
from artifacts.reader import Bundle, open_bundle, read_manifest
from kernels import packing
from kernels.quant_matmul import gpu_packing
from kernels.scaled_matmul.packing import unpack_mxfp4, unpack_nvfp4
from kernels.spec import Array
from optimizer.exporters.errors import ExportError
from optimizer.quantization import QuantizedMatrix
from runtime.models import checkpoint_tensors


@dataclass(frozen=True)
class LogicalBundle:
    """A verified bundle of a dense decoder, its matrices unpacked one at a time."""

    bundle: Bundle

    @classmethod
    def open(cls, folder: Path) -> LogicalBundle:
        """The bundle at `folder`, of whatever device: weights are read, no kernel is run.

        Raises BundleError as `open_bundle` does, and ExportError for a model that no format here is written for.
        """
        target = read_manifest(folder).target
        bundle = open_bundle(
            folder,
            machine=target.machine or "",
            cpu_flags=frozenset(target.cpu_flags),
            gpu_arch=lambda: target.archs[0],
        )
        architecture = bundle.manifest.architecture
        if architecture.moe or architecture.mla:
            what = "a mixture of experts" if architecture.moe else "latent attention"
            raise ExportError(
                f"only dense decoders can be exported, and {bundle.manifest.name} has {what}; serve the bundle itself"
            )
        return cls(bundle)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def architecture(self) -> Architecture:
        return self.manifest.architecture

    @property
    def tokenizer_json(self) -> str:
        return self.bundle.read("tokenizer.json").decode()

    @property
    def chat_template(self) -> str | None:
        name = "chat_template.jinja"
        return self.bundle.read(name).decode() if name in self.manifest.files else None

    @property
    def generation_config(self) -> dict[str, Any]:
        name = "generation_config.json"
        config: dict[str, Any] = json.loads(self.bundle.read(name)) if name in self.manifest.files else {}
        return config

    def scheme(self, group: str) -> Scheme:
        """What formats know of the group's scheme.

        int4-twolevel is the int8 that it is unpacked to; activations of 16 bits are those of a weight-only scheme.
        """
        scheme = replace(self._stored_scheme(group), int16_activations=False)
        return Scheme("int8", int8_activations=scheme.int8_activations) if scheme.weights == "int4-twolevel" else scheme

    def _stored_scheme(self, group: str) -> Scheme:
        return Scheme.parse(self.manifest.precision.groups[group])

    def matrix(self, group: str) -> QuantizedMatrix:
        """The weights of a layer group in `scheme(group)`, q/k/v and gate/up still fused."""
        scheme = self._stored_scheme(group)
        names = ("weight", "codes", "steps", "scales", "zeros", "row_scales", "input_scale")
        tensors = self.bundle.tensors
        packed = {name: tensors[f"{group}.{name}"] for name in names if f"{group}.{name}" in tensors}
        parts: dict[str, Any] = dict(self._unpacked(packed, scheme, *self.architecture.linear_shapes()[group]))
        codes = parts.pop("weight" if "weight" in parts else "codes")
        if scheme.weights == "int4-twolevel":
            return QuantizedMatrix(scheme, codes, parts["steps"], row_scales=parts["scales"]).as_int8()
        return QuantizedMatrix(self.scheme(group), codes, **parts)

    def _unpacked(self, packed: dict[str, Array], scheme: Scheme, num_rows: int, num_columns: int) -> dict[str, Array]:
        if not self.manifest.target.archs:
            return packing.unpack(packed, scheme.weights, num_rows, scheme.storage.int8_activations)
        if scheme.weights == "int4":
            return gpu_packing.unpack(packed, "int4", num_rows, num_columns)
        if scheme.weights in ("mxfp4", "nvfp4"):
            unpack = unpack_mxfp4 if scheme.weights == "mxfp4" else unpack_nvfp4
            words = packed["codes"].astype(np.uint32), packed["scales"].astype(np.uint32)
            codes, scales = unpack(*words, num_rows, num_columns)
            return {**packed, "codes": codes, "scales": scales}
        return packed  # row-major already

    def modules(self, group: str) -> list[str]:
        """Hugging Face names of the projections that the layer group fuses, in the order of their rows."""
        return [part.name.removesuffix(".weight") for part in checkpoint_tensors(self.architecture)[f"{group}.weight"]]

    def projections(self, group: str) -> Iterator[tuple[str, QuantizedMatrix]]:
        """(module, matrix) of each of `modules(group)`."""
        fused, first = self.matrix(group), 0
        for module, part in zip(self.modules(group), checkpoint_tensors(self.architecture)[f"{group}.weight"], strict=True):
            yield module, _rows(fused, first, first + part.shape[0])
            first += part.shape[0]

    def floats(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """(Hugging Face name, values) of every gain and bias."""
        parts = checkpoint_tensors(self.architecture)
        for name in self.architecture.float_shapes():
            stored, first = self.bundle.tensors[name], 0
            for part in parts[name]:
                yield part.name, stored[first : first + part.shape[0]]
                first += part.shape[0]


def _rows(matrix: QuantizedMatrix, first: int, last: int) -> QuantizedMatrix:
    """Rows `first` to `last`. ExportError where they begin within a block of rows that share an fp8 scale."""
    scales = matrix.scales
    if scales is not None and matrix.scheme.granularity == "block":
        if first % FP8_BLOCK:
            raise ExportError(
                f"a fused matrix is cut at row {first}, within a block of {FP8_BLOCK} rows that share an fp8 scale: no format "
                "can say that; forge the bundle with fp8 in place of fp8-block"
            )
        scales = scales[first // FP8_BLOCK : -(-last // FP8_BLOCK)]
    elif scales is not None:
        scales = scales[first:last]
    zeros = None if matrix.zeros is None else matrix.zeros[first:last]
    row_scales = None if matrix.row_scales is None else matrix.row_scales[first:last]
    return replace(matrix, codes=matrix.codes[first:last], scales=scales, zeros=zeros, row_scales=row_scales)
