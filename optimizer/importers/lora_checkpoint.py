"""A checkpoint with a LoRA merged into it: W + scaling B A, made when a tensor is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from optimizer.formats.stored_matrix import Misfit, StoredMatrix
from optimizer.importers.errors import AdapterMismatch, MissingFile, PickleCheckpoint, UnsupportedAdapter
from optimizer.importers.json_file import read_json
from optimizer.importers.lora_config import LoraConfig
from optimizer.importers.safetensors_checkpoint import SafetensorsCheckpoint
from optimizer.importers.source import Checkpoint, Source

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
#: stored name -> module, which factor, whether of an embedding
_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<which>[AB])(?:\.weight)?")
_WHOLE = re.compile(r"base_model\.model\.(?P<module>.+?)(?:\.base_layer)?\.weight")
#: rows that are merged at once: their sums are in fp64
_ROWS = 4096
#: of a tokenizer or a chat, which are taken from the base
_BESIDE = ("chat_template.jinja", "tokenizer.json")


@dataclass(frozen=True)
class Factors:
    """Stored names of B [N, r] and A [r, K]: their product, maybe transposed, times `scaling` is added to a weight."""

    b: str
    a: str
    scaling: float
    transposed: bool


@dataclass(frozen=True)
class LoraCheckpoint:
    """`base` with its changed tensors: in `whole` the stored name of what replaces one, in `factors` what is then added."""

    base: Checkpoint
    adapter: SafetensorsCheckpoint
    factors: Mapping[str, Factors]
    whole: Mapping[str, str]
    aliases: Mapping[str, str]
    """Of a head that the base has no tensor of, because it is tied: the embedding."""
    summary: str

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.base.shape(self._base_name(name))

    def is_bf16(self, name: str) -> bool:
        return self.base.is_bf16(self._base_name(name))

    def where(self, name: str) -> str:
        return self.adapter.where(self.whole[name]) if name in self.whole else self.base.where(self._base_name(name))

    def read(self, name: str) -> torch.Tensor:
        """In the base's dtype: sums are in fp64, rounded to fp32 and then once to that."""
        weight = self.base.read(self._base_name(name))
        if name in self.whole:  # peft saves an embedding beside its factors
            weight = self.adapter.read(self.whole[name]).to(torch.float32).to(weight.dtype)
        return _added(weight, self.adapter, self.factors[name]) if name in self.factors else weight

    def stored(self, name: str) -> StoredMatrix | Misfit | None:
        stored = self.base.stored(self._base_name(name))
        changed = name in self.factors or name in self.whole
        return Misfit("an adapter is merged into it") if changed and stored is not None else stored

    def others(self, names: Collection[str]) -> list[str]:
        return self.base.others(names)

    def notes(self) -> list[str]:
        return [self.summary, *self.base.notes()]

    def _base_name(self, name: str) -> str:
        return self.aliases.get(name, name)


def _added(weight: torch.Tensor, adapter: SafetensorsCheckpoint, factors: Factors) -> torch.Tensor:
    b, a = adapter.read(factors.b).double(), adapter.read(factors.a).double()
    left, right = (a.T, b.T) if factors.transposed else (b, a)
    merged = torch.empty_like(weight)
    for start in range(0, len(weight), _ROWS):
        rows = slice(start, start + _ROWS)
        merged[rows] = (weight[rows].double() + factors.scaling * (left[rows] @ right)).float().to(weight.dtype)
    return merged


