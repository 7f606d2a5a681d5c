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
from artifacts.precision import Scheme
from artifacts.reader import Bundle, open_bundle, read_manifest
from artifacts.weight_formats import FP8_BLOCK
from kernels.formats.table import cpu_packing
from kernels.spec import Array, Tensor
from optimizer.exporters.errors import ExportError
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.table import CODECS
from runtime.gpu.weights import gpu_packing_of
from runtime.models import checkpoint_tensors


@dataclass(frozen=True)
class LogicalBundle:
    """A verified bundle, its matrices unpacked one at a time. `architecture` is its own, maybe by another family's names."""

    bundle: Bundle
    architecture: Architecture

    @classmethod
    def open(cls, folder: Path) -> LogicalBundle:
        """The bundle at `folder`, of whatever device: weights are read, no kernel is run.

        Raises BundleError as `open_bundle` does, and ExportError for experts of one layer in several schemes.
        """
        target = read_manifest(folder).target
        bundle = open_bundle(
            folder,
            machine=target.machine or "",
            cpu_flags=frozenset(target.cpu_flags),
            gpu_arch=lambda: target.archs[0],
        )
        architecture = bundle.manifest.architecture
        if architecture.moe and architecture.moe.rare_experts:
            raise ExportError(
                f"{bundle.manifest.name} has some experts of a layer in a scheme of their own, and other formats have one for "
                "all; build the bundle with rare_experts: 0 under quantization, or serve it"
            )
        return cls(bundle, architecture)

    def require_dense(self, form: str) -> None:
        """ExportError for a model that `form` is not written for."""
        a = self.architecture
        found = {
            "a mixture of experts": a.moe,
            "latent attention": a.mla,
            "attention sinks": a.attention_sinks,
            "layers of several kinds": a.layers_differ,
        }
        for what, has in found.items():
            if has:
                raise ExportError(f"only dense decoders can be exported as {form}, and {self.manifest.name} has {what}")

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

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

        What no format has is the one that it is widened to; activations of 16 bits are those of a weight-only scheme.
        """
        scheme = replace(self._stored_scheme(group), int16_activations=False)
        widened = CODECS[scheme.weights].widened
        return scheme if widened is None else widened.scheme(scheme)

    def _stored_scheme(self, group: str) -> Scheme:
        return Scheme.parse(self.manifest.precision.groups[group])

    def matrix(self, group: str) -> QuantizedMatrix:
        """The weights of a layer group in `scheme(group)`, q/k/v and gate/up still fused."""
        scheme = self._stored_scheme(group)
        num_rows, num_columns = self.architecture.linear_shapes()[group]

        def stored(tensors: tuple[Tensor, ...]) -> dict[str, Array]:
            return {tensor.name: self.bundle.tensors[f"{group}.{tensor.name}"] for tensor in tensors}

        if not self.manifest.target.archs:
            packing = cpu_packing(scheme.variant)
            parts = packing.unpack(stored(packing.tensors), num_rows)
        else:
            on_gpu = gpu_packing_of(scheme)
            parts = on_gpu.unpack(stored(on_gpu.tensors), num_rows, num_columns)
        matrix = QuantizedMatrix(replace(scheme, int16_activations=False), parts)
        widened = CODECS[scheme.weights].widened
        return matrix if widened is None else widened.matrix(matrix)

    def modules(self, group: str) -> list[str]:
        """Hugging Face names of the projections that the layer group fuses, in the order of their rows."""
        return [part.name.removesuffix(".weight") for part in checkpoint_tensors(self.architecture)[f"{group}.weight"]]

    def projections(self, group: str) -> Iterator[tuple[str, QuantizedMatrix]]:
        """(module, matrix) of each of `modules(group)`."""
        fused, first = self.matrix(group), 0
        for module, part in zip(self.modules(group), checkpoint_tensors(self.architecture)[f"{group}.weight"], strict=True):
            yield module, rows_of(fused, first, first + part.shape[0])
            first += part.shape[0]

    def floats(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """(Hugging Face name, values) of every gain and bias."""
        parts = checkpoint_tensors(self.architecture)
        for name in self.architecture.float_shapes():
            stored, first = self.bundle.tensors[name], 0
            for part in parts[name]:
                yield part.name, stored[first : first + part.shape[0]]
                first += part.shape[0]


def rows_of(matrix: QuantizedMatrix, first: int, last: int) -> QuantizedMatrix:
    """Rows `first` to `last`. ExportError where they begin within a block of rows that share an fp8 scale."""
    if matrix.scheme.granularity == "block" and first % FP8_BLOCK:
        raise ExportError(
            f"a fused matrix is cut at row {first}, within a block of {FP8_BLOCK} rows that share an fp8 scale: no format "
            "can express that; build the bundle with fp8 instead of fp8-block"
        )
    return matrix.rows(first, last)
