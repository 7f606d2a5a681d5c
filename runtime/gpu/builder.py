"""Lays a network out as calls of GPU kernels: in the layouts of GPUs, activations rounded where they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from artifacts.architecture import Architecture
from artifacts.kv_cache import scale_bytes
from artifacts.layer_parts import Rope
from artifacts.manifest import Limits
from artifacts.precision import KvDtype, Plan, Scheme
from kernels.formats.fp8 import INPUT_SCALE
from runtime.gpu.program import GpuArgument, GpuBatch, GpuCall
from runtime.gpu.weights import gpu_packing_of
from runtime.network import Activation, Extras, Latents, Mixtures
from runtime.rope import rope_tables

TOKENS = {"T": "num_tokens"}
LOGITS = {"T": "num_logits"}
#: variable axes and scalars of an attention call -> counts of the step
ATTENTION = {"T": "num_tokens", "S": "num_seqs", "max_query_len": "max_query_len"}
_E4M3 = torch.float8_e4m3fn
_FORM_DTYPES = {"int8": torch.int8, "e4m3": _E4M3, "e4m3_block": _E4M3, "e4m3_tensor": _E4M3}
_CACHE_FORMS = {"bf16": "act", "fp16": "fp16", "int8": "int8", "fp8": "e4m3"}
_SCALE_BLOCK = 128
#: groups whose output joins the residual stream: it is read before the other's is written
_BRANCHES = ("o", "down", "per_layer_projection")


class Stream(NamedTuple):
    """The residual stream, and the branch that joins it inside the norm that reads it next; none if it has joined."""

    residual: torch.Tensor
    branch: torch.Tensor | None


class Operand(NamedTuple):
    """Form -> what a matmul takes, `x` under "", else `x_codes` and `x_scales`; and the counters of its rows."""

    forms: Mapping[str, Mapping[str, torch.Tensor]]
    counters: Mapping[str, str] = TOKENS

    @classmethod
    def plain(cls, x: torch.Tensor, counters: Mapping[str, str] = TOKENS) -> Operand:
        return cls({"": {"x": x}}, counters)

    @property
    def x(self) -> torch.Tensor:
        return self.forms[""]["x"]


def form_of(scheme: Scheme) -> str:
    """How activations must come to weights of `scheme`: "" as they are, int8, e4m3, e4m3_block or e4m3_tensor."""
    return gpu_packing_of(scheme).form


class GpuBuilder:
    """Emits `calls`. Buffers have room for all tokens of a step, and layers share them."""

    latents: Latents[Operand] | None = None
    mixtures: Mixtures[Operand] | None = None
    extras: Extras[Stream, Operand] | None = None

    def __init__(
        self,
        architecture: Architecture,
        plan: Plan,
        kv_dtype: KvDtype,
        tensors: Mapping[str, torch.Tensor],
        limits: Limits,
        act: torch.dtype,
        inputs: GpuBatch,
        logits: torch.Tensor,
    ) -> None:
        self.architecture, self.plan, self.kv_dtype, self.tensors = architecture, plan, kv_dtype, tensors
        self.limits, self.act, self.inputs, self._logits = limits, act, inputs, logits
        self.max_num_tokens, self.device = limits.max_num_batched_tokens, logits.device
        self.shapes = architecture.linear_shapes()
        self.calls: list[GpuCall] = []
        self.num_body_calls = 0
        """How many of the calls come before the head's."""
        self._buffers: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self._tables: dict[tuple[Rope, int], dict[str, torch.Tensor]] = {}
        self._caches: dict[int, dict[str, torch.Tensor]] = {}

    def embed(self) -> Stream:
        return Stream(self.rows("embed", self.buffer("residual", self.architecture.hidden_size)), None)

    def rows(self, group: str, out: torch.Tensor) -> torch.Tensor:
        """`out` with the rows of the step's tokens in a table."""
        symbol = f"gpu_embedding_{gpu_packing_of(self.plan[group]).embedding}"
        self.call(symbol, group, token_ids=self.inputs.token_ids, **self.weights(group), out=out)
        return out

    def norm(self, name: str, stream: Stream, readers: Sequence[str], eps: float) -> Operand:
        out = self.buffer("hidden", self.architecture.hidden_size)
        # What the kernel normalizes is x + residual, which it leaves in residual.
        if stream.branch is None:
            return self._norm(name, stream.residual, None, out, readers, eps)
        return self._norm(name, stream.branch, stream.residual, out, readers, eps)

    def read(self, stream: Stream) -> Operand:
        if stream.branch is not None:
            self._join(stream.residual, stream.branch, 1.0)
        return Operand.plain(stream.residual)

    def norm_in_place(self, name: str, x: Operand, readers: Sequence[str], eps: float) -> Operand:
        return self._norm(name, x.x, None, x.x, readers, eps)

    def linear(self, group: str, x: Operand) -> Operand:
        kind = group.rpartition(".")[2]
        out = self.buffer("branch" if kind in _BRANCHES else kind, self.shapes[group][0])
        return self._linear(group, x, out)

    def split(self, qkv: Operand, sizes: tuple[int, ...]) -> tuple[Operand, ...]:
        return tuple(map(Operand.plain, torch.split(qkv.x, list(sizes), dim=1)))

    def heads(self, x: Operand, head_dim: int) -> Operand:
        return Operand.plain(x.x.view(len(x.x), -1, head_dim))

    def attend(
        self, layer: int, q: Operand, k: Operand | None, v: Operand | None, scale: float, window: int, softcap: float
    ) -> Operand:
        form, label = _CACHE_FORMS[self.kv_dtype], f"layers.{layer}.rope"
        out, rotation = self.buffer("attended", *q.x.shape[1:]), self.rotation(layer)
        if k is None or v is None:
            del rotation["slot_mapping"]
            self.call("gpu_rope", label, q=q.x, **rotation)
        else:
            self._caches[layer] = self._empty_cache(*k.x.shape[1:])
            self.call(f"gpu_rope_and_cache_{form}", label, q=q.x, k=k.x, v=v.x, **rotation, **self._caches[layer])
        caches = self._caches[self.architecture.cache_of(layer)]
        self.call(
            f"gpu_paged_attention_{form}", f"layers.{layer}.attention", ATTENTION, q=q.x, **caches, **self.tables(),
            sinks=self.tensors.get(f"layers.{layer}.sinks"), out=out, scale=scale, window=window, softcap=softcap,
        )  # fmt: skip
        return Operand.plain(out.flatten(1))

    def gated(self, name: str, gate_up: Operand, reader: str, activation: Activation) -> Operand:
        x, counters, form = gate_up.x, gate_up.counters, form_of(self.plan[reader])
        width, rows = x.shape[1] // 2, x.shape[0] // self.max_num_tokens
        if form:
            written = self._codes(form, [reader], width, rows)
            self.call(f"gpu_{activation.name}_and_mul_{form}", name, counters, x=x, **written, **activation.scalars)
            return Operand({form: _as_operand(written)}, counters)
        out = self.buffer("activated", width, rows=rows)
        self.call(f"gpu_{activation.name}_and_mul", name, counters, x=x, out=out, **activation.scalars)
        return Operand.plain(out, counters)

    def join(self, stream: Stream, branch: Operand, factor: float) -> Stream:
        if factor == 1.0:
            return Stream(stream.residual, branch.x)
        self._join(stream.residual, branch.x, factor)
        return Stream(stream.residual, None)

    def gather(self, x: Operand) -> Operand:
        self.num_body_calls = len(self.calls)
        out = self.buffer("branch", self.architecture.hidden_size)
        counters = {"T": "num_tokens", "R": "num_logits"}
        self.call("gpu_gather_rows", "gather_rows", counters, x=x.x, rows=self.inputs.logit_rows, out=out)
        return Operand.plain(out, LOGITS)

    def head(self, group: str, x: Operand, softcap: float) -> None:
        self._linear(group, x, self._logits)
        if softcap:
            self.call("gpu_softcap", group, LOGITS, x=self._logits, softcap=softcap)

    def buffer(self, name: str, *extents: int, dtype: torch.dtype | None = None, rows: int = 1) -> torch.Tensor:
        """Zeroed, `rows` rows of `extents` for each token; activations unless `dtype` says otherwise.

        The same one for the same name and shape.
        """
        shape = (self.max_num_tokens * rows, *extents)
        if (name, shape) not in self._buffers:
            self._buffers[name, shape] = torch.zeros(shape, dtype=dtype or self.act, device=self.device)
        return self._buffers[name, shape]

    def call(self, symbol: str, label: str, counters: Mapping[str, str] = TOKENS, /, **arguments: GpuArgument) -> None:
        self.calls.append(GpuCall(symbol, arguments, counters, label))

    def weights(self, group: str) -> dict[str, GpuArgument]:
        """The stored parts of a layer group's matrix, under the names that kernels give them."""
        names = (part.name for part in gpu_packing_of(self.plan[group]).tensors if part.name != INPUT_SCALE)
        return {name: self.tensors[f"{group}.{name}"] for name in names}

    def tables(self) -> dict[str, GpuArgument]:
        """The block tables and lengths that attention reads."""
        inputs = self.inputs
        return {"block_tables": inputs.block_tables, "seq_lens": inputs.seq_lens, "cu_seqlens_q": inputs.cu_seqlens_q}

    def rotation(self, layer: int) -> dict[str, GpuArgument]:
        """What rotary embedding of `layer` reads, and where keys go. Layers that turn alike share their tables."""
        key = self.architecture.rope_of(layer), self.architecture.rope_width(layer)
        if key not in self._tables:
            tables = rope_tables(*key, self.limits.max_model_len)
            self._tables[key] = {
                name: torch.from_numpy(table).to(self.device) for name, table in zip(("cos", "sin"), tables, strict=True)
            }
        return {**self._tables[key], "positions": self.inputs.positions, "slot_mapping": self.inputs.slot_mapping}

    def _linear(self, group: str, x: Operand, out: torch.Tensor) -> Operand:
        """out = x W^T + bias, x rounded first where the scheme wants it and it is not yet."""
        scheme, counters = self.plan[group], x.counters
        form = form_of(scheme)
        if form not in x.forms:
            x = self._rounded(x.x, [group], group, counters)
        bias = self.tensors.get(f"{group}.bias")
        self.call(gpu_packing_of(scheme).matmul, group, counters, **x.forms[form], **self.weights(group), bias=bias, out=out)
        return Operand.plain(out, counters)

    def _join(self, residual: torch.Tensor, branch: torch.Tensor, factor: float) -> None:
        self.call("gpu_scaled_add", "join", stream=residual, x=branch, factor=factor)

    def _norm(
        self, name: str, x: torch.Tensor, residual: torch.Tensor | None, out: torch.Tensor, readers: Sequence[str], eps: float
    ) -> Operand:
        """Where all readers want one rounded form, nothing else is written; otherwise `out` is, and rounded as needed."""
        forms = {form_of(self.plan[group]) if group in self.plan else "" for group in readers}
        weight = self.tensors[f"{name}.weight"]
        if len(forms) == 1 and (form := next(iter(forms))):
            written = self._codes(form, readers, x.shape[1])
            self.call(f"gpu_rms_norm_{form}", name, x=x, residual=residual, weight=weight, eps=eps, **written)
            return Operand({form: _as_operand(written)})

        def grouped(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return tensor[:, None, :] if tensor is not None and tensor.ndim == 2 else tensor

        arguments: dict[str, GpuArgument] = {"x": grouped(x), "residual": grouped(residual), "out": grouped(out)}
        self.call("gpu_rms_norm", name, weight=weight, eps=eps, **arguments)
        return self._rounded(out, [group for group in readers if group in self.plan], name, TOKENS)

    def _rounded(self, x: torch.Tensor, readers: Sequence[str], label: str, counters: Mapping[str, str]) -> Operand:
        """x in each form that `readers` want."""
        made: dict[str, Mapping[str, torch.Tensor]] = {"": {"x": x}}
        for form in sorted({form_of(self.plan[group]) for group in readers} - {""}):
            written = self._codes(form, readers, x.shape[1])
            self.call(f"gpu_quantize_activations_{form}", label, counters, x=x, **written)
            made[form] = _as_operand(written)
        return Operand(made, counters)

    def _codes(self, form: str, readers: Sequence[str], width: int, rows: int = 1) -> dict[str, torch.Tensor]:
        """Codes and scales of activations of `width`, used at once.

        Under e4m3_tensor the scale is a weight of the one layer group that reads them.
        """
        codes = self.buffer(f"{form} codes", width, dtype=_FORM_DTYPES[form], rows=rows)
        if form == "e4m3_tensor":
            (reader,) = readers
            return {"codes": codes, "scale": self.tensors[f"{reader}.{INPUT_SCALE}"]}
        scale_width = (-(-width // _SCALE_BLOCK),) if form == "e4m3_block" else ()
        scales = self.buffer(f"{form} scales of {width}", *scale_width, dtype=torch.float32, rows=rows)
        return {"codes": codes, "scales": scales}

    def _empty_cache(self, num_kv_heads: int, head_dim: int) -> dict[str, torch.Tensor]:
        """Of one layer: [num_blocks, block_size, num_kv_heads, head_dim], and a scale for each token and head where rounded."""
        dtypes = {"bf16": self.act, "fp16": torch.float16, "int8": torch.int8, "fp8": _E4M3}
        shape = (self.limits.num_kv_blocks, self.limits.kv_block_size, num_kv_heads, head_dim)

        def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        made = {f"{name}_cache": zeros(shape, dtypes[self.kv_dtype]) for name in "kv"}
        if scale_bytes(self.kv_dtype):
            made |= {f"{name}_scales": zeros(shape[:-1], torch.float32) for name in "kv"}
        return made


def _as_operand(written: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"x_codes": written["codes"], "x_scales": written["scale" if "scale" in written else "scales"]}
