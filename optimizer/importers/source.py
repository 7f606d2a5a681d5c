"""A model as it comes in: architecture, tensors by canonical name, tokenizer, template."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from artifacts.architecture import Architecture
from artifacts.file_digest import file_sha256
from artifacts.precision import Scheme
from artifacts.weight_formats import FP8_BLOCK
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import Misfit, StoredMatrix
from optimizer.formats.table import kept_in
from optimizer.importers.errors import MissingTensor, ShapeMismatch, UnexpectedTensor
from runtime.models import Part, checkpoint_tensors
from runtime.models.stored_rows import Together


class Checkpoint(Protocol):
    """Stored tensors, by their Hugging Face names."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape according to the header, None if the tensor is not there."""
        ...

    def is_bf16(self, name: str) -> bool:
        """Whether `read` gives bf16, according to the header."""
        ...

    def where(self, name: str) -> str:
        """The tensor's stored name and file, for messages."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """The data, read now."""
        ...

    def stored(self, name: str) -> StoredMatrix | Misfit | None:
        """The codes that the tensor is stored as, why no scheme holds them, or None if it is not quantized. Read now."""
        ...

    def others(self, names: Collection[str]) -> list[str]:
        """Stored tensors that matter and are not among `names`."""
        ...

    def notes(self) -> list[str]:
        """What of the checkpoint has no effect here, and why, in sentences for the user."""
        ...


@dataclass(frozen=True)
class Source:
    """An opened model. Opening checks every tensor's presence and shape from headers; data is read by `tensor`.

    `generation_config` is the checkpoint's, completed with `bos_token_id` and `eos_token_id` from where else they are
    stated, with the ends of turns, and with the strings of special tokens that its chat template refers to, by their names
    (`bos_token` and others that end in `_token`; absent if it has none). `notes` are what was completed, or is odd, in
    sentences for the user.
    Raises MissingTensor, ShapeMismatch or UnexpectedTensor.
    """

    architecture: Architecture
    checkpoint: Checkpoint
    tokenizer_json: str
    chat_template: str | None
    generation_config: dict[str, object]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        parts = [part for parts in checkpoint_tensors(self.architecture).values() for part in parts]
        for part in parts:
            shape = self.checkpoint.shape(part.name)
            if shape is None:
                raise MissingTensor(f"the config implies a tensor that is not there: {self.checkpoint.where(part.name)}")
            if shape != part.shape:
                raise ShapeMismatch(
                    f"{self.checkpoint.where(part.name)} has shape {list(shape)}, "
                    f"but the config's {part.config_keys} make it {list(part.shape)}"
                )
        others = self.checkpoint.others({part.name for part in parts})
        if others:
            raise UnexpectedTensor(
                f"a {self.architecture.family} model with this config has no place for {len(others)} of the checkpoint's "
                f"tensors, and leaving them out would change it: {', '.join(sorted(others)[:5])}"
            )

    def tensor(self, name: str) -> torch.Tensor:
        """The canonical tensor `name` (docs/architecture.md): as stored (bf16, fp16, fp32), fp32 if it was quantized.

        Nothing is kept: memory holds this tensor and its parts while they are joined. KeyError on an unknown name.
        """
        parts = [part.taken_from(self.checkpoint.read(part.name)) for part in checkpoint_tensors(self.architecture)[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def is_bf16(self) -> bool:
        """Whether the checkpoint has every layer group in bf16. No data is read."""
        tensors, groups = checkpoint_tensors(self.architecture), self.architecture.linear_shapes()
        return all(self.checkpoint.is_bf16(part.name) for group in groups for part in tensors[f"{group}.weight"])

    def stored(self, group: str, scheme: Scheme) -> QuantizedMatrix | Misfit | None:
        """The checkpoint's own codes and scales of a layer group, where `scheme` holds them and the values bit for bit.

        Scales in fp32 that it holds in fp16 are rounded, and `rounding` says what that changes.
        Misfit says why it does not; None: the group is not quantized, or `scheme` is a float one.
        """
        return None if scheme.is_float else self._in_scheme(group, scheme, self._stored(group))

    def keeping(self, group: str, schemes: Iterable[Scheme]) -> list[Scheme]:
        """Those of `schemes` in which `stored` is the checkpoint's codes, which are read once."""
        stored = self._stored(group)
        if not any(isinstance(found, StoredMatrix) for found in stored):
            return []
        quantized = (scheme for scheme in schemes if not scheme.is_float)
        return [scheme for scheme in quantized if isinstance(self._in_scheme(group, scheme, stored), QuantizedMatrix)]

    def _stored(self, group: str) -> list[StoredMatrix | Misfit | None]:
        """What each part of a layer group is stored as, its rows in the order that they have here."""
        parts = checkpoint_tensors(self.architecture)[f"{group}.weight"]
        stored = [self.checkpoint.stored(part.name) for part in parts]
        return [_ordered(part, found) for part, found in zip(parts, stored, strict=True)]

    def _in_scheme(
        self, group: str, scheme: Scheme, stored: Sequence[StoredMatrix | Misfit | None]
    ) -> QuantizedMatrix | Misfit | None:
        parts = checkpoint_tensors(self.architecture)[f"{group}.weight"]
        fitted = [kept_in(scheme, found) if isinstance(found, StoredMatrix) else found for found in stored]
        if not any(fitted):
            return None
        joined: list[QuantizedMatrix] = []
        for part, found in zip(parts, fitted, strict=True):
            if not isinstance(found, QuantizedMatrix):
                if len(parts) == 1 and found is not None:
                    return found
                module = part.name.split(".")[-2]
                return Misfit(f"{module} is not quantized" if found is None else f"{module}: {found.reason}")
            joined.append(found)
        if scheme.granularity == "block" and any(part.shape[0] % FP8_BLOCK for part in parts[:-1]):
            return Misfit(f"blocks of {FP8_BLOCK} rows cross from one joined matrix into the next")
        return QuantizedMatrix.joined(joined)

    def transforms(self) -> list[dict[str, object]]:
        """The records of all transforms between the checkpoint and this source, the first one first."""
        return []

    def sha256(self) -> dict[str, str]:
        """File name -> hex digest of every file that was used, read as streams."""
        return {path.name: file_sha256(path) for path in self.files}


def _ordered(part: Part, stored: StoredMatrix | Misfit | None) -> StoredMatrix | Misfit | None:
    """The codes of a part, its rows in the order that they have here; Misfit where rows that stand apart share a scale."""
    if part.rows is None or stored is None:
        return stored
    if not isinstance(part.rows, Together):
        return Misfit("rows stand in another order here than in the checkpoint")
    if isinstance(stored, StoredMatrix) and part.rows.by_turns:
        return stored.reordered(part.rows.order(part.shape[0], len(stored.codes)))
    return stored
