"""A decoder in an ONNX file, floats or codes, as a Source."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from artifacts.architecture import Architecture
from optimizer.formats.stored_matrix import Misfit, StoredMatrix
from optimizer.importers.errors import GraphMismatch
from optimizer.importers.folder_texts import FolderTexts
from optimizer.importers.graph_path import CONFIG, GENAI, home_of
from optimizer.importers.onnx_decoder.config import completed, read_config
from optimizer.importers.onnx_decoder.gains import constant, find_gains
from optimizer.importers.onnx_decoder.graph import OnnxFile
from optimizer.importers.onnx_decoder.matrices import Matrix
from optimizer.importers.onnx_decoder.probe import check_plumbing
from optimizer.importers.onnx_decoder.roles import Decoder, find_roles
from optimizer.importers.source import Source
from runtime.models import UnsupportedModel, architecture, checkpoint_tensors

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def open_onnx(path: Path) -> Source:
    """The model in the file `path`, its config and texts beside it. Raises SourceError and UnsupportedModel."""
    folder = home_of(path)
    config, is_genai = read_config(folder)
    file = OnnxFile.open(path)
    decoder = find_roles(file)
    if is_genai:
        config = completed(config, file, decoder)
    described = architecture(config)
    found = {
        "experts": described.moe,
        "latent attention": described.mla,
        "attention sinks": described.attention_sinks,
        "layers of several kinds": described.layers_differ,
    }
    if what := next((name for name, has in found.items() if has), None):
        raise UnsupportedModel(
            f"only dense decoders without sinks are read from ONNX, and this {described.family} model has {what}; start from "
            "safetensors"
        )
    if described.num_layers != decoder.num_layers:
        raise GraphMismatch(
            f"{path} has caches of {decoder.num_layers} layers, but the config's num_hidden_layers is {described.num_layers}; "
            "the config is another model's"
        )
    checkpoint = OnnxCheckpoint.of(file, decoder, described)
    if described.tie_embeddings and not checkpoint.has_tied_head():
        described = described.model_copy(update={"tie_embeddings": False})
    texts = FolderTexts.read(folder, config)
    source = Source(
        architecture=described,
        checkpoint=checkpoint,
        tokenizer_json=texts.tokenizer_json,
        chat_template=texts.chat_template,
        generation_config=texts.generation_config,
        files=(folder / (GENAI if is_genai else CONFIG), *texts.files, *file.files),
        notes=texts.notes,
    )
    check_plumbing(file, decoder, source)
    return source


@dataclass(frozen=True)
class _Rows:
    """Rows `start` to `stop` of a matrix."""

    matrix: Matrix
    start: int
    stop: int

    def read(self) -> torch.Tensor:
        return self.matrix.read()[self.start : self.stop]

    def stored(self) -> StoredMatrix | Misfit | None:
        whole = self.matrix.stored()
        if whole is None or (self.start, self.stop) == (0, len(whole.codes)):
            return whole
        if whole.rows != 1:
            return Misfit("rows of several projections share a scale")
        rows = slice(self.start, self.stop)
        zeros = None if whole.zeros is None else whole.zeros[rows]
        return StoredMatrix(whole.kind, whole.codes[rows], whole.scales[rows], 1, whole.columns, zeros)


@dataclass(frozen=True)
class OnnxCheckpoint:
    """Matrices, gains and biases of a graph by their Hugging Face names."""

    file: OnnxFile
    _matrices: dict[str, tuple[_Rows, ...]]
    _vectors: dict[str, NDArray[np.float32]]
    _num_rounded: int = 0
    """Products whose inputs the graph rounds to integers."""

    @classmethod
    def of(cls, file: OnnxFile, decoder: Decoder, a: Architecture) -> OnnxCheckpoint:
        """What `decoder` found, by the names that `a` has for it."""
        tensors = checkpoint_tensors(a.model_copy(update={"tie_embeddings": False}))
        matrices: dict[str, tuple[_Rows, ...]] = {}
        vectors: dict[str, NDArray[np.float32]] = {}
        embed = decoder.embed.matrix
        matrices[tensors["embed.weight"][0].name] = (_Rows(embed, 0, embed.shape[0]),)
        for group, found in decoder.groups.items():
            parts = tensors[f"{group}.weight"]
            names, sizes = [part.name for part in parts], [part.shape[0] for part in parts]
            whole = [(_Rows(linear.matrix, 0, linear.matrix.shape[0]),) for linear in found]
            biases = [None if linear.bias is None else constant(file, linear.bias) for linear in found]
            if len(found) == len(parts):
                matrices |= dict(zip(names, whole, strict=True))
            elif len(parts) == 1:
                matrices[names[0]] = tuple(rows for (rows,) in whole)
                biases = [_joined(biases, [linear.matrix.shape[0] for linear in found])]
            else:
                matrix, starts = found[0].matrix, [sum(sizes[:i]) for i in range(len(sizes))]
                stops = [*starts[1:], matrix.shape[0]]
                cut = list(zip(starts, stops, strict=True))
                matrices |= {name: (_Rows(matrix, *rows),) for name, rows in zip(names, cut, strict=True)}
                biases = [None if biases[0] is None else biases[0][start:stop] for start, stop in cut]
            named = ((f"{name.removesuffix('.weight')}.bias", bias) for name, bias in zip(names, biases, strict=True))
            vectors |= {name: bias.reshape(-1) for name, bias in named if bias is not None}
        for norm, value in find_gains(file, decoder).items():
            for part in tensors.get(f"{norm}.weight", ()):
                added = 0.0 if part.gain is None else part.gain.added
                vectors[part.name] = constant(file, value).reshape(-1) - np.float32(added)
        return cls(file, matrices, vectors, sum(linear.rounds for linear in decoder.all))

    def has_tied_head(self) -> bool:
        """Whether the head is the embedding, or another copy of it."""
        (embed,), (head,) = self._matrices[_EMBEDDING], self._matrices[_HEAD]
        if embed.matrix.data == head.matrix.data:
            return True
        return embed.matrix.shape == head.matrix.shape and torch.equal(embed.read(), head.read())

    def shape(self, name: str) -> tuple[int, ...] | None:
        if name in self._vectors:
            return self._vectors[name].shape
        found = self._matrices.get(name)
        return None if found is None else (sum(rows.stop - rows.start for rows in found), found[0].matrix.shape[1])

    def is_bf16(self, name: str) -> bool:
        return name in self._matrices and all(rows.matrix.is_bf16 for rows in self._matrices[name])

    def where(self, name: str) -> str:
        found = self._matrices.get(name, ())
        return f"{name} ({', '.join(rows.matrix.data for rows in found) or 'no node of the graph'}) in {self.file.path}"

    def read(self, name: str) -> torch.Tensor:
        if name in self._vectors:
            return torch.from_numpy(self._vectors[name])
        return torch.cat([rows.read() for rows in self._matrices[name]])

    def stored(self, name: str) -> StoredMatrix | Misfit | None:
        found = [rows.stored() for rows in self._matrices.get(name, ())]
        if len(found) == 1 or not any(found):
            return found[0] if found else None
        matrices = [matrix for matrix in found if isinstance(matrix, StoredMatrix)]
        first = matrices[0]
        if len(matrices) < len(found) or any((m.kind, m.rows, m.columns) != (first.kind, 1, first.columns) for m in matrices):
            return Misfit("its projections are not all quantized in one way")
        zeros = [m.zeros for m in matrices if m.zeros is not None]
        if zeros and len(zeros) < len(matrices):
            return Misfit("not all of its projections have zero points")
        codes, scales = (np.concatenate([getattr(m, part) for m in matrices]) for part in ("codes", "scales"))
        return StoredMatrix(first.kind, codes, scales, 1, first.columns, np.concatenate(zeros) if zeros else None)

    def others(self, names: Collection[str]) -> list[str]:
        """Biases that the config has no place for; a head that is the embedding is no other tensor."""
        others = [name for name in (*self._matrices, *self._vectors) if name not in names and name != _HEAD]
        return [name for name in others if not name.endswith("bias") or self._vectors[name].any()]

    def notes(self) -> list[str]:
        if not self._num_rounded:
            return []
        return [
            f"the graph rounds what {self._num_rounded} products read to integers, which has no effect: each plan has its own"
        ]


def _joined(biases: list[NDArray[np.float32] | None], sizes: list[int]) -> NDArray[np.float32] | None:
    if all(bias is None for bias in biases):
        return None
    return np.concatenate([np.zeros(n, np.float32) if b is None else b.reshape(-1) for b, n in zip(biases, sizes, strict=True)])
