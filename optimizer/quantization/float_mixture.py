"""Experts that each token is routed to, in float: the part of a decoder layer that calibration walks through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from artifacts.layer_groups import kind_of
from artifacts.layer_parts import Moe
from kernels import registry
from kernels.moe_route.reference import moe_sort


class FloatMixture:
    """Of one sequence, fp32. `observe` sees what all experts of a layer read together, and what each reads of its own.

    Gate and up read the same states, so one set of statistics is theirs: `layers.I.experts_gate_up`. What down reads has no
    channel in common with what another expert's does: `layers.I.experts_down.E`, of experts that have tokens.
    """

    def __init__(self, moe: Moe, tensors: Mapping[str, Tensor], observe: Callable[[str, Tensor], None]) -> None:
        assert not moe.rare_experts, "calibration is of a model whose experts still stand together"
        self._moe, self._tensors, self._observe = moe, tensors, observe

    def route(self, name: str, x: Tensor) -> None:
        moe, k = self._moe, self._moe.num_experts_per_token
        logits = functional.linear(x, self._tensors[f"{name}.router.weight"], self._tensors.get(f"{name}.router.logit_bias"))
        ids, self._weights = torch.empty(len(x), k, dtype=torch.int32), torch.empty(len(x), k)
        rules = int(moe.normalized), moe.num_groups, moe.num_chosen_groups, moe.scaling
        of_experts = (self._tensors[f"{name}.router.{of}"] for of in moe.routing_tensors)
        registry.reference(f"moe_route_{moe.routing}")(logits, *of_experts, ids, self._weights, *rules)
        offsets = torch.empty(moe.num_experts + 1, dtype=torch.int32)
        self._tokens, self._places = torch.empty(ids.numel(), dtype=torch.int32), torch.empty_like(ids)
        moe_sort(ids, offsets, self._tokens, self._places)
        self._counts = offsets.diff().tolist()

    def linear(self, group: str, x: Tensor) -> Tensor:
        """Rows of pairs, sorted by expert."""
        experts = self._tensors[f"{group}.weight"].chunk(self._moe.num_experts)
        bias = self._tensors.get(f"{group}.bias")
        biases = [None] * len(experts) if bias is None else bias.chunk(len(experts))
        of_tokens = kind_of(group) == "experts_gate_up"
        if of_tokens:
            self._observe(group, x)
            x = x[self._tokens]
        products = []
        for expert, rows in enumerate(torch.split(x, self._counts)):
            if len(rows):
                if not of_tokens:
                    self._observe(f"{group}.{expert}", rows)
                products.append(functional.linear(rows, experts[expert], biases[expert]))
        return torch.cat(products)

    def combine(self, name: str, pairs: Tensor, shared: Tensor | None) -> Tensor:
        total = (pairs[self._places] * self._weights[:, :, None]).sum(dim=1)
        return total if shared is None else total + shared
