"""How a model is divided among devices: which part of it each one holds, as an architecture of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from artifacts.architecture import Architecture
from artifacts.layer_groups import kind_of
from artifacts.precision import Plan
from runtime.gpu.weights import device_bytes, refusal

Attention = Literal["heads", "sequences"]
Experts = Literal["none", "sliced", "whole"]


@dataclass(frozen=True)
class Division:
    """`heads`: each device has a share of every matrix outside the experts (tensor parallelism, Shoeybi et al. 2019).

    Where KV heads are fewer than devices, several devices have the same one.

    `sequences`: each has all of these, and a share of the sequences with their cache (data-parallel attention). Experts are
    `sliced` like other matrices, or each device has a share of them `whole` (expert parallelism, Lepikhin et al. 2020).
    """

    num_devices: int
    attention: Attention = "heads"
    experts: Experts = "none"

    @property
    def title(self) -> str:
        mixture = {"none": "", "sliced": ", every expert sliced", "whole": ", whole experts"}[self.experts]
        return f"{self.attention} divided by {self.num_devices}{mixture}"

    def sequences(self, num_seqs: int) -> int:
        """Of so many, those that the attention of one device sees."""
        return -(-num_seqs // self.num_devices) if self.attention == "sequences" else num_seqs

    @property
    def prompts_at_once(self) -> int:
        """In a step: one for each device where sequences are divided."""
        return self.num_devices if self.attention == "sequences" else 1

    def own(self, a: Architecture) -> Architecture:
        """The model as one device has it. Where experts are whole, its mixture is that of all, since tokens go to all."""
        if self.attention == "sequences" or self.num_devices == 1:
            return a
        n, moe = self.num_devices, a.moe
        if moe is not None:
            expert = moe.intermediate_size // (n if self.experts == "sliced" else 1)
            shared = moe.shared_intermediate_size // n
            moe = moe.model_copy(update={"intermediate_size": expert, "shared_intermediate_size": shared})
        share = {
            "vocab_size": -(-a.vocab_size // n),
            "intermediate_size": a.intermediate_size // n,
            "num_q_heads": a.num_q_heads // n,
            "num_kv_heads": max(1, a.num_kv_heads // n),
            "moe": moe,
        }
        return a.model_copy(update=share)

    def mixture(self, a: Architecture) -> Architecture:
        """The same for what experts compute: a device's own ones, and as many of a token's as fall to it on average."""
        own = self.own(a)
        if own.moe is None or self.experts != "whole":
            return own
        share = {
            "num_experts": own.moe.num_experts // self.num_devices,
            "num_experts_per_token": -(-own.moe.num_experts_per_token // self.num_devices),
            "num_groups": 1,
            "num_chosen_groups": 1,
        }
        return own.model_copy(update={"moe": own.moe.model_copy(update=share)})

    def refusal(self, a: Architecture, plan: Plan) -> str | None:
        """Why `plan` cannot be divided so, or None."""
        n, moe = self.num_devices, a.moe
        if a.layers_differ and n > 1:
            return f"layers of a {a.family} model differ in sizes, inputs or caches, which is divided by no rule here"
        divided = {}
        if self.attention == "heads":
            divided = {"heads": a.num_q_heads, "rows of a feed-forward network": a.intermediate_size}
            if n % a.num_kv_heads:
                divided["KV heads"] = a.num_kv_heads
            if moe is not None:
                divided |= {"rows of the shared expert": moe.shared_intermediate_size}
        if moe is not None:
            divided |= {"experts": moe.num_experts} if self.experts == "whole" else {"rows of an expert": moe.intermediate_size}
        if odd := [f"{count} {what}" for what, count in divided.items() if count % n]:
            return f"{odd[0]} cannot be divided by {n}"
        for part in (self.own(a), self.mixture(a)):
            for group, (rows, columns) in part.linear_shapes().items():
                scheme = plan[group]
                if reason := scheme.refusal(rows, columns) or refusal(scheme, kind_of(group), part):
                    return f"{group} cannot be divided by {n} in {scheme.name}: {reason}"
        return None

    def weight_bytes(self, a: Architecture, plan: Plan) -> int:
        """Of what one device holds, gains, biases and routers included."""
        return sum(self.tensor_bytes(a, plan).values())

    def tensor_bytes(self, a: Architecture, plan: Plan) -> Mapping[str, int]:
        """Tensor -> its bytes on one device."""
        own, mixture = (device_bytes(part, plan) for part in (self.own(a), self.mixture(a)))
        return {name: (mixture if of_experts(name) else own)[name] for name in own}


def of_experts(label: str) -> bool:
    """Whether a tensor, or a call of a step, is of the experts' matrices."""
    return ".experts_" in label


def divisions(a: Architecture, num_devices: int) -> list[Division]:
    """The ways that are tried, those that divide most first."""
    if num_devices == 1:
        return [Division(1, experts="sliced" if a.moe else "none")]
    if a.moe is None:
        return [Division(num_devices)]
    return [
        Division(num_devices, "heads", "sliced"),
        Division(num_devices, "heads", "whole"),
        Division(num_devices, "sequences", "whole"),
    ]
