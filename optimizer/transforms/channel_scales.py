"""Factors of linears' input channels, undone by what produces those channels.

    y = W x = (W diag(s)) (diag(1/s) x)

| group     | its input comes from            | 1/s goes into                                   |
| qkv       | RMSNorm of attention            | the norm's gain                                 |
| o         | V, mixed over positions         | V's rows of qkv, and their bias                 |
| gate_up   | RMSNorm of the feed-forward net | the norm's gain                                 |
| down      | silu(gate) * up                 | up's rows of gate_up                            |
| head      | the final RMSNorm               | the norm's gain; not where the head is tied     |

Attention mixes rows of V over positions only, so factors of V's channels pass through it; every query head of a KV group
reads the same V, so o has one factor for all of them. Norms of Q and K and rotary embedding are never on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from artifacts.architecture import Architecture
from optimizer.importers import Source
from optimizer.transforms.transformed_source import UntransformableModelError

#: kinds of groups in a layer whose input channels can be scaled
SCALABLE = ("qkv", "o", "gate_up", "down")
_NORM_OF = {"qkv": "attn_norm", "gate_up": "mlp_norm"}


def num_factors(architecture: Architecture, group: str) -> int:
    """How many factors `group`'s input channels have: one each, except for `o`: one for each channel of V.

    Raises UntransformableModelError for groups that have none.
    """
    kind = group.rsplit(".", 1)[-1]
    if group not in architecture.linear_shapes() or kind not in (*SCALABLE, "head"):
        tied = "; a tied head shares its columns with the embedding" if group == "head" else ""
        raise UntransformableModelError(f"input channels can be scaled of {', '.join(SCALABLE)} and head, got {group!r}{tied}")
    return architecture.kv_size if kind == "o" else architecture.linear_shapes()[group][1]


def sharing(architecture: Architecture, group: str, columns: Tensor) -> Tensor:
    """[in_features] -> [channels that share a factor, num_factors]: o's columns by the query heads of a KV group."""
    if not group.endswith(".o"):
        return columns[None]
    heads = columns.view(architecture.num_kv_heads, -1, architecture.head_dim)
    return heads.transpose(0, 1).flatten(1)


def spread(architecture: Architecture, group: str, factors: Tensor) -> Tensor:
    """[num_factors] -> [in_features]: what each input channel of `group` is multiplied by."""
    if not group.endswith(".o"):
        return factors
    num_sharing = architecture.num_q_heads // architecture.num_kv_heads
    return factors.view(architecture.num_kv_heads, 1, architecture.head_dim).expand(-1, num_sharing, -1).flatten()


@dataclass(frozen=True)
class ChannelScales:
    """A transform. `factors`: group -> fp32 [num_factors], positive; groups that are absent stay as they are."""

    factors: Mapping[str, Tensor]
    provenance: Mapping[str, object]
    """How the factors were found."""

    def architecture(self, before: Architecture) -> Architecture:
        for group, factors in self.factors.items():
            expected = num_factors(before, group)
            if tuple(factors.shape) != (expected,) or not bool((torch.isfinite(factors) & (factors > 0)).all()):
                raise UntransformableModelError(
                    f"{group} needs {expected} finite positive factors, got {list(factors.shape)} from "
                    f"{float(factors.min()):.3g} to {float(factors.max()):.3g}; were they made for another model?"
                )
        return before

    def tensor(self, name: str, source: Source) -> Tensor:
        tensor = source.tensor(name).to(torch.float32)
        group, part = name.rsplit(".", 1)
        if part == "weight" and group in self.factors:
            tensor = tensor * spread(source.architecture, group, self.factors[group])
        divisor = self._made_by_rows.get(group)
        if divisor is None:
            return tensor
        rows = self.factors[divisor]
        if tensor.shape[0] == rows.shape[0]:  # a norm's gain
            return tensor / rows
        kept, scaled = torch.split(tensor, [tensor.shape[0] - rows.shape[0], rows.shape[0]])  # V and up stand last
        return torch.cat([kept, scaled / (rows[:, None] if tensor.ndim == 2 else rows)])

    def record(self) -> dict[str, object]:
        return dict(self.provenance)

    @cached_property
    def _made_by_rows(self) -> dict[str, str]:
        """Norm or group whose last rows make the input channels of a scaled group -> that group."""
        makers = {}
        for group in self.factors:
            layer, _, kind = group.rpartition(".")
            if group == "head":
                makers["final_norm"] = group
            elif kind in _NORM_OF:
                makers[f"{layer}.{_NORM_OF[kind]}"] = group
            else:
                makers[f"{layer}.{'qkv' if kind == 'o' else 'gate_up'}"] = group
        return makers
