"""Gemma, Granite and OLMo 2: what their configs say, how their tensors are read, and what is refused.

Their logits are compared in tests/runtime (CPU, emulated and interpreted GPU) and tests/exporters (ONNX).
"""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GemmaConfig, GraniteConfig, LlamaConfig, Olmo2Config, PreTrainedConfig

from artifacts.architecture import Architecture
from optimizer.exporters import ExportError
from optimizer.exporters.hf_config import hf_config
from optimizer.transforms import UntransformableModelError, refuse_what_cannot_fold
from runtime.models import UnsupportedModel, architecture, checkpoint_tensors
from runtime.models.stored_rows import Gain
from tests.importers.random_models import SIZES

GEMMA = GemmaConfig(**SIZES, head_dim=16)
GRANITE = GraniteConfig(
    **SIZES, embedding_multiplier=12.0, attention_multiplier=0.015625, residual_multiplier=0.22, logits_scaling=8.0
)
OLMO2 = Olmo2Config(**SIZES)


def read(config: PreTrainedConfig, **changes: Any) -> Architecture:
    return architecture(config.to_dict() | changes)


def test_gemma_keeps_its_stream_smaller_than_its_embeddings_say() -> None:
    found = read(GEMMA)
    assert (found.activation, found.tie_embeddings, found.score_scale) == ("gelu", True, 16**-0.5)
    assert found.branch_factor == pytest.approx(32**-0.5)
    assert found.stream_eps == pytest.approx(1e-6 / 32)
    (part,) = checkpoint_tensors(found)["layers.0.attn_norm.weight"]
    assert part.gain == Gain(1.0, 1.0)


def test_gemma_of_the_first_checkpoints_means_tanh_by_gelu() -> None:
    """google/gemma-2b: hidden_act is "gelu", and its config says nothing of biases or of one directional attention."""
    kept = {k: v for k, v in GEMMA.to_dict().items() if k not in ("attention_bias", "use_bidirectional_attention")}
    assert architecture(kept | {"hidden_act": "gelu"}) == read(GEMMA)


def test_granite_multiplies_nothing_that_is_quantized() -> None:
    """Weights are those of the checkpoint, and so are its codes: a factor stands in an eps, a scale, a join or a gain."""
    found = read(GRANITE)
    assert found.score_scale == 0.015625
    assert (found.branch_factor, found.stream_eps) == (0.22 / 12, 1e-6 / 144)
    parts = checkpoint_tensors(found)
    assert [part.gain for part in parts["final_norm.weight"]] == [Gain(0.0, 8.0)]
    assert all(part.gain is None for name, of in parts.items() if name != "final_norm.weight" for part in of)


def test_granite_without_multipliers_is_llama_with_unscaled_scores() -> None:
    llama, granite = read(LlamaConfig(**SIZES)), read(GraniteConfig(**SIZES))
    assert granite.score_scale == 1
    assert granite.model_copy(update={"family": "llama", "query_scalar": None}) == llama


def test_olmo2_has_no_norm_before_a_branch_and_one_for_all_heads() -> None:
    found = read(OLMO2)
    shapes = found.float_shapes()
    assert {name.split(".")[-2] for name in shapes} == {"q_norm", "k_norm", "attn_post_norm", "mlp_post_norm", "final_norm"}
    assert (shapes["layers.0.q_norm.weight"], shapes["layers.0.k_norm.weight"]) == ((32,), (16,))
    assert found.rms_norm_eps == 1e-5
    assert {name: [part.shape for part in of] for name, of in checkpoint_tensors(found).items() if name in shapes} == {
        name: [shape] for name, shape in shapes.items()
    }


def test_a_transform_needs_a_norm_to_fold_into() -> None:
    with pytest.raises(UntransformableModelError, match="this olmo2 model has no norms before its branches"):
        refuse_what_cannot_fold(read(OLMO2))
    refuse_what_cannot_fold(read(GRANITE))


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (GEMMA, {"hidden_act": "silu"}, "hidden_act must be one of gelu_pytorch_tanh, gelu, got 'silu'"),
        (GEMMA, {"use_bidirectional_attention": True}, "use_bidirectional_attention must be false"),
        (GEMMA, {"head_dim": 15}, "head_dim must be even"),
        (GRANITE, {"residual_multiplier": 0}, "residual_multiplier: Input should be greater than 0"),
        (GRANITE, {"attention_multiplier": None}, "attention_multiplier: Input should be a valid number"),
        (GRANITE, {"mlp_bias": True}, "mlp_bias must be false"),
        (OLMO2, {"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
        (OLMO2, {"num_key_value_heads": 3}, "num_q_heads must be a multiple of num_kv_heads"),
        (OLMO2, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_key(config: PreTrainedConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read(config, **changes)


@pytest.mark.parametrize("config", [GEMMA, GRANITE, OLMO2])
def test_a_format_that_has_no_words_for_them_refuses_them(config: PreTrainedConfig) -> None:
    with pytest.raises(ExportError, match=f"got '{config.model_type}'"):
        hf_config(read(config), {})
