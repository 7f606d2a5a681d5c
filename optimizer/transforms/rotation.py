"""Rotation of the residual stream and of the values of attention (QuaRot, Ashkboos et al. 2024, stages 1a and 1b offline).

A random Hadamard matrix spreads an outlier channel over all channels. RMSNorm without a gain commutes with a rotation R of
its input, so with gains moved into the linears that follow,

    embed R,    qkv diag(gain) R,    gate_up diag(gain) R,    R' o,    R' down (and o's bias),    head diag(gain) R

compute what they did, and so do a mixture's router and experts, which read and write the same stream. What latent attention
reads the stream with, q or q_a and kv_a, is as qkv. Heads of V are rotated alike: H' V, o H; of latents v_up makes V. What
QuaRot rotates at run time, the inputs of down, the heads among each other, and K after RoPE for its cache, is left alone: no
kernel does it here.

The rotated head differs from the rotated embedding by the final norm's gain, so a tied model is untied: it gets a `head`
group of its own, vocab_size x hidden_size more weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from artifacts.architecture import Architecture
from optimizer.importers import Source
from optimizer.transforms.hadamard import NoHadamardMatrixError, hadamard_factors
from optimizer.transforms.transformed_source import UntransformableModelError

_CHUNK_ELEMENTS = 1 << 22
#: where gains and biases stand that a rotation knows how to pass
_PASSED = {
    *("attn_norm", "mlp_norm", "final_norm", "q_norm", "k_norm", "kv_norm"),
    *("qkv", "o", "k_up", "v_up", "router", "experts_gate_up", "experts_down"),
}
#: what reads the norm of attention
_BEHIND_ATTN_NORM = ("qkv", "q", "q_a", "kv_a")
#: what reads the norm of the feed-forward network, or of a mixture
_BEHIND_MLP_NORM = ("gate_up", "experts_gate_up", "router")


@dataclass(frozen=True)
class OrthogonalMatrix:
    """diag(signs) times the Kronecker product of `factors`, all fp64: a rotation [order, order] that is cheap to apply."""

    kind: str
    """hadamard, or orthogonal where there is no Hadamard matrix of the order."""
    signs: Tensor
    factors: tuple[Tensor, ...]

    @classmethod
    def random(cls, order: int, seed: int) -> OrthogonalMatrix:
        """A Hadamard matrix with random signs, normalized; where there is none, an orthogonal matrix drawn uniformly."""
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (order,), generator=generator).double() * 2 - 1
        try:
            factors = tuple(factor.double() / len(factor) ** 0.5 for factor in hadamard_factors(order))
        except NoHadamardMatrixError:
            q, r = torch.linalg.qr(torch.randn(order, order, dtype=torch.float64, generator=generator))
            return cls("orthogonal", signs, (q * r.diagonal().sign(),))
        return cls("hadamard", signs, factors)

    def rotate(self, rows: Tensor) -> Tensor:
        """rows [n, order] times the matrix: fp32 of products in fp64."""
        chunks = torch.split(rows, max(1, _CHUNK_ELEMENTS // rows.shape[1]))
        return torch.cat([self._rotate(chunk.double()).float() for chunk in chunks])

    def _rotate(self, rows: Tensor) -> Tensor:
        result = (rows * self.signs).reshape(len(rows), *(len(factor) for factor in self.factors))
        for axis, factor in enumerate(self.factors, start=1):
            result = torch.tensordot(result, factor, dims=([axis], [0])).movedim(-1, axis)
        return result.reshape(rows.shape)

    def dense(self) -> Tensor:
        """fp64 [order, order]."""
        return self.signs[:, None] * reduce(torch.kron, self.factors)


@dataclass(frozen=True)
class Rotation:
    """A transform; the same one for the same `seed`."""

    residual: OrthogonalMatrix
    values: OrthogonalMatrix | None
    seed: int

    @classmethod
    def random(cls, architecture: Architecture, *, seed: int, values: bool = True) -> Rotation:
        """A rotation for models of `architecture`; of the values of attention too, if asked for."""
        return cls(
            residual=OrthogonalMatrix.random(architecture.hidden_size, seed),
            values=OrthogonalMatrix.random(_value_dim(architecture), seed + 1) if values else None,
            seed=seed,
        )

    def architecture(self, before: Architecture) -> Architecture:
        sizes = (before.hidden_size, _value_dim(before))
        made_for = (len(self.residual.signs), len(self.values.signs) if self.values else sizes[1])
        if made_for != sizes:
            raise ValueError(f"a rotation must have the model's hidden_size and value size {sizes}, it was made for {made_for}")
        # A sink is a score of its head, beside those of keys: values are rotated alike with it.
        others = {name.split(".")[-2] for name in before.float_shapes() if not name.endswith(".sinks")}
        if unknown := sorted(others - _PASSED):
            raise UntransformableModelError(
                f"a rotation cannot pass the {', '.join(unknown)} of a {before.family} model: quantize it without one"
            )
        return before.model_copy(update={"tie_embeddings": False})

    def tensor(self, name: str, source: Source) -> Tensor:
        a = source.architecture
        layer, _, local = name.rpartition(".")[0].rpartition(".")
        if local == "embed":
            return self.residual.rotate(_fp32(source, name))
        if local == "head":
            stored = "embed.weight" if a.tie_embeddings else name
            return self.residual.rotate(_fp32(source, stored) * _fp32(source, "final_norm.weight"))
        if local in ("attn_norm", "mlp_norm", "final_norm"):
            return torch.ones(a.hidden_size)
        tensor = _fp32(source, name)
        if local in ("o", "down", "experts_down"):
            if name.endswith("bias"):
                return self.residual.rotate(tensor.view(-1, a.hidden_size)).flatten()
            if local == "o" and self.values is not None:
                tensor = self.values.rotate(tensor.reshape(-1, _value_dim(a))).reshape(tensor.shape)
            return torch.cat([self._rotated_rows(matrix) for matrix in torch.split(tensor, a.hidden_size)])
        if local == "v_up" and self.values is not None:  # whose columns are those of values
            return self.values.rotate(tensor.flatten(0, 1)).view(tensor.shape)
        if local in (*_BEHIND_ATTN_NORM, *_BEHIND_MLP_NORM) and name.endswith("weight"):
            norm = "attn_norm" if local in _BEHIND_ATTN_NORM else "mlp_norm"
            tensor = self.residual.rotate(tensor * _fp32(source, f"{layer}.{norm}.weight"))
        return self._rotate_values(tensor, a) if local == "qkv" else tensor

    def _rotated_rows(self, matrix: Tensor) -> Tensor:
        """Rows [hidden_size, n] of what joins the stream, of one expert or of all tokens."""
        return self.residual.rotate(matrix.T.contiguous()).T.contiguous()

    def _rotate_values(self, qkv: Tensor, a: Architecture) -> Tensor:
        """Rows of V, or their biases, head by head."""
        if self.values is None:
            return qkv
        columns = qkv.reshape(len(qkv), -1)
        queries_and_keys, values = torch.split(columns, [a.q_size + a.kv_size, a.kv_size])
        heads = values.reshape(a.num_kv_heads, a.head_dim, -1).transpose(1, 2)
        rotated = self.values.rotate(heads.reshape(-1, a.head_dim)).reshape(heads.shape).transpose(1, 2)
        return torch.cat([queries_and_keys, rotated.reshape(values.shape)]).reshape(qkv.shape)

    def record(self) -> dict[str, object]:
        return {
            "transform": "rotation",
            "seed": self.seed,
            "residual": self.residual.kind,
            "values": None if self.values is None else self.values.kind,
        }


def _value_dim(a: Architecture) -> int:
    """Elements of a value of one head."""
    return a.mla.v_head_dim if a.mla else a.head_dim


def _fp32(source: Source, name: str) -> Tensor:
    return source.tensor(name).to(torch.float32)
