"""Lays a decoder out as a step program: a flat list of calls over buffers that are allocated once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from artifacts.architecture import Architecture
from artifacts.layer_groups import is_of_experts
from artifacts.layer_parts import LayerShape, Rope
from artifacts.manifest import Limits
from artifacts.precision import KvDtype, Plan, Scheme
from kernels.cpu import kv_cache
from kernels.formats.table import cpu_packing
from kernels.paged_attention.spec import entry_point, scratch_shapes
from kernels.spec import Argument, Arguments, Array, CpuCall, Program, Tensor
from runtime.batch import Batch
from runtime.buffers import resident_zeros, zeros
from runtime.latent_attention import LatentAttention
from runtime.layer_extras import LayerExtras
from runtime.mixture import Mixture
from runtime.models import UnsupportedModel
from runtime.network import Activation, Extras, Latents, Mixtures, network
from runtime.operand import TOKENS, Operand, as_operand, rows_per_token
from runtime.rope import rope_tables

LOGITS = {"T": "num_logits"}
_ACTIVATION_BLOCK = 32
#: groups whose output joins the residual stream: it is read before the other's is written
_BRANCHES = ("o", "down", "per_layer_projection")
#: over so many positions a key's bias is averaged, whatever the limits: the numbers of a bundle must not depend on them
_CENTRE_POSITIONS = 1024


@dataclass(frozen=True)
class StepProgram:
    """A program, and the buffers of a step: `inputs` at their largest, `logits` fp32 [max_num_batched_tokens, vocab_size]."""

    program: Program
    inputs: Batch
    logits: NDArray[np.float32]
    limits: Limits
    pairs_per_token: int = 0
    """Experts that a token goes to."""

    def fill(self, batch: Batch) -> None:
        """Put `batch` where the next run of the program reads it."""
        self.inputs.put(batch)
        self.set_counters(batch.token_ids.size, batch.seq_lens.size, batch.logit_rows.size)

    def set_counters(self, num_tokens: int, num_seqs: int, num_logits: int) -> None:
        counters = self.program.counters
        counters["num_tokens"][0] = num_tokens
        counters["num_seqs"][0] = num_seqs
        counters["num_logits"][0] = num_logits
        counters["num_pairs"][0] = num_tokens * self.pairs_per_token


class Stream(NamedTuple):
    """The residual stream, and the branch that joins it inside the norm that reads it next; none if it has joined."""

    residual: Array
    branch: Array | None


class CpuBuilder:
    """Lays a network out as calls of CPU kernels. Layers share their buffers, and all integer activations one set."""

    latents: Latents[Operand] | None = None
    mixtures: Mixtures[Operand] | None = None
    extras: Extras[Stream, Operand] | None = None

    def __init__(
        self,
        architecture: Architecture,
        plan: Plan,
        kv_dtype: KvDtype,
        tensors: Mapping[str, Array],
        limits: Limits,
        cache_zeros: Callable[[tuple[int, ...], DTypeLike], Array],
    ) -> None:
        a = architecture
        self.architecture, self.plan, self.kv_dtype, self.tensors = a, plan, kv_dtype, tensors
        self.limits, self.cache_zeros, self.shapes = limits, cache_zeros, a.linear_shapes()
        self.max_num_tokens = limits.max_num_batched_tokens
        self._buffers: dict[tuple[str, int, int], NDArray[Any]] = {}
        self.calls: list[CpuCall] = []
        self.inputs = Batch.zeros(limits, limits.max_num_batched_tokens, np.zeros)
        self.logits: NDArray[np.float32] = self.buffer("logits", a.vocab_size)
        self._tables: dict[tuple[Rope, int], Arguments] = {}
        self._caches: dict[int, Arguments] = {}
        self._scratch: dict[LayerShape, Arguments] = {}

        pairs = a.moe.num_experts_per_token if a.moe else 1
        rows = {group: rows_per_token(plan[group]) * (pairs if is_of_experts(group) else 1) for group in plan}
        widths = [rows[group] * k for group, (_, k) in self.shapes.items() if plan[group].integer_activations]
        if widths:
            size = limits.max_num_batched_tokens * max(widths)
            self._codes, self._sums = zeros((size,), np.int8), zeros((size // _ACTIVATION_BLOCK,), np.int32)
            self._scales = zeros((limits.max_num_batched_tokens * pairs,), np.float32)

    def embed(self) -> Stream:
        return Stream(self.rows("embed", self.buffer("residual", self.architecture.hidden_size)), None)

    def rows(self, group: str, out: Array) -> Array:
        """`out` with the rows of the step's tokens in a table."""
        symbol = f"embedding_{cpu_packing(self.plan[group].variant).name}"
        self.call(symbol, group, token_ids=self.inputs.token_ids, **self.weights(group), out=out)
        return out

    def norm(self, name: str, stream: Stream, readers: tuple[str, ...], eps: float) -> Operand:
        # What the kernel normalizes is x + residual, which it leaves in residual.
        x, residual = (stream.residual, None) if stream.branch is None else (stream.branch, stream.residual)
        # A router is in no plan, and reads floats, as some schemes do: what is quantized is then made of them.
        if readers and all(group in self.plan and self.plan[group].int8_activations for group in readers):
            codes = self.quantized(*x.shape)
            weight = self.tensors[f"{name}.weight"]
            self.call("rms_norm_a8", name, x=x, residual=residual, weight=weight, **codes, eps=eps)
            return as_operand(codes, TOKENS)
        out = self.buffer("hidden", self.architecture.hidden_size)
        self._norm(name, x, residual, out, eps)
        return Operand({"x": out}, TOKENS)

    def read(self, stream: Stream) -> Operand:
        if stream.branch is not None:
            self._join(stream.residual, stream.branch, 1.0)
        return Operand({"x": stream.residual}, TOKENS)

    def norm_in_place(self, name: str, x: Operand, readers: tuple[str, ...], eps: float) -> Operand:
        self._norm(name, x.x, None, x.x, eps)
        return x

    def linear(self, group: str, x: Operand) -> Operand:
        kind = group.rpartition(".")[2]
        out = self.buffer("branch" if kind in _BRANCHES else kind, self.shapes[group][0])
        return self._linear(group, x, out)

    def split(self, qkv: Operand, sizes: tuple[int, ...]) -> tuple[Operand, ...]:
        return tuple(Operand({"x": x}, TOKENS) for x in np.split(qkv.x, np.cumsum(sizes)[:-1], axis=1))

    def heads(self, x: Operand, head_dim: int) -> Operand:
        return Operand({"x": x.x.reshape(len(x.x), -1, head_dim)}, TOKENS)

    def attend(
        self, layer: int, q: Operand, k: Operand | None, v: Operand | None, scale: float, window: int, softcap: float
    ) -> Operand:
        a, kv_dtype, name = self.architecture, self.kv_dtype, f"layers.{layer}"
        sinks = self.tensors.get(f"{name}.sinks")
        if k is None or v is None:
            rotation = {part: array for part, array in self.rotation(layer).items() if part != "slot_mapping"}
            self.call("rope", f"{name}.rope", q=q.x, **rotation)
        else:
            # What all keys have in common changes no softmax, but what a cap makes of their scores, and their weight beside a
            # sink.
            bias = None if softcap or sinks is not None else self.tensors.get(f"{name}.qkv.bias")
            centre = {"k_centre": _key_centre(a, layer, bias)} if kv_dtype == "int8" else {}
            self._caches[layer] = self._empty_cache(a.layer_shape(layer))
            self.call(
                f"rope_and_cache_{kv_dtype}", f"{name}.rope", q=q.x, k=k.x, v=v.x, **self.rotation(layer),
                **self._caches[layer], **centre,
            )  # fmt: skip
        caches = self._caches[a.cache_of(layer)]
        out = self.buffer("attended", a.layer_shape(layer).q_size)
        symbol, further = entry_point(kv_dtype, softcap, sinks)
        self.call(
            symbol, f"{name}.attention", {"T": "num_tokens", "S": "num_seqs"},
            q=q.x, **self.tables(layer), **caches, out=out.reshape(q.x.shape), scale=scale, window=window, **further,
        )  # fmt: skip
        return Operand({"x": out}, TOKENS)

    def gated(self, name: str, gate_up: Operand, reader: str, activation: Activation) -> Operand:
        x, counters, width = gate_up.x, gate_up.counters, gate_up.x.shape[1] // 2
        readers = self.architecture.expert_groups(reader) if is_of_experts(reader) else (reader,)
        if all(self.plan[one].int8_activations for one in readers):
            codes = self.quantized(len(x), width)
            self.call(f"{activation.name}_and_mul_a8", name, counters, x=x, **codes, **activation.scalars)
            return as_operand(codes, counters)
        out = self.buffer("activated", width, len(x) // self.max_num_tokens)
        self.call(f"{activation.name}_and_mul", name, counters, x=x, out=out, **activation.scalars)
        return Operand({"x": out}, counters)

    def join(self, stream: Stream, branch: Operand, factor: float) -> Stream:
        if factor == 1.0:
            return Stream(stream.residual, branch.x)
        self._join(stream.residual, branch.x, factor)
        return Stream(stream.residual, None)

    def gather(self, x: Operand) -> Operand:
        out = self.buffer("branch", self.architecture.hidden_size)
        counters = {"T": "num_tokens", "R": "num_logits"}
        self.call("gather_rows", "gather_rows", counters, x=x.x, rows=self.inputs.logit_rows, out=out)
        return Operand({"x": out}, LOGITS)

    def head(self, group: str, x: Operand, softcap: float) -> None:
        self._linear(group, x, self.logits)
        if softcap:
            self.call("softcap", group, LOGITS, x=self.logits, softcap=softcap)

    def tables(self, layer: int) -> Arguments:
        """Which tokens are whose, and what attention works in: layers of the same heads share it."""
        inputs, limits, a, shape = self.inputs, self.limits, self.architecture, self.architecture.layer_shape(layer)
        if shape not in self._scratch:
            # Decoding is split over threads where few sequences run, so room for two of the longest is enough.
            width = a.mla.kv_lora_rank if a.mla else shape.head_dim
            room = scratch_shapes(shape.num_q_heads, shape.num_kv_heads, width, 2 * limits.max_model_len, limits.max_num_seqs)
            dtypes = {"partials": np.float32, "arrived": np.int32}
            self._scratch[shape] = {name: zeros(extents, dtypes[name]) for name, extents in room.items()}
        return {
            "block_tables": inputs.block_tables, "seq_lens": inputs.seq_lens, "cu_seqlens_q": inputs.cu_seqlens_q,
            **self._scratch[shape],
        }  # fmt: skip

    def rotation(self, layer: int) -> Arguments:
        """What positions turn by, and where keys go. Layers that turn alike share their tables."""
        key = self.architecture.rope_of(layer), self.architecture.rope_width(layer)
        if key not in self._tables:
            cos, sin = rope_tables(*key, self.limits.max_model_len)
            self._tables[key] = {"cos": cos, "sin": sin}
        return {**self._tables[key], "positions": self.inputs.positions, "slot_mapping": self.inputs.slot_mapping}

    def _linear(self, group: str, x: Operand, out: Array) -> Operand:
        """out = x W^T + bias."""
        x, variant, bias = self.as_read(group, x), self.plan[group].variant, self.tensors.get(f"{group}.bias")
        self.call(f"quant_matmul_{variant}", group, x.counters, **x.parts, **self.weights(group), bias=bias, out=out)
        return Operand({"x": out}, x.counters)

    def as_read(self, group: str, x: Operand) -> Operand:
        """x as the scheme of `group` wants it: quantized, unless it is."""
        scheme = self.plan[group]
        if not scheme.integer_activations or "x" not in x.parts:
            return x
        codes = self.quantized(len(x.x), x.x.shape[1], rows_per_token(scheme))
        symbol = "quantize_activations_a16" if scheme.int16_activations else "quantize_activations"
        self.call(symbol, group, x.counters, x=x.x, **codes)
        return as_operand(codes, x.counters)

    def _join(self, residual: Array, branch: Array, factor: float) -> None:
        self.call("scaled_add", "join", stream=residual, x=branch, factor=factor)

    def _norm(self, name: str, x: Array, residual: Array | None, out: Array, eps: float) -> None:
        def grouped(array: Array | None) -> Array | None:
            return array[:, None, :] if array is not None and array.ndim == 2 else array

        weight = self.tensors[f"{name}.weight"]
        self.call("rms_norm", name, x=grouped(x), residual=grouped(residual), weight=weight, out=grouped(out), eps=eps)

    def call(self, symbol: str, label: str, counters: Mapping[str, str] = TOKENS, /, **arguments: Argument) -> None:
        self.calls.append(CpuCall(symbol, arguments, counters, label))

    def buffer(self, name: str, width: int, rows: int = 1, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """[max_num_batched_tokens * rows, width]; the same one for a name and a shape."""
        key = name, rows, width
        if key not in self._buffers:
            self._buffers[key] = zeros((self.max_num_tokens * rows, width), dtype)
        return self._buffers[key]

    def weights(self, group: str) -> Arguments:
        """The stored parts of a layer group, under the names that matmul and embedding give them."""
        return {part.name: self.tensors[f"{group}.{part.name}"] for part in stored_parts(self.plan[group])}

    def _empty_cache(self, shape: LayerShape) -> Arguments:
        limits = self.limits
        return dict(
            kv_cache.empty(
                self.kv_dtype, limits.num_kv_blocks, shape.num_kv_heads, limits.kv_block_size, shape.head_dim, self.cache_zeros
            )
        )

    def quantized(self, num_tokens: int, width: int, rows_per_token: int = 1) -> Arguments:
        """What quantized activations are written to: the same place for all."""
        num_rows = num_tokens * rows_per_token
        return {
            "codes": self._codes[: num_rows * width].reshape(num_rows, width),
            "scales": self._scales[:num_tokens],
            "sums": self._sums[: num_rows * width // _ACTIVATION_BLOCK].reshape(num_rows, -1),
        }


def stored_parts(scheme: Scheme) -> tuple[Tensor, ...]:
    """The packed parts of a layer group, over the axes `tiles`, `K` and `groups`."""
    return cpu_packing(scheme.variant).tiled("tiles", "K")


def _key_centre(a: Architecture, layer: int, bias: Array | None) -> Array | None:
    """What rotated keys have in common by their bias, fp32 [num_kv_heads, head_dim]: its mean over the first positions.

    Channels that rotate slowly keep their bias, fast ones have none on average. None where keys have no bias of their own.
    """
    if bias is None or a.qk_norm:
        return None
    shape, num_positions = a.layer_shape(layer), min(a.max_position, _CENTRE_POSITIONS)
    of_keys = bias[shape.q_size : shape.q_size + shape.kv_size]
    first, second = np.split(of_keys.reshape(shape.num_kv_heads, shape.head_dim), 2, axis=1)
    cos, sin = (table.mean(axis=0) for table in rope_tables(a.rope_of(layer), shape.head_dim, num_positions))
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=1).astype(np.float32)


def kv_dtypes(architecture: Architecture) -> tuple[KvDtype, ...]:
    """What CPU kernels can keep the cache of a model in."""
    storage = kv_cache.LATENT_STORAGE if architecture.mla else kv_cache.STORAGE
    return tuple(dtype for dtype in get_args(KvDtype) if dtype in storage)


def lay_out(
    architecture: Architecture,
    plan: Plan,
    kv_dtype: KvDtype,
    tensors: Mapping[str, Array],
    limits: Limits,
    cache_zeros: Callable[[tuple[int, ...], DTypeLike], Array] = resident_zeros,
) -> StepProgram:
    """The step program of a model; `tensors` are in `stored_parts`, buffers are allocated, the cache by `cache_zeros`.

    UnsupportedModel for what only GPUs have kernels for.
    """
    storage = kv_dtypes(architecture)
    if kv_dtype not in storage:
        of_what = "a cache of latents" if architecture.mla else "the KV cache"
        raise UnsupportedModel(f"CPU kernels keep {of_what} in {', '.join(storage)}, not in {kv_dtype}; choose one of these")
    build = CpuBuilder(architecture, plan, kv_dtype, tensors, limits, cache_zeros)
    build.mixtures = Mixture(build, architecture.moe) if architecture.moe else None
    build.latents = LatentAttention(build, architecture.mla) if architecture.mla else None
    build.extras = LayerExtras(build)
    network(architecture, build)
    counters = {name: np.zeros(1, np.int64) for name in ("num_tokens", "num_seqs", "num_logits", "num_pairs")}
    pairs = architecture.moe.num_experts_per_token if architecture.moe else 0
    return StepProgram(Program(tuple(build.calls), counters), build.inputs, build.logits, limits, pairs)
