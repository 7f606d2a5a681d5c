"""rope_and_cache beyond its cases: against transformers, and where it must not write."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from kernels import registry
from kernels.gpu.tensors import problem
from kernels.interpreter import Interpreter
from tests.kernels.gpu import contract

_SPEC = registry.spec("gpu_rope_and_cache_act").typed("f16")


def test_reference_is_the_rotation_of_transformers() -> None:
    values = contract.values(_SPEC, contract.make(_SPEC, _SPEC.cases[0]), torch.float64)
    config = LlamaConfig(hidden_size=6 * 32, num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=64)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, 64, 1, dtype=torch.float64), torch.arange(64)[None])
    values["cos"], values["sin"] = cos[0, :, :16].contiguous(), sin[0, :, :16].contiguous()
    at = values["positions"].long()
    expected = apply_rotary_pos_emb(values["q"][None], values["k"][None], cos[:, at], sin[:, at], unsqueeze_dim=2)
    registry.reference(_SPEC.symbol)(**values)
    for name, rotated in zip("qk", expected, strict=True):
        torch.testing.assert_close(values[name], rotated[0], rtol=1e-12, atol=1e-12)


def test_cached_codes_times_their_scale_are_the_vectors() -> None:
    for kv, steps in (("int8", 127.0), ("e4m3", 14.0)):
        spec = registry.spec(f"gpu_rope_and_cache_{kv}").typed("f16")
        values = contract.values(spec, contract.make(spec, spec.cases[0]))
        registry.reference(spec.symbol)(**values)
        written = values["slot_mapping"] >= 0
        for name in "kv":
            codes, scales = values[f"{name}_cache"].flatten(0, 1), values[f"{name}_scales"].flatten(0, 1)
            slots = values["slot_mapping"][written]
            found = codes[slots].float() * scales[slots][..., None]
            vectors = values[name][written].float()
            assert ((found - vectors).abs() <= vectors.abs().amax(2, keepdim=True) / steps).all()


def test_a_padded_token_writes_nothing_anywhere() -> None:
    """Slot -1 lies before the cache: another's memory."""
    arguments = contract.make(_SPEC, _SPEC.cases[0])
    arguments["slot_mapping"] = np.full_like(arguments["slot_mapping"], -1)
    values = contract.values(_SPEC, arguments)
    around = {}
    for name in ("k_cache", "v_cache"):
        cache = values[name]
        around[name] = torch.zeros(cache.shape[0] + 2, *cache.shape[1:], dtype=cache.dtype)
        values[name] = around[name][1:-1]
    tensors = {tensor.name: values[tensor.name] for tensor in _SPEC.tensors}
    Interpreter().run(registry.plan_call(problem(_SPEC, values), contract.TARGET), tensors)
    assert not any(memory.any() for memory in around.values())
