"""Statistics of every layer group's inputs, gathered layer by layer and kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.layer_groups import is_of_experts, is_table, kind_of, plain_group
from optimizer.importers import Source
from optimizer.quantization.decoder_layer import Caches, DecoderLayer, normed_for_head
from optimizer.quantization.input_statistics import InputAccumulator, InputStatistics
from optimizer.quantization.layer_inputs import LayerInputs
from optimizer.records.progress import Reporter

_HIDDEN = "hidden"
_HITS = "hits"
_CACHED = ("keys", "values")
#: of embeddings, for all layers: it counts as one of the first
_PROJECTION = "per_layer_model_projection"
_STATISTICS = tuple(field.name for field in fields(InputStatistics))


class Calibration:
    """The inputs of `source`'s layer groups when the float model reads `sequences` of token ids.

    Statistics are of the float model, whatever will be quantized: the search may mix schemes freely. A layer is gathered
    when it is first asked for, after those before it, and stays in `folder`, which belongs to this source and these
    sequences alone; `layers.I.safetensors` appears whole or not at all, so a killed run goes on at its layer.

    Memory: the fp32 weights and the K x K sums of one layer, the hidden states (num_tokens x hidden_size fp32) twice, and
    the attention scores of one sequence; before the first layer, the embedding as it is stored; keys and values that later
    layers read, and rows of a second embedding. Disk: 4 K^2 bytes a group.

    Experts have statistics of their own where their inputs have nothing in common (`parts`), which takes E K^2 in place of K^2.

    Raises UserError for no sequences or ones longer than the model's.
    """

    def __init__(self, source: Source, sequences: Sequence[Sequence[int]], folder: Path) -> None:
        longest = max(map(len, sequences), default=0)
        if not 0 < longest <= source.architecture.max_position or not all(sequences):
            raise UserError(
                "calibration needs sequences of 1 to "
                f"{source.architecture.max_position} tokens, got {len(sequences)} of up to {longest}"
            )
        self._source, self._folder, self._divided = source, folder, source.architecture
        self._sequences = [list(ids) for ids in sequences]
        self._longest = longest

    @property
    def digest(self) -> str:
        """sha256 of the token ids, sequence by sequence."""
        digest = hashlib.sha256()
        for ids in self._sequences:
            digest.update(np.asarray([len(ids), *ids], np.int64).tobytes())
        return digest.hexdigest()

    def covers(self, group: str) -> bool:
        """Whether `group` multiplies inputs: an embedding, also one that is a tied head, is mostly looked up."""
        return not is_table(group)

    def parts(self, group: str) -> tuple[str, ...]:
        """What has statistics of its own in a layer group: equal shares of its rows, in order; mostly the group itself.

        `group` may be one that the source has under `divided`.
        """
        return _parts(self._divided, group)

    def divided(self, architecture: Architecture) -> Calibration:
        """The same statistics for the layer groups of `architecture`, in which rare experts have theirs."""
        found = copy(self)
        found._divided = architecture
        return found

    def statistics(self, part: str) -> InputStatistics:
        """The statistics of one of the `parts` of a group that `covers`: `layers.I.qkv`, `.o`, `.experts_down.3`, `head`.

        Gathers what is missing up to its layer. KeyError for one that the model lacks.
        """
        architecture = self._source.architecture
        layer = architecture.num_layers if part == "head" else _layer_of(part)
        groups = architecture.linear_shapes()
        if not any(part in _parts(architecture, group) for group in groups if self.covers(group)):
            raise KeyError(f"{part} has no inputs to calibrate with")
        self._gather(layer)
        with safe_open(self._layer_path(layer), framework="pt") as file:
            return InputStatistics(**{name: file.get_tensor(f"{part}.{name}").clone() for name in _STATISTICS})

    def hits(self, layer: int) -> Tensor:
        """How many tokens went to each expert of `layer`, i64 [experts]; empty for a layer without experts."""
        if not self._source.architecture.is_moe(layer):
            return torch.zeros(0, dtype=torch.int64)
        self._gather(layer)
        with safe_open(self._layer_path(layer), framework="pt") as file:
            counts: Tensor = file.get_tensor(_HITS)
            return counts.clone()

    def gather(self, reporter: Reporter) -> None:
        """Gather all that is missing now, as one stage of a run."""
        architecture = self._source.architecture
        self._gather(architecture.num_layers - ("head" not in architecture.linear_shapes()), reporter)

    def _gather(self, last: int, reporter: Reporter | None = None) -> None:
        """Make the files of all layers up to `last` that are not there; the head counts as the layer after all others."""
        num_layers = self._source.architecture.num_layers
        first = next((i for i in range(num_layers + 1) if not self._layer_path(i).exists()), num_layers + 1)
        if first > last:
            return
        hidden, caches = self._load_hidden(first)
        layers = range(first, last + 1)
        for layer in reporter.track(layers, "calibrating layers", len(layers)) if reporter else layers:
            accumulators = self._pass_layer(layer, hidden, caches) if layer < num_layers else self._pass_head(hidden)
            hits = [one.num_rows for part, one in accumulators.items() if ".experts_down." in part]
            statistics = {part: one.statistics() for part, one in accumulators.items()}
            # The next layer's input goes first: a layer counts as done when its statistics are there.
            if layer < num_layers:
                self._write(self._hidden_path(layer + 1), {_HIDDEN: torch.cat(hidden), **self._kept(caches, layer + 1)})
            self._write(
                self._layer_path(layer),
                {f"{part}.{name}": getattr(one, name) for part, one in statistics.items() for name in _STATISTICS}
                | ({_HITS: torch.tensor(hits)} if hits else {}),
            )
            self._hidden_path(layer).unlink(missing_ok=True)

    def _pass_layer(self, index: int, hidden: list[Tensor], caches: list[Caches]) -> dict[str, InputAccumulator]:
        """The inputs of one layer's parts; `hidden`, one tensor a sequence, becomes its output, and `caches` gets its keys."""
        architecture = self._source.architecture
        shapes = architecture.linear_shapes()
        groups = [group for group in shapes if group.startswith(f"layers.{index}.")]
        groups += [_PROJECTION] if index == 0 and _PROJECTION in shapes else []
        accumulators = {part: InputAccumulator(shapes[group][1]) for group in groups for part in _parts(architecture, group)}
        layer = DecoderLayer(architecture, index, self._source.tensor, self._longest)
        inputs = self._inputs.of_layer(index) if architecture.per_layer_size else None
        for i, (ids, states) in enumerate(zip(self._sequences, hidden, strict=True)):
            if _PROJECTION in accumulators:
                accumulators[_PROJECTION].add(states)
            read = None if inputs is None else inputs.of(ids)
            hidden[i] = layer(states, lambda part, rows: accumulators[part].add(rows), caches[i], read)
        return accumulators

    @cached_property
    def _inputs(self) -> LayerInputs:
        return LayerInputs(self._source, (token for ids in self._sequences for token in ids))

    def _kept(self, caches: list[Caches], layer: int) -> dict[str, Tensor]:
        """Of `caches` what `layer` and later ones read, as a file has it; all else is dropped."""
        a = self._source.architecture
        needed = {a.cache_of(later) for later in range(layer, a.num_layers)}
        for held in caches:
            for owner in held.keys() - needed:
                del held[owner]
        parts = ((f"{owner}.{part}", i) for owner in caches[0] for i, part in enumerate(_CACHED))
        return {name: torch.cat([held[int(name.split(".")[0])][i] for held in caches]) for name, i in parts}

    def _pass_head(self, hidden: list[Tensor]) -> dict[str, InputAccumulator]:
        architecture = self._source.architecture
        gain = self._source.tensor("final_norm.weight").to(torch.float32)
        accumulator = InputAccumulator(architecture.hidden_size)
        for states in hidden:
            accumulator.add(normed_for_head(architecture, gain, states))
        return {"head": accumulator}

    def _load_hidden(self, layer: int) -> tuple[list[Tensor], list[Caches]]:
        """The input of `layer`, fp32 [T, hidden_size] for each sequence, and caches of layers before that are still read."""
        if layer == 0:
            embedding, factor = self._source.tensor("embed.weight"), self._source.architecture.embedding_factor
            states = [embedding[torch.tensor(ids)].to(torch.float32).mul_(factor) for ids in self._sequences]
            return states, [{} for _ in self._sequences]
        lengths = [len(ids) for ids in self._sequences]
        with safe_open(self._hidden_path(layer), framework="pt") as file:
            found = {name: torch.split(file.get_tensor(name), lengths) for name in file.keys()}  # noqa: SIM118 - not a mapping
        owners = sorted({int(name.split(".")[0]) for name in found if name != _HIDDEN})
        caches = [
            {owner: (found[f"{owner}.{_CACHED[0]}"][i].clone(), found[f"{owner}.{_CACHED[1]}"][i].clone()) for owner in owners}
            for i in range(len(lengths))
        ]
        return [part.clone() for part in found[_HIDDEN]], caches

    def _layer_path(self, layer: int) -> Path:
        return self._folder / f"layers.{layer}.safetensors"

    def _hidden_path(self, layer: int) -> Path:
        return self._folder / f"hidden.{layer}.safetensors"

    def _write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file(tensors, partial)
        partial.replace(path)


def _parts(architecture: Architecture, group: str) -> tuple[str, ...]:
    if not is_of_experts(group):
        return (group,)
    plain = plain_group(group)
    if kind_of(plain) == "experts_gate_up":  # all experts read the same states
        return (plain,)
    return tuple(f"{plain}.{expert}" for expert in architecture.expert_groups(plain)[group])


def _layer_of(part: str) -> int:
    """3 of `layers.3.qkv`; 0 of what has no layer."""
    return int(part.split(".")[1]) if part.startswith("layers.") else 0
