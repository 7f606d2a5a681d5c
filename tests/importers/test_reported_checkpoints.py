"""Checkpoints that other engines load, of public reports: what in them changes no number, and what does.

The oracle is transformers' logits from the same folder.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from artifacts.architecture import Architecture
from optimizer.importers import MissingTensor, ShapeMismatch, Source, UnexpectedTensor, UnsupportedDtype, open_source
from runtime.models import UnsupportedModel, architecture, checkpoint_tensors
from tests.importers.prequantized_writing import (
    change_config,
    change_tensor,
)
from tests.importers.random_models import SIZES, random_model, save_folder

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]])
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
LLAMA = LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e4})


def saved(folder: Path, config: PreTrainedConfig = LLAMA) -> Path:
    return save_folder(random_model(config), folder)


def logits_of(folder: Path) -> torch.Tensor:
    """transformers', of the folder as it is."""
    return _logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def logits_as_read(source: Source) -> torch.Tensor:
    """transformers', of a config made from the architecture alone, and the tensors that we read, by their names."""
    a = source.architecture
    names = {part.name for parts in checkpoint_tensors(a).values() for part in parts}
    model = _of_sizes(a.family, json.dumps(_sizes(a)))
    missing, unexpected = model.load_state_dict({name: source.checkpoint.read(name) for name in names}, strict=False)
    assert not unexpected and set(missing) <= ({HEAD} if a.tie_embeddings else set())
    model.tie_weights()
    return _logits(model)


@cache
def _of_sizes(family: str, sizes: str) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **json.loads(sizes)))
    return model


def _logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(TOKENS).logits
    return logits


def _sizes(a: Architecture) -> dict[str, Any]:
    windows = {a.window(i) for i in range(a.num_layers)}
    return {
        **{key: getattr(a, key) for key in ("vocab_size", "hidden_size", "intermediate_size", "rms_norm_eps", "head_dim")},
        "num_hidden_layers": a.num_layers,
        "num_attention_heads": a.num_q_heads,
        "num_key_value_heads": a.num_kv_heads,
        "max_position_embeddings": a.max_position,
        "tie_word_embeddings": a.tie_embeddings,
        "sliding_window": max(windows) or None,
        "rope_parameters": {"rope_type": "default", "rope_theta": a.rope.theta},
    }


def same_logits(folder: Path) -> Source:
    source = open_source(folder)
    np.testing.assert_allclose(logits_as_read(source), logits_of(folder), rtol=1e-5, atol=1e-5)
    return source


# https://github.com/huggingface/transformers/pull/42612, https://github.com/vllm-project/vllm/issues/51063
@pytest.mark.parametrize("config", [LLAMA, Qwen2Config(**SIZES), MistralConfig(**SIZES)], ids=lambda c: c.model_type)
def test_a_head_of_its_own_under_a_config_that_ties_it(config: PreTrainedConfig, tmp_path: Path) -> None:
    saved(tmp_path, config)
    change_config(tmp_path, tie_word_embeddings=True)
    source = same_logits(tmp_path)
    assert not source.architecture.tie_embeddings
    (note,) = source.checkpoint.notes()
    assert "lm_head.weight" in note and "both are used" in note


# https://github.com/vllm-project/vllm/pull/3344
def test_a_tied_head_that_is_stored_again(tmp_path: Path) -> None:
    saved(tmp_path)
    change_tensor(tmp_path, HEAD, load_file(tmp_path / "model.safetensors")[EMBEDDING].clone())
    change_config(tmp_path, tie_word_embeddings=True)
    source = same_logits(tmp_path)
    assert source.architecture.tie_embeddings and not source.checkpoint.notes()


def test_a_tied_head_alone_is_the_embedding_too(tmp_path: Path) -> None:
    saved(tmp_path)
    change_tensor(tmp_path, EMBEDDING, None)
    change_config(tmp_path, tie_word_embeddings=True)
    assert same_logits(tmp_path).architecture.tie_embeddings


