"""Factors of linears' input channels, undone by what produces those channels.

    y = W x = (W diag(s)) (diag(1/s) x)

| group     | its input comes from            | 1/s goes into                                   |
| qkv       | RMSNorm of attention            | the norm's gain                                 |
| o         | V, mixed over positions         | V's rows of qkv, and their bias                 |
| gate_up   | RMSNorm of the feed-forward net | the norm's gain                                 |
| down      | silu(gate) * up                 | up's rows of gate_up                            |
| head      | the final RMSNorm               | the norm's gain; not where the head is tied     |
| q, q_a    | RMSNorm of attention            | the norm's gain; kv_a has the same factors      |
| q_b       | RMSNorm of the queries' latent  | the norm's gain                                 |

Under latent attention o reads values that v_up makes, which no plan quantizes: each head's columns are divided there. What the
cached latent meets, behind a norm of its own, is not quantized either, so kv_a's rows stay.

In a mixture the router, all experts' gate_up and the network of all tokens read one norm, so experts_gate_up has the factors of
all of them. Each expert's down has factors of its own, which go into its own up rows.

Attention mixes rows of V over positions only, so factors of V's channels pass through it; every query head of a KV group
reads the same V, so o has one factor for all of them (of latents each head makes V of its own). Norms of Q and K and rotary
embedding are never on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from artifacts.architecture import Architecture
from artifacts.layer_groups import kind_of
from optimizer.importers import Source
from optimizer.transforms.transformed_source import UntransformableModelError

#: kinds of groups in a layer whose input channels can be scaled
SCALABLE = ("qkv", "q", "q_a", "q_b", "o", "gate_up", "down", "experts_gate_up", "experts_down")
_NORM_OF = {
    "qkv": "attn_norm",
    "q": "attn_norm",
    "q_a": "attn_norm",
    "q_b": "q_norm",
    "gate_up": "mlp_norm",
    "experts_gate_up": "mlp_norm",
}
#: what makes V, and up; of qkv and v_up a model has one
_MAKERS = {"o": ("qkv", "v_up"), "down": ("gate_up",), "experts_down": ("experts_gate_up",)}
#: what reads a norm beside the group that has the factors
_BESIDE = {"experts_gate_up": ("router", "gate_up"), "q": ("kv_a",), "q_a": ("kv_a",)}


def scalable_groups(architecture: Architecture) -> list[str]:
    """Layer groups whose input channels can have factors of their own."""
    shapes = architecture.linear_shapes()

    def is_scalable(group: str) -> bool:
        layer, _, kind = group.rpartition(".")
        if kind == "gate_up" and f"{layer}.experts_gate_up" in shapes:
            return False
        if kind in ("down", "experts_down") and architecture.activation == "clamped_silu":
            return False  # what up makes is not only multiplied
        return kind in SCALABLE or group == "head"

    return list(filter(is_scalable, shapes))


def num_factors(architecture: Architecture, group: str) -> int:
    """How many factors `group`'s input channels have: one each, except for `o`: one for each channel of V.

    Raises UntransformableModelError for groups that have none.
    """
    if group not in scalable_groups(architecture):
        tied = "; a tied head shares its columns with the embedding" if group == "head" else ""
        raise UntransformableModelError(f"input channels can be scaled of {', '.join(SCALABLE)} and head, got {group!r}{tied}")
    num_columns = architecture.linear_shapes()[group][1]
    if kind_of(group) == "o":
        return num_columns // _query_heads_of_one(architecture)
    return len(_experts(architecture, group)) * num_columns


def beside(architecture: Architecture, group: str) -> list[str]:
    """Other layer groups that read the norm that `group` reads, and have its factors."""
    layer, _, kind = group.rpartition(".")
    return [other for name in _BESIDE.get(kind, ()) if (other := f"{layer}.{name}") in architecture.linear_shapes()]


def _query_heads_of_one(architecture: Architecture) -> int:
    """Query heads that read the same V."""
    return architecture.num_q_heads // architecture.num_kv_heads


def _experts(architecture: Architecture, group: str) -> range:
    """Those of which each has factors of its own; a group without any counts as one."""
    moe = architecture.moe
    return range(moe.num_experts if moe and kind_of(group) == "experts_down" else 1)


def sharing(architecture: Architecture, group: str, columns: Tensor) -> Tensor:
    """[in_features] -> [channels that share a factor, num_factors]: o's columns by the query heads of a KV group."""
    if not group.endswith(".o"):
        return columns[None]
    heads = columns.view(architecture.num_kv_heads, _query_heads_of_one(architecture), -1)
    return heads.transpose(0, 1).flatten(1)


def spread(architecture: Architecture, group: str, factors: Tensor) -> Tensor:
    """[num_factors] -> [in_features]: what each input channel of `group` is multiplied by, or of one expert's part of it."""
    if not group.endswith(".o"):
        return factors
    return factors.view(architecture.num_kv_heads, 1, -1).expand(-1, _query_heads_of_one(architecture), -1).flatten()


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
        tensor, a = source.tensor(name).to(torch.float32), source.architecture
        group, part = name.rsplit(".", 1)
        reader = self._factors_of(group)
        if part == "weight" and reader in self.factors:
            each = self.factors[reader].chunk(len(_experts(a, reader)))
            matrices = zip(tensor.chunk(len(each)), each, strict=True)
            tensor = torch.cat([matrix * spread(a, reader, factors) for matrix, factors in matrices])
        divisor = self._made_by_rows.get(group)
        if divisor is None:
            return tensor
        each = self.factors[divisor].chunk(len(_experts(a, divisor)))
        return torch.cat([_divided(rows, factors) for rows, factors in zip(tensor.chunk(len(each)), each, strict=True)])

    def _factors_of(self, group: str) -> str:
        """The group whose factors the columns of `group` have."""
        layer, _, kind = group.rpartition(".")
        readers = (f"{layer}.{reader}" for reader, others in _BESIDE.items() if kind in others)
        return next((reader for reader in readers if reader in self.factors), group)

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
                makers |= {f"{layer}.{maker}": group for maker in _MAKERS[kind]}
        return makers


def _divided(rows: Tensor, factors: Tensor) -> Tensor:
    """A norm's gain by its factors; of the rows, or biases, of a matrix the last ones, where V and up stand.

    Of a latent's V [heads, rank, v_head_dim] the columns: they lie as o's.
    """
    if rows.ndim == 3:
        return rows / factors.view(len(rows), 1, -1)
    if rows.shape[0] == factors.shape[0]:
        return rows / factors
    kept, scaled = torch.split(rows, [rows.shape[0] - factors.shape[0], factors.shape[0]])
    return torch.cat([kept, scaled / (factors[:, None] if rows.ndim == 2 else factors)])
