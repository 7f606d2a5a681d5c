"""Experts that each token is routed to, laid out for a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from artifacts.layer_groups import kind_of
from artifacts.layer_parts import Moe
from artifacts.precision import Scheme
from kernels.formats.format import LANES
from kernels.formats.table import cpu_packing
from kernels.spec import Arguments, Array
from runtime.buffers import zeros
from runtime.models import UnsupportedModel
from runtime.operand import Operand, as_operand, rows_per_token

if TYPE_CHECKING:
    from runtime.decoder import CpuBuilder

PAIRS = {"T": "num_pairs"}


class Mixture:
    """The chain of kernels/moe_route/spec.py. UnsupportedModel for experts that end within a row tile."""

    def __init__(self, build: CpuBuilder, moe: Moe) -> None:
        self._build, self._moe = build, moe
        for size in (2 * moe.intermediate_size, build.architecture.hidden_size):
            if size % LANES:
                raise UnsupportedModel(
                    f"CPU kernels need experts whose matrices have a multiple of {LANES} rows; this "
                    f"{build.architecture.family} model's have {size}"
                )
        k = moe.num_experts_per_token
        self._offsets = zeros((moe.num_experts + 1,), np.int32)
        self._tokens = zeros((build.max_num_tokens * k,), np.int32)
        self._places = build.buffer("places", k, dtype=np.int32)
        self._topk_ids = build.buffer("topk_ids", k, dtype=np.int32)
        self._topk_weights = build.buffer("topk_weights", k)

    def route(self, name: str, x: Operand) -> None:
        build, moe, label = self._build, self._moe, f"{name}.router"
        logits = build.buffer("router", moe.num_experts)
        weight = cpu_packing("fp32").pack({"weight": np.asarray(build.tensors[f"{label}.weight"], np.float32)})
        of_experts = {name: build.tensors[f"{label}.{name}"] for name in moe.routing_tensors}
        logit_bias = build.tensors.get(f"{label}.logit_bias")
        build.call("quant_matmul_fp32", label, x=x.x, **weight, bias=logit_bias, out=logits)
        build.call(
            f"moe_route_{moe.routing}", label, logits=logits, **of_experts, topk_ids=self._topk_ids,
            topk_weights=self._topk_weights, renormalize=int(moe.normalized), num_groups=moe.num_groups,
            topk_groups=moe.num_chosen_groups, routed_scale=moe.scaling,
        )  # fmt: skip
        groups = build.architecture.expert_groups(f"{name}.experts_down")
        symbol, ranks = ("moe_sort_ranked", {"ranks": _ranks(groups.values())}) if len(groups) > 1 else ("moe_sort", {})
        build.call(
            symbol, label, {"T": "num_tokens", "P": "num_pairs"}, topk_ids=self._topk_ids, **ranks, offsets=self._offsets,
            tokens=self._tokens, places=self._places,
        )  # fmt: skip

    def linear(self, group: str, x: Operand) -> Operand:
        """One product for each layer group that the experts stand in: each has the rows of its own."""
        build, first, read = self._build, 0, dict[int, Operand]()
        for part, experts in build.architecture.expert_groups(group).items():
            scheme, num_rows = build.plan[part], build.shapes[part][0] // len(experts)
            form = rows_per_token(scheme) if scheme.integer_activations else 0
            if form not in read:
                read[form] = self._of_pairs(part, build.as_read(part, x), scheme)
            weights = {name: _of_each(len(experts), cast(Array, tiles)) for name, tiles in build.weights(part).items()}
            out = build.buffer(kind_of(group), num_rows, self._moe.num_experts_per_token)
            offsets = self._offsets[first : first + len(experts) + 1]
            biases = build.tensors.get(f"{group}.bias")
            bias = None if biases is None else _of_each(self._moe.num_experts, biases)[list(experts)]
            symbol = f"quant_matmul_experts_{scheme.variant}"
            build.call(symbol, part, PAIRS, **read[form].parts, **weights, bias=bias, offsets=offsets, out=out)
            first += len(experts)
        return Operand({"x": out}, PAIRS)

    def combine(self, name: str, pairs: Operand, shared: Operand | None) -> Operand:
        build = self._build
        out = build.buffer("combined", build.architecture.hidden_size)
        build.call(
            "moe_sum", f"{name}.experts", {"T": "num_tokens", "P": "num_pairs"}, x=pairs.x, places=self._places,
            topk_weights=self._topk_weights, shared=None if shared is None else shared.x, out=out,
        )  # fmt: skip
        return Operand({"x": out}, {"T": "num_tokens"})

    def _of_pairs(self, group: str, x: Operand, scheme: Scheme) -> Operand:
        """A row of x for each pair, sorted as experts stand; x itself where it has them."""
        if x.counters == PAIRS:
            return x
        build, k, counters = self._build, self._moe.num_experts_per_token, {"T": "num_tokens", "R": "num_pairs"}
        width = build.shapes[group][1]
        if not scheme.integer_activations:
            out = build.buffer("gathered", width, k)
            build.call("gather_rows", group, counters, **x.parts, rows=self._tokens, out=out)
            return Operand({"x": out}, PAIRS)
        each = rows_per_token(scheme)
        codes: Arguments = {
            "codes": build.buffer("gathered_codes", width, k * each, np.int8),
            "scales": build.buffer("gathered_scales", 1, k)[:, 0],
            "sums": build.buffer("gathered_sums", width // 32, k * each, np.int32),
        }
        build.call(f"gather_rows_a{8 * each}", group, counters, **x.parts, rows=self._tokens, **codes)
        return as_operand(codes, PAIRS)


def _ranks(groups: Iterable[tuple[int, ...]]) -> NDArray[np.int32]:
    """Where each expert stands: the inverse of the order in which layer groups have them."""
    order = np.concatenate([np.array(experts) for experts in groups])
    return np.argsort(order).astype(np.int32)


def _of_each(experts: int, tiles: Array) -> Array:
    """Row tiles of a layer group as those of each expert."""
    return tiles.reshape(experts, -1, *tiles.shape[1:])
