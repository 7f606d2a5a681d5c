"""Lays a decoder out as a step program: a flat list of calls over buffers that are allocated once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from artifacts.architecture import Architecture
from artifacts.manifest import Serving
from artifacts.precision import KvDtype, Plan, Scheme
from kernels.cpu import kv_cache
from kernels.formats.format import LANES
from kernels.formats.table import cpu_packing
from kernels.paged_attention.spec import scratch_shapes
from kernels.spec import DTYPES, Argument, Arguments, Array, Call, Program, Tensor, axis_extent
from runtime.batch import Batch
from runtime.buffers import resident_zeros, zeros
from runtime.models import UnsupportedModel
from runtime.rope import rope_tables

#: which counter each variable axis follows, unless a call says otherwise
TOKENS = {"T": "num_tokens"}
LOGITS = {"T": "num_logits"}
_ACTIVATION_BLOCK = 32
#: over so many positions a key's bias is averaged, whatever the limits: the numbers of a bundle must not depend on them
_CENTRE_POSITIONS = 1024


@dataclass(frozen=True)
class StepProgram:
    """A program, and the buffers of a step: `inputs` at their largest, `logits` fp32 [max_num_batched_tokens, vocab_size]."""

    program: Program
    inputs: Batch
    logits: NDArray[np.float32]
    limits: Serving

    def fill(self, batch: Batch) -> None:
        """Put `batch` where the next run of the program reads it."""
        self.inputs.put(batch)
        self.set_counters(batch.token_ids.size, batch.seq_lens.size, batch.logit_rows.size)

    def set_counters(self, num_tokens: int, num_seqs: int, num_logits: int) -> None:
        counters = self.program.counters
        counters["num_tokens"][0] = num_tokens
        counters["num_seqs"][0] = num_seqs
        counters["num_logits"][0] = num_logits


@dataclass
class _Layout:
    """The calls so far, and the tensors they draw on."""

    tensors: Mapping[str, Array]
    plan: Plan
    max_num_tokens: int
    calls: list[Call] = field(default_factory=list)

    def buffer(self, *extents: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        return zeros((self.max_num_tokens, *extents), dtype)

    def call(self, symbol: str, label: str, counters: Mapping[str, str] = TOKENS, /, **arguments: Argument) -> None:
        self.calls.append(Call(symbol, arguments, counters, label))

    def weights(self, group: str) -> Arguments:
        """The stored parts of a layer group, under the names that matmul and embedding give them."""
        return {part.name: self.tensors[f"{group}.{part.name}"] for part in _stored_parts(self.plan[group])}

    def norm(self, name: str, x: Array, out: Array, eps: float, residual: Array | None = None) -> None:
        def grouped(array: Array) -> Array:
            return array[:, None, :] if array.ndim == 2 else array

        weight = self.tensors[f"{name}.weight"]
        if residual is not None:
            residual = grouped(residual)
        self.call("rms_norm", name, x=grouped(x), residual=residual, weight=weight, out=grouped(out), eps=eps)


class _Linears:
    """Emits linear layers in their groups' schemes, and what makes their inputs: `Source` is x, or its int8 codes.

    int8 activations share one set of buffers: each is used at once.
    """

    def __init__(self, layout: _Layout, architecture: Architecture) -> None:
        self._layout = layout
        shapes = architecture.linear_shapes().items()
        widths = [_rows_per_token(layout.plan[group]) * k for group, (_, k) in shapes if layout.plan[group].integer_activations]
        if widths:
            widest = max(widths)
            num_tokens = layout.max_num_tokens
            self._codes = zeros((num_tokens * widest,), np.int8)
            self._scales = zeros((num_tokens,), np.float32)
            self._sums = zeros((num_tokens * widest // _ACTIVATION_BLOCK,), np.int32)

    def normed(self, group: str, name: str, x: Array, out: Array, eps: float, residual: Array | None = None) -> Source:
        """The norm `name` of x, for `group` to read; `out` holds it unless it is quantized at once."""
        if not self._layout.plan[group].int8_activations:
            self._layout.norm(name, x, out, eps, residual)
            return self.plain(group, out)
        codes = self._quantized(*x.shape)
        weight = self._layout.tensors[f"{name}.weight"]
        self._layout.call("rms_norm_a8", name, x=x, residual=residual, weight=weight, **codes, eps=eps)
        return _as_inputs(codes)

    def activated(self, group: str, label: str, gate_up: Array, out: Array) -> Source:
        """The activation of gate_up, for `group` to read; `out` holds it unless it is quantized at once."""
        if not self._layout.plan[group].int8_activations:
            self._layout.call("silu_and_mul", label, x=gate_up, out=out)
            return self.plain(group, out)
        codes = self._quantized(*out.shape)
        self._layout.call("silu_and_mul_a8", label, x=gate_up, **codes)
        return _as_inputs(codes)

    def plain(self, group: str, x: Array, counters: Mapping[str, str] = TOKENS) -> Source:
        """x as it is, for `group` to read."""
        scheme = self._layout.plan[group]
        if not scheme.integer_activations:
            return {"x": x}
        codes = self._quantized(x.shape[0], x.shape[1], _rows_per_token(scheme))
        symbol = "quantize_activations_a16" if scheme.int16_activations else "quantize_activations"
        self._layout.call(symbol, group, counters, x=x, **codes)
        return _as_inputs(codes)

    def emit(self, group: str, source: Source, out: Array, counters: Mapping[str, str] = TOKENS) -> None:
        """out = x W^T + bias."""
        layout = self._layout
        symbol = f"quant_matmul_{layout.plan[group].variant}"
        bias = layout.tensors.get(f"{group}.bias")
        layout.call(symbol, group, counters, **source, **layout.weights(group), bias=bias, out=out)

    def _quantized(self, num_tokens: int, width: int, rows_per_token: int = 1) -> Arguments:
        num_rows = num_tokens * rows_per_token
        return {
            "codes": self._codes[: num_rows * width].reshape(num_rows, width),
            "scales": self._scales,
            "sums": self._sums[: num_rows * width // _ACTIVATION_BLOCK].reshape(num_rows, -1),
        }


#: what quant_matmul takes for its left side
Source = Arguments


def _as_inputs(codes: Arguments) -> Source:
    return {f"x_{name}": array for name, array in codes.items()}


def _rows_per_token(scheme: Scheme) -> int:
    """Of integer activations: the high and the low bytes of 16 bits are rows of their own."""
    return 2 if scheme.int16_activations else 1


def tensor_shapes(architecture: Architecture, plan: Plan) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (numpy dtype, shape) of every tensor that `lay_out` reads: gains, biases, and each group's packed parts."""
    tensors = {name: ("float32", shape) for name, shape in architecture.float_shapes().items()}
    for group, (n, k) in architecture.linear_shapes().items():
        scheme = plan[group]
        sizes = {"tiles": -(-n // LANES), "K": k, "groups": k // (scheme.group_size or k)}
        for part in _stored_parts(scheme):
            tensors[f"{group}.{part.name}"] = DTYPES[part.dtype][0], tuple(axis_extent(axis, sizes) for axis in part.axes)
    return tensors


def _stored_parts(scheme: Scheme) -> tuple[Tensor, ...]:
    """The packed parts of a layer group, over the axes `tiles`, `K` and `groups`."""
    return cpu_packing(scheme.variant).tiled("tiles", "K")


def _key_centre(a: Architecture, bias: Array | None) -> Array | None:
    """What rotated keys have in common by their bias, fp32 [num_kv_heads, head_dim]: its mean over the first positions.

    Channels that rotate slowly keep their bias, fast ones have none on average. None where keys have no bias of their own.
    """
    if bias is None or a.qk_norm:
        return None
    first, second = np.split(bias[a.q_size : a.q_size + a.kv_size].reshape(a.num_kv_heads, a.head_dim), 2, axis=1)
    cos, sin = (table.mean(axis=0) for table in rope_tables(a.rope, a.head_dim, min(a.max_position, _CENTRE_POSITIONS)))
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=1).astype(np.float32)


def lay_out(
    architecture: Architecture,
    plan: Plan,
    kv_dtype: KvDtype,
    tensors: Mapping[str, Array],
    limits: Serving,
    cache_zeros: Callable[[tuple[int, ...], DTypeLike], Array] = resident_zeros,
) -> StepProgram:
    """The step program of a model; `tensors` are as `tensor_shapes` says, buffers are allocated, the cache by `cache_zeros`.

    UnsupportedModel for a model that only GPUs have kernels for.
    """
    a = architecture
    if a.moe or a.mla:
        what = "mixtures of experts" if a.moe else "latent attention"
        raise UnsupportedModel(f"there are no CPU kernels for {what}, which this {a.family} model has; optimize it with --gpu")
    num_tokens, block_size = limits.max_num_batched_tokens, limits.kv_block_size
    layout = _Layout(tensors, plan, num_tokens)
    linears = _Linears(layout, a)

    inputs = Batch.zeros(num_tokens, limits.max_num_seqs, -(-limits.max_model_len // block_size))
    logits = layout.buffer(a.vocab_size)

    residual = layout.buffer(a.hidden_size)
    hidden = layout.buffer(a.hidden_size)
    branch = layout.buffer(a.hidden_size)
    qkv = layout.buffer(a.num_q_heads + 2 * a.num_kv_heads, a.head_dim)
    q, k, v = np.split(qkv, [a.num_q_heads, a.num_q_heads + a.num_kv_heads], axis=1)
    attended = layout.buffer(a.num_q_heads, a.head_dim)
    gate_up = layout.buffer(2 * a.intermediate_size)
    activated = layout.buffer(a.intermediate_size)
    cos, sin = rope_tables(a.rope, a.head_dim, limits.max_model_len)
    if kv_dtype not in kv_cache.STORAGE:
        raise UnsupportedModel(f"CPU kernels keep the KV cache in {', '.join(kv_cache.STORAGE)}, not in {kv_dtype}")
    # Decoding is split over threads where few sequences run, so room for two of the longest is enough.
    scratch = scratch_shapes(a.num_q_heads, a.num_kv_heads, a.head_dim, 2 * limits.max_model_len, limits.max_num_seqs)
    partials, arrived = zeros(scratch["partials"], np.float32), zeros(scratch["arrived"], np.int32)

    embedding = f"embedding_{cpu_packing(plan['embed'].variant).name}"
    layout.call(embedding, "embed", token_ids=inputs.token_ids, **layout.weights("embed"), out=residual)
    for i in range(a.num_layers):
        layer = f"layers.{i}"
        # The branch of the previous layer joins the residual stream inside the norm that reads it next.
        joining = (residual, None) if i == 0 else (branch, residual)
        normed = linears.normed(f"{layer}.qkv", f"{layer}.attn_norm", joining[0], hidden, a.rms_norm_eps, joining[1])
        linears.emit(f"{layer}.qkv", normed, qkv.reshape(num_tokens, -1))
        if a.qk_norm:
            layout.norm(f"{layer}.q_norm", q, q, a.rms_norm_eps)
            layout.norm(f"{layer}.k_norm", k, k, a.rms_norm_eps)
        centre = {"k_centre": _key_centre(a, layout.tensors.get(f"{layer}.qkv.bias"))} if kv_dtype == "int8" else {}
        caches = kv_cache.empty(kv_dtype, limits.num_kv_blocks, a.num_kv_heads, block_size, a.head_dim, cache_zeros)
        layout.call(
            f"rope_and_cache_{kv_dtype}", f"{layer}.rope",
            q=q, k=k, v=v, cos=cos, sin=sin, positions=inputs.positions, slot_mapping=inputs.slot_mapping, **caches, **centre,
        )  # fmt: skip
        layout.call(
            f"paged_attention_{kv_dtype}", f"{layer}.attention",
            {"T": "num_tokens", "S": "num_seqs"},
            q=q, block_tables=inputs.block_tables, seq_lens=inputs.seq_lens, cu_seqlens_q=inputs.cu_seqlens_q, **caches,
            partials=partials, arrived=arrived, out=attended, scale=a.head_dim**-0.5, window=a.window(i),
        )  # fmt: skip
        linears.emit(f"{layer}.o", linears.plain(f"{layer}.o", attended.reshape(num_tokens, -1)), branch)
        normed = linears.normed(f"{layer}.gate_up", f"{layer}.mlp_norm", branch, hidden, a.rms_norm_eps, residual)
        linears.emit(f"{layer}.gate_up", normed, gate_up)
        activations = linears.activated(f"{layer}.down", f"{layer}.activation", gate_up, activated)
        linears.emit(f"{layer}.down", activations, branch)
    layout.norm("final_norm", branch, hidden, a.rms_norm_eps, residual)
    layout.call(
        "gather_rows", "gather_rows", {"T": "num_tokens", "R": "num_logits"}, x=hidden, rows=inputs.logit_rows, out=branch
    )
    head = "embed" if a.tie_embeddings else "head"
    linears.emit(head, linears.plain(head, branch, LOGITS), logits, LOGITS)

    counters = {name: np.zeros(1, np.int64) for name in ("num_tokens", "num_seqs", "num_logits")}
    return StepProgram(Program(tuple(layout.calls), counters), inputs, logits, limits)
