"""What an architecture computes between its products, of a probe's numbers: in torch, as its network says."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from artifacts.architecture import Architecture
from artifacts.layer_parts import Rope
from optimizer.importers.onnx_decoder.roles import Decoder
from optimizer.importers.source import Source
from runtime.models import checkpoint_tensors
from runtime.models.stored_rows import HeadOrder
from runtime.network import Activation
from runtime.rope import rope_tables


@dataclass(frozen=True)
class Probe:
    """Random numbers in place of products, of the embedding's rows and of the cache: for a graph and for an architecture."""

    num_past: int
    positions: NDArray[np.int64]
    products: dict[str, NDArray[np.float32]]
    """[T, N], by the graph's names."""
    past: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Keys and values of every layer, [1, kv heads, past, head_dim]."""


def key_order(a: Architecture, layer: int) -> list[int]:
    """Where the dimensions of a head of keys stand in a graph, which has them as its config's family does."""
    orders = [
        part.rows.order for part in checkpoint_tensors(a)[f"layers.{layer}.qkv.weight"] if isinstance(part.rows, HeadOrder)
    ]
    return list(orders[0]) if orders else list(range(a.head_dim))


@dataclass
class ExpectedNetwork:
    """Builds a network whose products are the probe's; keeps what each reads, new keys and the logits."""

    source: Source
    decoder: Decoder
    probe: Probe
    reads: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    latents, mixtures, extras = None, None, None

    def __post_init__(self) -> None:
        self._a = self.source.architecture
        self._rotations: dict[Rope, tuple[Tensor, Tensor]] = {}

    def embed(self) -> Tensor:
        return torch.from_numpy(self.probe.products[self.decoder.embed.makes])

    def norm(self, name: str, stream: Tensor, readers: tuple[str, ...], eps: float) -> Tensor:
        return functional.rms_norm(stream, stream.shape[-1:], self.source.tensor(f"{name}.weight").float(), eps)

    norm_in_place = norm

    def read(self, stream: Tensor) -> Tensor:
        return stream

    def linear(self, group: str, x: Tensor) -> Tensor:
        """What the graph's products of the group are in the probe, in the order that rows have here."""
        self.reads[group] = x
        stored = np.concatenate([self.probe.products[linear.makes] for linear in self.decoder.groups[group]], axis=1)
        rows, taken, first = torch.from_numpy(stored).T, [], 0
        for part in checkpoint_tensors(self._a)[f"{group}.weight"]:
            taken.append(part.taken_from(rows[first : first + part.shape[0]]))
            first += part.shape[0]
        return torch.cat(taken).T

    def split(self, qkv: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
        return torch.split(qkv, list(sizes), dim=1)

    def heads(self, x: Tensor, head_dim: int) -> Tensor:
        return x.reshape(len(x), -1, head_dim)

    def attend(
        self, layer: int, q: Tensor, k: Tensor | None, v: Tensor | None, scale: float, window: int, softcap: float
    ) -> Tensor:
        assert k is not None and v is not None, "layers that differ are refused"
        rope = self._a.rope_of(layer)
        if rope not in self._rotations:
            tables = rope_tables(rope, self._a.head_dim, self._a.max_position)
            cos, sin = (torch.from_numpy(table[self.probe.positions]) for table in tables)
            self._rotations[rope] = cos[:, None], sin[:, None]
        q, k = (_rotated(heads, *self._rotations[rope]) for heads in (q, k))
        self.keys[layer] = k.transpose(0, 1)[None]
        keys, values = (torch.from_numpy(past)[0].transpose(0, 1) for past in self.probe.past)
        keys = keys[..., key_order(self._a, layer)]
        k, v = torch.cat((keys, k)), torch.cat((values, v))
        k, v = (rows.repeat_interleave(q.shape[1] // rows.shape[1], dim=1) for rows in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        age = self.probe.num_past + torch.arange(len(q))[:, None] - torch.arange(len(k))[None, :]
        seen = (age >= 0) & (age < (window or len(k)))
        weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=2)
        return torch.einsum("hqk,khd->qhd", weights, v).flatten(1)

    def gated(self, name: str, gate_up: Tensor, reader: str, activation: Activation) -> Tensor:
        gate, up = gate_up.chunk(2, dim=1)
        assert activation.name != "clamped_silu", "an activation of experts, which no graph has"
        return (functional.silu(gate) if activation.name == "silu" else functional.gelu(gate, approximate="tanh")) * up

    def join(self, stream: Tensor, branch: Tensor, factor: float) -> Tensor:
        return torch.add(stream, branch, alpha=factor)

    def gather(self, x: Tensor) -> Tensor:
        return x

    def head(self, group: str, x: Tensor, softcap: float) -> None:
        (head,) = self.decoder.groups["head"]
        logits = torch.from_numpy(self.probe.products[head.makes]) / self._a.logit_divisor
        self.reads["head"] = x
        self.logits = softcap * torch.tanh(logits / softcap) if softcap else logits


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[T, heads, head_dim], dimensions i and i + head_dim / 2 together."""
    a, b = heads.chunk(2, dim=2)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=2)
