"""transformers' model with its matrices rounded as a plan says: what logits of quantized weights are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from artifacts.layer_groups import is_of_experts, plain_group
from artifacts.precision import Scheme
from optimizer.importers import Source
from optimizer.quantization import round_to_nearest
from runtime.models import checkpoint_tensors
from runtime.models.stored_rows import Together

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def round_weights(model: PreTrainedModel, source: Source, plan: Mapping[str, Scheme]) -> None:
    """In place; `source` is opened from what `model` saved, rare experts may have been put apart."""
    state, parts = model.state_dict(), checkpoint_tensors(source.architecture)
    for group, scheme in plan.items():
        values = torch.from_numpy(round_to_nearest(group, source.tensor(f"{group}.weight"), scheme).dequantize())
        if is_of_experts(group):  # together in the module, often one by one in the checkpoint
            _, layer, kind = plain_group(group).split(".")
            name, rows = (getattr(parts[f"{plain_group(group)}.weight"][0], field) for field in ("name", "rows"))
            parameter = state[name if name in state else f"model.layers.{layer}.mlp.{kind.replace('_', '.', 1)}_proj"]
            experts = list(source.architecture.expert_groups(plain_group(group))[group])
            parameter[experts] = _as_stored(values.view(len(experts), -1, values.shape[1]), rows)
            continue
        rows = [part.shape[0] for part in parts[f"{group}.weight"]]
        for part, matrix in zip(parts[f"{group}.weight"], values.split(rows), strict=True):
            state[part.name].copy_(matrix)


def _as_stored(experts: torch.Tensor, rows: object) -> torch.Tensor:
    """[experts, N, K] as the checkpoint has them: what `Together.of` takes apart."""
    if not isinstance(rows, Together):
        return experts
    if rows.by_turns:
        experts = experts.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return experts.transpose(1, 2) if rows.transposed else experts