def with_adapter(source: Source, folder: Path) -> Source:
    """`source` with the LoRA in `folder`, as peft saves one, merged into it. Tokenizer and chat template stay the source's.

    Raises MissingFile, DamagedFile, PickleCheckpoint, UnsupportedAdapter, and AdapterMismatch for one of another model.
    """
    config_path, path = folder / _CONFIG, folder / _WEIGHTS
    if not config_path.exists():
        raise MissingFile(f"{config_path} is not there; an adapter is a folder as peft saves it")
    config = LoraConfig.of(read_json(config_path), config_path)
    if not path.exists():
        if (pickle := folder / "adapter_model.bin").exists():
            raise PickleCheckpoint(f"{pickle} is pickle, which runs code when it is loaded; save the adapter again with peft")
        raise MissingFile(f"{path} is not there; an adapter is a folder as peft saves it")
    stored = SafetensorsCheckpoint.of_file(path)
    factors, whole = _read_names(stored, config, path)
    stored.require_floats()
    aliases, architecture = {}, source.architecture
    if architecture.tie_embeddings and {_EMBEDDING, _HEAD} & {*factors, *whole}:
        if {_EMBEDDING, _HEAD} & factors.keys():
            raise UnsupportedAdapter(
                f"{path} adds to an embedding that is also the head: peft's merge changes both and its training one; merge it "
                "with peft (merge_and_unload, then save_pretrained) and name that folder as source"
            )
        aliases, architecture = {_HEAD: _EMBEDDING}, architecture.model_copy(update={"tie_embeddings": False})
    summary = f"{folder.name} is merged into {len(factors)} of the matrices, at rank {config.r}"
    if whole:
        summary += f", and replaces {', '.join(sorted(whole))}"
    checkpoint = LoraCheckpoint(source.checkpoint, stored, factors, whole, aliases, summary)
    _check_shapes(checkpoint, config)
    beside = [name for name in _BESIDE if (folder / name).exists()]
    notes = (f"{' and '.join(beside)} of {folder.name} are not used: those of the source are",) if beside else ()
    files = (*source.files, config_path, path)
    return replace(source, architecture=architecture, checkpoint=checkpoint, files=files, notes=(*source.notes, *notes))


def _read_names(stored: SafetensorsCheckpoint, config: LoraConfig, path: Path) -> tuple[dict[str, Factors], dict[str, str]]:
    """Weight -> its factors, and weight -> what replaces it."""
    halves: dict[str, dict[str, str]] = {}
    embeddings, whole = set(), {}
    for name in stored.names():
        if found := _FACTOR.fullmatch(name):
            halves.setdefault(found["module"], {})[found["which"]] = name
            embeddings |= {found["module"]} if found["embedding"] else set()
        elif (found := _WHOLE.fullmatch(name)) and "lora_" not in name:
            whole[f"{found['module']}.weight"] = name
        else:
            raise UnsupportedAdapter(f"{path} has {name}, which is no part of a plain LoRA; merge the adapter with peft first")
    if half := next((module for module, both in halves.items() if len(both) < 2), None):
        raise AdapterMismatch(f"{path} has one of the two factors of {half}; is it whole?")
    config.check_targets(halves, path)
    saved = config.modules_to_save or ()
    if lost := [name for name in saved if not any(f".{weight}".endswith(f".{name}.weight") for weight in whole)]:
        raise AdapterMismatch(f"{path} lacks {lost[0]}, which modules_to_save in {_CONFIG} names; is it whole?")
    factors = {
        f"{module}.weight": Factors(both["B"], both["A"], config.scaling(module), module in embeddings)
        for module, both in halves.items()
    }
    return factors, whole


def _check_shapes(merged: LoraCheckpoint, config: LoraConfig) -> None:
    made_for = f"; it was made for {config.base_model_name_or_path}" if config.base_model_name_or_path else ""

    def check(name: str, shape: tuple[int, ...], what: str) -> None:
        base = merged.shape(name)
        if base is None:
            raise AdapterMismatch(f"the adapter changes {name}, which the source does not have{made_for}")
        if shape != base:
            raise AdapterMismatch(f"{what} makes {name} {list(shape)}, and the source has {list(base)}{made_for}")

    for name, factors in merged.factors.items():
        b, a = merged.adapter.shape(factors.b), merged.adapter.shape(factors.a)
        rank = config.rank(name.removesuffix(".weight"))
        if b is None or a is None or not (len(b) == len(a) == 2 and b[1] == a[0] == rank):
            raise AdapterMismatch(
                f"{merged.adapter.where(factors.a)} must be of rank {rank}, as {_CONFIG} says; the factors are {b} and {a}"
            )
        check(name, (a[1], b[0]) if factors.transposed else (b[0], a[1]), merged.adapter.where(factors.b))
    for name, stored in merged.whole.items():
        check(name, merged.adapter.shape(stored) or (), merged.adapter.where(stored))
