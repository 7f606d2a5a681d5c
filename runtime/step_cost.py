"""What steps of a model move and compute, by the same counts as `coldforge bench` has for decoding. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from artifacts.architecture import Architecture
from artifacts.kv_cache import layer_kv_bytes
from artifacts.layer_groups import is_table
from artifacts.precision import KvDtype, Scheme
from runtime.attention_flops import attention_flops
from runtime.step_work import StepWork


@dataclass(frozen=True)
class Cost:
    """Bytes that must be read or written, and operations in floating point and of bytes; a multiply-add is two."""

    num_bytes: float
    float_flops: float
    int8_flops: float


@dataclass(frozen=True)
class StepCost:
    """The coefficients of a model's `Cost`: of a step, of a token of it, of a token in its context, of a row of its logits."""

    bytes_of_step: float
    bytes_of_token: float
    bytes_of_context: float
    float_of_token: float
    int8_of_token: float
    float_of_pair: float
    float_of_logits: float
    int8_of_logits: float

    @classmethod
    def of(
        cls, architecture: Architecture, groups: Mapping[str, str], kv_cache: KvDtype, max_model_len: int
    ) -> StepCost | None:
        """`groups` maps layer groups to scheme names. None where counts are not enough: experts, windows in the context."""
        layers = range(architecture.num_layers)
        windows = (architecture.window(layer) for layer in layers)
        if architecture.moe is not None or architecture.mla is not None or any(w and w < max_model_len for w in windows):
            return None
        bytes_of_step = sum(4.0 * math.prod(shape) for shape in architecture.float_shapes().values())
        bytes_of_token = 0.0
        flops = {(head, integer): 0.0 for head in (False, True) for integer in (False, True)}
        for group, (out_features, in_features) in architecture.linear_shapes().items():
            scheme = Scheme.parse(groups[group])
            size_bytes = out_features * in_features * scheme.bits_per_weight / 8
            is_head = group == ("embed" if architecture.tie_embeddings else "head")
            if is_table(group) and not is_head:
                bytes_of_token += size_bytes / out_features
                continue
            bytes_of_step += size_bytes
            factor = 4.0 if scheme.int16_activations else 2.0
            flops[is_head, scheme.integer_activations] += factor * out_features * in_features
        return cls(
            bytes_of_step=bytes_of_step,
            bytes_of_token=bytes_of_token,
            bytes_of_context=float(sum(layer_kv_bytes(architecture, kv_cache, layer) for layer in layers)),
            float_of_token=flops[False, False],
            int8_of_token=flops[False, True],
            float_of_pair=sum(attention_flops(architecture, layer, 0, 1) for layer in layers),
            float_of_logits=flops[True, False],
            int8_of_logits=flops[True, True],
        )

    def cost(self, work: StepWork) -> Cost:
        """Of one step."""
        return Cost(
            num_bytes=self.bytes_of_step + self.bytes_of_token * work.num_tokens + self.bytes_of_context * work.num_context,
            float_flops=self.float_of_token * work.num_tokens
            + self.float_of_pair * work.num_attended
            + self.float_of_logits * work.num_logits,
            int8_flops=self.int8_of_token * work.num_tokens + self.int8_of_logits * work.num_logits,
        )
