"""Gemma 2 as transformers reads it: what its config says, gains as they are meant, and what refuses the family by name.

Its logits are compared in tests/runtime (CPU, emulated and interpreted GPU), tests/exporters (ONNX) and, layer by layer, in
tests/optimizer/quantization/test_calibration.py.
"""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma2Config

from optimizer.exporters import ExportError
from optimizer.exporters.hf_config import hf_config
from optimizer.importers import Source, open_source
from optimizer.transforms import ChannelScales, Rotation, UntransformableModelError, transformed
from runtime.models import UnsupportedModel, architecture
from tests.importers.random_models import SIZES, random_model, save_folder

CONFIG = Gemma2Config(**SIZES, head_dim=16, sliding_window=24)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(save_folder(random_model(CONFIG), tmp_path_factory.mktemp("model")))


def test_a_config_says_all_that_the_network_needs() -> None:
    found = architecture(CONFIG.to_dict() | {"query_pre_attn_scalar": 144})
    assert (found.activation, found.post_norms, found.tie_embeddings) == ("gelu", True, True)
    assert (found.attention_softcap, found.logit_softcap) == (50.0, 30.0)
    assert found.layer_windows == (24, 0, 24)
    assert found.score_scale == 144**-0.5
    assert found.embedding_scale == 32**0.5


def test_configs_of_older_transformers_leave_out_what_is_usual() -> None:
    """google/gemma-2-2b's config.json has no layer_types, no query_pre_attn_scalar of another kind, and both activations."""
    kept = {key: value for key, value in CONFIG.to_dict().items() if key not in ("layer_types", "tie_word_embeddings")}
    assert architecture(kept | {"hidden_act": "gelu_pytorch_tanh"}) == architecture(CONFIG.to_dict())


def test_caps_that_are_null_are_none() -> None:
    found = architecture(CONFIG.to_dict() | {"attn_logit_softcapping": None, "final_logit_softcapping": None})
    assert (found.attention_softcap, found.logit_softcap) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_activation": "relu"}, "hidden_activation must be 'gelu_pytorch_tanh', got 'relu'"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention must be false"),
    ],
)
def test_other_networks_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        architecture(CONFIG.to_dict() | changed)


def test_gains_are_those_that_norms_multiply_by(source: Source) -> None:
    """transformers stores them less one. Those behind a branch are of a stream that is not scaled by sqrt(hidden_size)."""
    stored = source.checkpoint.read("model.layers.1.post_attention_layernorm.weight")
    torch.testing.assert_close(source.tensor("layers.1.attn_post_norm.weight"), (1 + stored) / 32**0.5)
    stored = source.checkpoint.read("model.layers.1.pre_feedforward_layernorm.weight")
    torch.testing.assert_close(source.tensor("layers.1.mlp_norm.weight"), 1 + stored)


def test_a_rotation_cannot_pass_post_norms(source: Source) -> None:
    with pytest.raises(UntransformableModelError, match="attn_post_norm, mlp_post_norm of a gemma2 model"):
        transformed(source, Rotation.random(source.architecture, seed=0))
    assert transformed(source, ChannelScales({}, {})).architecture == source.architecture


def test_formats_that_have_no_words_for_it_refuse_it(source: Source) -> None:
    with pytest.raises(ExportError, match="got 'gemma2'"):
        hf_config(source.architecture, {})
