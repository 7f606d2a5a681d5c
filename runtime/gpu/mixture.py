"""Experts that each token is routed to, laid out."""

from __future__ import annotations

import torch

from artifacts.errors import UserError
from artifacts.layer_groups import kind_of
from artifacts.layer_parts import Moe
from kernels.gpu.points import bucket
from kernels.moe_matmul.gpu_tuning import BLOCK_MS, default_block_m
from kernels.moe_route.launch import max_blocks
from runtime.gpu.builder import GpuBuilder, Operand, form_of
from runtime.gpu.program import Counts, GpuArgument
from runtime.gpu.weights import gpu_packing_of, refusal

PAIRS = {"T": "num_pairs"}


class Mixture:
    """The chain of kernels/moe_route/gpu_spec.py."""

    def __init__(self, build: GpuBuilder, moe: Moe) -> None:
        self._build, self._moe = build, moe
        most = max(
            max_blocks(build.max_num_tokens * moe.num_experts_per_token, moe.num_experts, block_m) * block_m
            for block_m in BLOCK_MS
        )
        self._sorted_ids = torch.zeros(most, dtype=torch.int32, device=build.device)
        self._expert_ids = torch.zeros(most, dtype=torch.int32, device=build.device)
        self._num_padded = torch.zeros(1, dtype=torch.int32, device=build.device)
        self._topk_ids = build.buffer("topk_ids", moe.num_experts_per_token, dtype=torch.int32)
        self._topk_weights = build.buffer("topk_weights", moe.num_experts_per_token, dtype=torch.float32)

    def route(self, name: str, x: Operand) -> None:
        build, moe = self._build, self._moe
        logits = build.buffer("router", moe.num_experts, dtype=torch.float32)
        weight = build.tensors[f"{name}.router.weight"]
        of_experts: dict[str, GpuArgument] = {of: build.tensors[f"{name}.router.{of}"] for of in moe.routing_tensors}
        logit_bias = build.tensors.get(f"{name}.router.logit_bias")
        build.call("gpu_moe_logits", f"{name}.router", x=x.x, weight=weight, bias=logit_bias, out=logits)
        build.call(
            f"gpu_moe_route_{moe.routing}", f"{name}.router", logits=logits, **of_experts, topk_ids=self._topk_ids,
            topk_weights=self._topk_weights, renormalize=int(moe.normalized), num_groups=moe.num_groups,
            topk_groups=moe.num_chosen_groups, routed_scale=moe.scaling,
        )  # fmt: skip
        build.call(
            "gpu_moe_align", f"{name}.router", topk_ids=self._topk_ids, num_padded=self._num_padded,
            num_experts=moe.num_experts, **self._alignment(),
        )  # fmt: skip

    def linear(self, group: str, x: Operand) -> Operand:
        build, experts, k = self._build, self._moe.num_experts, self._moe.num_experts_per_token
        scheme, num_rows = build.plan[group], build.shapes[group][0] // experts
        if reason := refusal(scheme, kind_of(group), build.architecture):
            raise UserError(f"{group} cannot take {scheme.name}: {reason}; choose another scheme")
        of_pairs = x.counters == PAIRS
        per_expert = {
            name: value.view(experts, -1, *value.shape[1:]) if isinstance(value, torch.Tensor) else value
            for name, value in build.weights(group).items()
        }
        tokens = {
            name: value.view(-1, k if of_pairs else 1, *value.shape[1:]) for name, value in x.forms[form_of(scheme)].items()
        }
        out = build.buffer(kind_of(group), k, num_rows)
        bias = build.tensors.get(f"{group}.bias")
        bias = bias if bias is None else bias.view(experts, num_rows)
        build.call(
            f"gpu_moe_matmul_{gpu_packing_of(scheme).experts}", group, **tokens, **per_expert, bias=bias,
            topk_weights=self._topk_weights if of_pairs else None, num_padded=self._num_padded, out=out, **self._alignment(),
        )  # fmt: skip
        return Operand.plain(out.flatten(0, 1), PAIRS)

    def combine(self, name: str, pairs: Operand, shared: Operand | None) -> Operand:
        build, k, hidden_size = self._build, self._moe.num_experts_per_token, self._build.architecture.hidden_size
        out = build.buffer("combined", hidden_size)
        of_tokens = pairs.x.view(-1, k, hidden_size)
        build.call("gpu_moe_sum", f"{name}.experts", x=of_tokens, shared=None if shared is None else shared.x, out=out)
        return Operand.plain(out)

    def _alignment(self) -> dict[str, GpuArgument]:
        """Views of the alignment's buffers, whose blocks are as large as a step of so many tokens makes them."""
        moe = self._moe

        def blocks(counts: Counts) -> tuple[int, int]:
            pairs = counts["num_pairs"]
            block_m = default_block_m(bucket(counts["num_tokens"]) * moe.num_experts_per_token, moe.num_experts)
            return max_blocks(pairs, moe.num_experts, block_m), block_m

        def sorted_ids(counts: Counts) -> torch.Tensor:
            num_blocks, block_m = blocks(counts)
            return self._sorted_ids[: num_blocks * block_m].view(num_blocks, block_m)

        return {"sorted_ids": sorted_ids, "expert_ids": lambda counts: self._expert_ids[: blocks(counts)[0]]}
