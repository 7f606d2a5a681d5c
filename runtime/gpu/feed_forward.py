"""The feed-forward part of a layer, laid out: one SwiGLU network, or experts that each token is routed to."""

from __future__ import annotations

import torch

from artifacts.architecture import Architecture, Moe
from artifacts.weight_formats import FP8_BLOCK
from kernels.gpu.points import bucket
from kernels.moe_matmul.gpu_tuning import BLOCK_MS, default_block_m
from kernels.moe_route.launch import max_blocks
from runtime.gpu.layout import GpuLayout, Operand
from runtime.gpu.program import Counts, GpuArgument
from runtime.gpu.weights import gpu_packing_of

PAIRS = {"T": "num_pairs"}


class DenseFeedForward:
    """down(silu(gate x) * up x) (Shazeer 2020)."""

    def __init__(self, layout: GpuLayout, architecture: Architecture) -> None:
        self._layout = layout
        self._gate_up = layout.buffer(2 * architecture.intermediate_size)

    def emit(self, name: str, operand: Operand, out: torch.Tensor) -> None:
        """`operand` is the normalized input in the form that gate_up wants."""
        layout = self._layout
        layout.linear(f"{name}.gate_up", operand, self._gate_up)
        layout.linear(f"{name}.down", layout.activated(f"{name}.activation", self._gate_up, f"{name}.down"), out)


class MoeFeedForward:
    """Routed experts, and one shared by all tokens where there is one; the chain of kernels/moe_route/gpu_spec.py."""

    def __init__(self, layout: GpuLayout, architecture: Architecture, moe: Moe) -> None:
        self._layout, self._moe, self._hidden_size = layout, moe, architecture.hidden_size
        k, experts = moe.num_experts_per_token, moe.num_experts
        self._logits = layout.buffer(experts, dtype=torch.float32)
        self._topk_ids = layout.buffer(k, dtype=torch.int32)
        self._topk_weights = layout.buffer(k, dtype=torch.float32)
        most = max(max_blocks(layout.max_num_tokens * k, experts, block_m) * block_m for block_m in BLOCK_MS)
        self._sorted_ids = torch.zeros(most, dtype=torch.int32, device=layout.device)
        self._expert_ids = torch.zeros(most, dtype=torch.int32, device=layout.device)
        self._num_padded = torch.zeros(1, dtype=torch.int32, device=layout.device)
        self._gate_up = layout.buffer(k, 2 * moe.intermediate_size)
        self._expert_out = layout.buffer(k, self._hidden_size)
        self._shared_gate_up = layout.buffer(2 * moe.shared_intermediate_size) if moe.shared_intermediate_size else None
        self._shared_out = layout.buffer(self._hidden_size) if moe.shared_intermediate_size else None

    def groups(self, name: str) -> list[str]:
        """The layer groups that read the normalized input."""
        return [f"{name}.experts_gate_up", *([f"{name}.gate_up"] if self._shared_out is not None else [])]

    def emit(self, name: str, hidden: torch.Tensor, operand: Operand, out: torch.Tensor) -> None:
        """`hidden` is the normalized input, `operand` the same in every form that `groups` want."""
        layout = self._layout
        self._route(name, hidden)
        if self._shared_gate_up is not None:
            # First, because rounding the experts' activations may take the operand's place.
            layout.linear(f"{name}.gate_up", operand, self._shared_gate_up)
        self._experts(f"{name}.experts_gate_up", operand, self._gate_up, None)
        pairs = self._gate_up.flatten(0, 1)
        activated = layout.activated(f"{name}.activation", pairs, f"{name}.experts_down", PAIRS)
        self._experts(f"{name}.experts_down", activated, self._expert_out, self._topk_weights)
        if self._shared_out is not None and self._shared_gate_up is not None:
            shared = layout.activated(f"{name}.shared_activation", self._shared_gate_up, f"{name}.down")
            layout.linear(f"{name}.down", shared, self._shared_out)
        layout.call("gpu_moe_sum", f"{name}.experts", x=self._expert_out, shared=self._shared_out, out=out)

    def _route(self, name: str, hidden: torch.Tensor) -> None:
        layout, moe = self._layout, self._moe
        weight = layout.tensors[f"{name}.router.weight"]
        bias = {"bias": layout.tensors[f"{name}.router.bias"]} if moe.scoring == "sigmoid" else {}
        layout.call("gpu_moe_logits", f"{name}.router", x=hidden, weight=weight, out=self._logits)
        layout.call(
            f"gpu_moe_route_{moe.scoring}", f"{name}.router", logits=self._logits, **bias, topk_ids=self._topk_ids,
            topk_weights=self._topk_weights, renormalize=int(moe.normalized), num_groups=moe.num_groups,
            topk_groups=moe.num_chosen_groups, routed_scale=moe.scaling,
        )  # fmt: skip
        layout.call(
            "gpu_moe_align", f"{name}.router", topk_ids=self._topk_ids, num_padded=self._num_padded,
            num_experts=moe.num_experts, **self._alignment(),
        )  # fmt: skip

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

    def _experts(self, group: str, operand: Operand, out: torch.Tensor, topk_weights: torch.Tensor | None) -> None:
        layout, experts = self._layout, self._moe.num_experts
        packing, num_rows = gpu_packing_of(layout.plan[group]), out.shape[2]
        if packing.form == "e4m3_block" and num_rows % FP8_BLOCK:
            raise ValueError(
                f"{group} cannot take fp8-block: an expert's {num_rows} rows must be a multiple of {FP8_BLOCK}, or a block of "
                "weights spans two experts; choose fp8"
            )
        rows = self._moe.num_experts_per_token if topk_weights is not None else 1
        per_expert = {
            name: value.view(experts, -1, *value.shape[1:]) if isinstance(value, torch.Tensor) else value
            for name, value in layout.weights(group).items()
        }
        tokens = {name: value.view(-1, rows, *value.shape[1:]) for name, value in operand[packing.form].items()}
        layout.call(
            f"gpu_moe_matmul_{packing.experts}", group, **tokens, **per_expert, topk_weights=topk_weights,
            num_padded=self._num_padded, out=out, **self._alignment(),
        )  # fmt: skip
