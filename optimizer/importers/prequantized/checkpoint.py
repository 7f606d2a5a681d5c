"""A folder of safetensors, some of whose matrices are quantized, read as if none were."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from artifacts.architecture import Architecture
from optimizer.formats.stored_matrix import StoredMatrix
from optimizer.importers.errors import MissingTensor, QuantizationMismatch
from optimizer.importers.prequantized.method import Format, QuantizationConfig
from optimizer.importers.prequantized.module import Module
from optimizer.importers.safetensors_checkpoint import FLOATS, SafetensorsCheckpoint
from runtime.models import checkpoint_tensors

#: last names of static scales of activations, of products and of the KV cache
_RUN_TIME_SCALES = frozenset(
    ("input_scale", "input_zero_point", "input_global_scale", "activation_scale", "output_scale", "k_scale", "v_scale")
)
_WEIGHT = ".weight"
_EMBEDDING = "model.embed_tokens"


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """Opened and checked by headers; a matrix is dequantized when it is read, and nothing is kept."""

    checkpoint: SafetensorsCheckpoint
    _quantized: dict[str, tuple[Module, Format]]
    """By the name that the weight has where it is not quantized."""
    _ignored: tuple[str, ...] = ()
    """Of the config's keys."""

    @classmethod
    def open(
        cls, checkpoint: SafetensorsCheckpoint, method: QuantizationConfig, architecture: Architecture
    ) -> QuantizedCheckpoint:
        """The matrices of `architecture` in `checkpoint`, as `method` describes them.

        Raises QuantizationMismatch where they are stored in another way, MissingTensor, ShapeMismatch.
        """
        quantized: dict[str, tuple[Module, Format]] = {}
        linear = {f"{group}{_WEIGHT}" for group in architecture.linear_shapes()} - {f"embed{_WEIGHT}"}
        for ours, parts in checkpoint_tensors(architecture).items():
            for part in parts:
                if len(part.shape) < 2 or part.name in quantized:
                    continue
                module = Module.of(checkpoint, part.name)
                layout = method.format(module.name, is_embedding=module.name == _EMBEDDING)
                if module.is_quantized():
                    quantized[part.name] = module, _checked(module, layout)
                elif ours in linear and layout is not None and method.names_every_module and module.has("weight"):
                    fix = "name it in the config's ignore if that is intended"
                    if module.has("weight_scale"):
                        fix = "it was saved before it was compressed: save it again with save_compressed=True"
                    raise QuantizationMismatch(
                        f"{checkpoint.where(part.name)} is stored as {checkpoint.dtype(part.name)}, but the config quantizes "
                        f"it; {fix}"
                    )
        if method.has_static_kv_scales:
            _check_kv_scales(checkpoint, architecture.num_layers)
        return cls(checkpoint, quantized, method.ignored)

    def shape(self, name: str) -> tuple[int, ...] | None:
        if name in self._quantized:
            module, layout = self._quantized[name]
            return layout.shape(module)
        return self.checkpoint.shape(name)

    def is_bf16(self, name: str) -> bool:
        return name not in self._quantized and self.checkpoint.is_bf16(name)

    def where(self, name: str) -> str:
        return self.checkpoint.where(name)

    def read(self, name: str) -> torch.Tensor:
        stored = self.stored(name)
        if stored is None:
            return self.checkpoint.read(name)
        values, shape = torch.from_numpy(stored.dequantize()), self.shape(name)
        assert shape is not None
        # Matrices of experts lie the other way round where they are floats.
        return values if len(shape) == 2 else values.view(shape[0], shape[2], shape[1]).transpose(1, 2)

    def stored(self, name: str) -> StoredMatrix | None:
        if name not in self._quantized:
            return None
        module, layout = self._quantized[name]
        return layout.read(module)

    def others(self, names: Collection[str]) -> list[str]:
        """As of a checkpoint that is not quantized; scales for run time have no place in it, and zero biases no effect."""
        parts = {m.full(last) for m, layout in self._quantized.values() for last in layout.tensors(m)}
        others = self.checkpoint.others({*names, *parts})
        return [name for name in others if name.rpartition(".")[2] not in _RUN_TIME_SCALES and not self._is_zero_bias(name)]

    def _is_zero_bias(self, name: str) -> bool:
        """AutoGPTQ gave every module a bias."""
        module, _, last = name.rpartition(".")
        if last != "bias" or module + _WEIGHT not in self._quantized:
            return False
        return self.checkpoint.dtype(name) in FLOATS and not self.checkpoint.read(name).any()

    def notes(self) -> list[str]:
        notes = self.checkpoint.notes()
        if self._ignored:
            notes.append(f"the quantization config's {' and '.join(self._ignored)} have no effect: each plan has its own")
        unused = [n for n in self.checkpoint.names() if n.rpartition(".")[2] in _RUN_TIME_SCALES]
        if unused:
            notes.append(
                f"{len(unused)} static scales of activations and KV caches (such as {unused[0]}) have no effect but under "
                "fp8-tensor, which takes those of activations: all else is scaled at run time"
            )
        return notes


def _checked(module: Module, layout: Format | None) -> Format:
    stored = next((last for last in ("qweight", "weight_packed", "blocks") if module.has(last)), "weight")
    if layout is None:
        raise QuantizationMismatch(
            f"{module.where(stored)} is quantized, but the config leaves this module out; correct the config"
        )
    layout.check(module)
    return layout


def _check_kv_scales(checkpoint: SafetensorsCheckpoint, num_layers: int) -> None:
    for layer in range(num_layers):
        attention = f"model.layers.{layer}.self_attn"
        for kind in ("k", "v"):
            names = (f"{kind}_scale", f"{kind}_proj.{kind}_scale", f"{kind}_proj.output_scale", f"attn.{kind}_scale")
            if not any(checkpoint.shape(f"{attention}.{name}") is not None for name in names):
                raise MissingTensor(
                    f"the config says that the KV cache has static scales, but {checkpoint.where(f'{attention}.{names[0]}')} "
                    "is not there; fetch the checkpoint again, or remove the KV cache from its quantization config"
                )
