"""What layers read beside the stream, for some token ids: it depends on nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from optimizer.importers import Source
from optimizer.quantization.decoder_layer import FloatBuilder
from runtime.network import per_layer_inputs


class LayerInputs:
    """Holds the rows of the ids in both embeddings, as they are stored, and what projects one of them."""

    def __init__(self, source: Source, ids: Iterable[int]) -> None:
        self._architecture = source.architecture
        self._ids = torch.tensor(sorted(set(ids)))
        self._embeddings, self._rows = (source.tensor(f"{name}.weight")[self._ids] for name in ("embed", "embed_per_layer"))
        self._projection = source.tensor("per_layer_model_projection.weight")
        self._gain = source.tensor("per_layer_norm.weight")

    def of_layer(self, layer: int) -> LayerInput:
        """Those of one layer."""
        size = self._architecture.per_layer_size
        own = slice(layer * size, (layer + 1) * size)
        tensors = {
            "embed_per_layer.rows": self._rows[:, own].float(),
            "per_layer_model_projection.weight": self._projection[own].float(),
            "per_layer_norm.weight": self._gain,
        }
        build = FloatBuilder(self._architecture, tensors)
        embeddings = self._embeddings.float() * self._architecture.embedding_factor
        return LayerInput(self._ids, per_layer_inputs(self._architecture, build, embeddings))


class LayerInput:
    """What one layer reads."""

    def __init__(self, ids: Tensor, values: Tensor) -> None:
        self._ids, self._values = ids, values

    def of(self, ids: Sequence[int]) -> Tensor:
        """Of each token of a sequence, fp32 [T, 1, per_layer_size]."""
        return self._values[torch.searchsorted(self._ids, torch.tensor(ids))]