def drop_prefix(folder: Path) -> None:
    """Names as they are where the base model (LlamaModel) was saved, not the model with its head."""
    path = folder / "model.safetensors"
    save_file({name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize("tied", [True, False])
def test_a_base_model_leaves_out_the_prefix(tied: bool, tmp_path: Path) -> None:
    saved(tmp_path, LlamaConfig(**SIZES, tie_word_embeddings=tied))
    drop_prefix(tmp_path)
    assert same_logits(tmp_path).architecture.tie_embeddings is tied


def test_a_base_model_has_no_head_of_its_own(tmp_path: Path) -> None:
    saved(tmp_path)
    drop_prefix(tmp_path)
    change_tensor(tmp_path, HEAD, None)
    with pytest.raises(MissingTensor, match=r"lm_head\.weight"):
        open_source(tmp_path)


def test_a_tensor_is_named_as_it_is_stored(tmp_path: Path) -> None:
    saved(tmp_path)
    drop_prefix(tmp_path)
    change_tensor(tmp_path, "norm.weight", torch.ones(31))
    with pytest.raises(ShapeMismatch, match=r"^norm\.weight in .*model\.safetensors has shape \[31\]"):
        open_source(tmp_path)


TABLES = {
    # https://github.com/huggingface/transformers/pull/35255
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4, dtype=torch.float64),
    "model.rotary_emb.inv_freq": torch.zeros(4),
    # https://github.com/vllm-project/vllm/issues/1977
    "model.layers.1.self_attn.rotary_emb.cos_cached": torch.zeros(1, 1, 128, 8),
    "model.layers.1.self_attn.rotary_emb.sin_cached": torch.zeros(1, 1, 128, 8, dtype=torch.bfloat16),
    # https://github.com/karpathy/llama2.c/issues/266
    "rope.freqs": torch.zeros(4),
    "model.layers.0.self_attn.masked_bias": torch.zeros((), dtype=torch.bool),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_every_engine_computes(name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    change_tensor(tmp_path, name, TABLES[name])
    (note,) = same_logits(tmp_path).checkpoint.notes()
    assert name in note and "(1 such)" in note


@pytest.mark.parametrize("metadata", [{}, {"metadata": {"total_size": "12", "by": {}}}, {"metadata": None}])
def test_an_index_counts_by_its_map_alone(metadata: dict[str, object], tmp_path: Path) -> None:
    save_folder(random_model(LLAMA), tmp_path, max_shard_size="20KB")
    path = tmp_path / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    path.write_text(json.dumps({"weight_map": weight_map | {"model.gone": weight_map[EMBEDDING]}, "extra": 1} | metadata))
    assert not open_source(tmp_path).checkpoint.notes()
    torch.testing.assert_close(open_source(tmp_path).tensor("embed.weight"), random_model(LLAMA).state_dict()[EMBEDDING])


def test_a_type_that_cannot_be_read_matters_where_it_is_read(tmp_path: Path) -> None:
    saved(tmp_path)
    change_tensor(tmp_path, "model.norm.weight", torch.ones(32, dtype=torch.float64))
    with pytest.raises(UnsupportedDtype, match=r"model\.norm\.weight in .* has type F64"):
        open_source(tmp_path)


# https://github.com/huggingface/transformers/blob/main/src/transformers/models/deepseek_v3 leaves them out, too
@pytest.mark.parametrize("key", ["num_nextn_predict_layers", "num_mtp_layers"])
def test_layers_that_draft_tokens(key: str, tmp_path: Path) -> None:
    saved(tmp_path)
    drafts = {
        name.replace("layers.0.", "layers.3."): tensor.clone()
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
        if "layers.0." in name
    }
    save_file(load_file(tmp_path / "model.safetensors") | drafts, tmp_path / "model.safetensors")
    with pytest.raises(UnexpectedTensor, match=r"model\.layers\.3\."):
        open_source(tmp_path)
    change_config(tmp_path, **{key: 1})
    (note,) = open_source(tmp_path).checkpoint.notes()
    assert "drafts tokens" in note and f"({len(drafts)} such)" in note


#: keys of published configs, each of which leaves the model as it is
HARMLESS: dict[str, dict[str, object]] = {
    # https://github.com/ggml-org/llama.cpp/pull/2793
    "no scaling": {"rope_scaling": None},
    # https://github.com/sgl-project/sglang/pull/14772
    "a default scaling": {"rope_scaling": {"rope_type": "default"}},
    "an old default scaling": {"rope_scaling": {"type": "default"}},
    "names": {"_name_or_path": "/data/x", "auto_map": {"AutoModel": "m.M"}, "architectures": ["LlamaForCausalLM"]},
    "types": {"torch_dtype": "float16", "dtype": "bfloat16"},
    "of training": {"attention_dropout": 0.1, "initializer_range": 0.5, "use_cache": False, "pretraining_tp": 2},
    "of tokens": {"pad_token_id": 7, "bos_token_id": None, "eos_token_id": [1, 2]},
    "an activation's other name": {"hidden_act": "swish"},
    "no head_dim": {"head_dim": None},
    "no rotary share": {"partial_rotary_factor": None},
    "of outputs": {"output_attentions": False, "output_hidden_states": True, "return_dict": True},
}
#: of another family
UNREAD: dict[str, tuple[PreTrainedConfig, dict[str, object]]] = {
    "qwen2 has its biases anyway": (Qwen2Config(**SIZES), {"attention_bias": False, "mlp_bias": True}),
    # https://github.com/predibase/lorax/pull/532
    "qwen2's window that is not used": (Qwen2Config(**SIZES), {"use_sliding_window": False, "sliding_window": 0}),
    "mistral reads no biases": (MistralConfig(**SIZES), {"mlp_bias": True, "attention_bias": True}),
    "mistral's layers are alike": (MistralConfig(**SIZES), {"layer_types": ["sliding_attention"] * 3}),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_keys_that_change_no_number(kind: str, tmp_path: Path) -> None:
    expected = open_source(saved(tmp_path)).architecture
    config = json.loads((tmp_path / "config.json").read_text())
    if "rope_scaling" in HARMLESS[kind]:
        config.pop("rope_parameters")
    (tmp_path / "config.json").write_text(json.dumps(config | HARMLESS[kind]))
    assert same_logits(tmp_path).architecture == expected


@pytest.mark.parametrize("kind", UNREAD)
def test_keys_that_the_family_does_not_read(kind: str, tmp_path: Path) -> None:
    config, changes = UNREAD[kind]
    expected = open_source(saved(tmp_path, config)).architecture
    change_config(tmp_path, **changes)
    assert same_logits(tmp_path).architecture == expected


@pytest.mark.parametrize("config", [LLAMA, Qwen2Config(**SIZES), MistralConfig(**SIZES)], ids=lambda c: c.model_type)
def test_absent_keys_have_transformers_defaults(config: PreTrainedConfig, tmp_path: Path) -> None:
    """As early Llama configs were (https://github.com/mlc-ai/web-llm/issues/61)."""
    saved(tmp_path, config)
    content = json.loads((tmp_path / "config.json").read_text())
    absent = {key: content.pop(key) for key in ("max_position_embeddings", "rms_norm_eps")}
    (tmp_path / "config.json").write_text(json.dumps(content))
    source = same_logits(tmp_path)
    assert source.architecture.max_position == type(config)().max_position_embeddings != absent["max_position_embeddings"]
    assert source.architecture.rms_norm_eps == type(config)().rms_norm_eps


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (LLAMA, {"mlp_bias": True}, "mlp_bias must be false"),
        (LLAMA, {"hidden_act": "relu"}, "hidden_act must be 'silu', got 'relu'"),
        (LLAMA, {"partial_rotary_factor": 0.5, "rope_parameters": None}, "partial_rotary_factor must be 1"),
        (MistralConfig(**SIZES), {"layer_types": ["full_attention"] * 3}, "layer_types must all be sliding_attention"),
    ],
)
def test_keys_that_change_numbers_are_refused_as_before(
    config: PreTrainedConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        architecture(config.to_dict() | changes)
