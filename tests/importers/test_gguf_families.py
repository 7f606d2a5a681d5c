"""Families in GGUF files as llama.cpp's converter writes them, against the same models opened from Hugging Face's folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize
from numpy.typing import NDArray
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GraniteConfig,
    GraniteMoeConfig,
    GraniteMoeHybridConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoeConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from artifacts.precision import Scheme
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import Misfit
from optimizer.importers import DamagedFile, MissingTensor, ShapeMismatch, Source, UnexpectedTensor, open_source
from optimizer.importers.gguf_config import hf_config
from optimizer.importers.gguf_families import GGUF_FAMILIES
from optimizer.importers.gguf_file import GgufFile
from optimizer.importers.gguf_places import Place
from runtime.models import UnsupportedModel, architecture
from tests.house.test_words import ROOT
from tests.importers.gguf_writing import write_gguf
from tests.importers.random_models import SIZES, random_model, save_folder

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.08],
    "long_factor": [1.5, 4.25],
}
PHI3_LONG = Phi3Config(**SIZES, original_max_position_embeddings=32, rope_parameters=LONGROPE, pad_token_id=None)
FACTORS = {f"rope_factors_{length}.weight": np.array(LONGROPE[f"{length}_factor"], np.float32) for length in ("long", "short")}
GRANITE = {"attention_multiplier": 0.22, "embedding_multiplier": 12.0, "residual_multiplier": 0.3, "logits_scaling": 8.0}
SCALES = {"attention.scale": 0.22, "embedding_scale": 12.0, "residual_scale": 0.3, "logit_scale": 8.0}
HYBRID = {"layer_types": ["full_attention"] * 3, "shared_intermediate_size": 96, "mamba_n_heads": 4}


def granite(architecture: str, **experts: int) -> dict[str, Any]:
    return {f"{architecture}.{key}": value for key, value in (SCALES | experts).items()}


SEVEN = SIZES | {"num_hidden_layers": 7}

#: a config, what the converter writes of it beside what it writes of every family, and further tensors
FAMILIES: dict[str, tuple[PreTrainedConfig, dict[str, Any], dict[str, np.ndarray]]] = {
    "gemma2": (
        Gemma2Config(**SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=24),
        {
            "gemma2.attention.sliding_window": 24,
            "gemma2.attn_logit_softcapping": 50.0,
            "gemma2.final_logit_softcapping": 30.0,
        },
        {},
    ),
    "gemma2, silent": (Gemma2Config(**SIZES, head_dim=16, query_pre_attn_scalar=16), {}, {}),
    "gemma3": (
        Gemma3TextConfig(**SEVEN, head_dim=16, query_pre_attn_scalar=16, sliding_window=24),
        {"gemma3.attention.sliding_window": 24},
        {},
    ),
    "gemma3, linear, capped": (
        Gemma3TextConfig(
            **SEVEN,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=200,
            final_logit_softcapping=20.0,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            },
        ),
        {
            "gemma3.attention.sliding_window": 200,
            "gemma3.final_logit_softcapping": 20.0,
            "gemma3.rope.scaling.type": "linear",
            "gemma3.rope.scaling.factor": 8.0,
            "gemma3.rope.freq_base_swa": 5e3,
        },
        {},
    ),
    "gemma3, by layer": (
        Gemma3TextConfig(
            **SIZES,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=24,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
        ),
        {"gemma3.attention.sliding_window": 24, "gemma3.attention.sliding_window_pattern": [False, True, False]},
        {},
    ),
    "glm4": (Glm4Config(**SIZES, head_dim=16, pad_token_id=None), {"glm4.rope.dimension_count": 8}, {}),
    "phi3": (
        Phi3Config(**SIZES, sliding_window=24, pad_token_id=None),
        {"phi3.attention.sliding_window": 24, "phi3.rope.scaling.original_context_length": 4096},
        {},
    ),
    "phi3, longrope": (
        PHI3_LONG,
        {
            "phi3.rope.dimension_count": 4,
            "phi3.rope.scaling.type": "longrope",
            "phi3.rope.scaling.original_context_length": 32,
            "phi3.rope.scaling.attn_factor": (1 + 2 / 5) ** 0.5,
        },
        FACTORS,
    ),
    "gemma": (GemmaConfig(**SIZES, head_dim=16), {}, {}),
    "granite": (
        GraniteConfig(**SIZES, **GRANITE, attention_bias=True),
        granite("granite"),
        {},
    ),
    "granite, silent": (GraniteConfig(**SIZES, attention_multiplier=8**-0.5, tie_word_embeddings=True), {}, {}),
    "olmo2": (Olmo2Config(**SIZES, pad_token_id=None), {}, {}),
    "smollm3": (SmolLM3Config(**SEVEN, pad_token_id=None), {}, {}),
    "mixtral": (
        MixtralConfig(**SIZES, num_local_experts=4, sliding_window=None),
        {"llama.expert_count": 4, "llama.expert_used_count": 2},
        {},
    ),
    "qwen3_moe": (
        Qwen3MoeConfig(
            **SIZES, head_dim=16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=32, norm_topk_prob=True
        ),
        {"qwen3moe.expert_count": 6, "qwen3moe.expert_used_count": 3, "qwen3moe.expert_feed_forward_length": 32},
        {},
    ),
    "olmoe": (
        OlmoeConfig(**SIZES | {"num_key_value_heads": 4}, num_experts=4, num_experts_per_tok=2, pad_token_id=None),
        {"olmoe.expert_count": 4, "olmoe.expert_used_count": 2},
        {},
    ),
    "granitemoe": (
        GraniteMoeConfig(**SIZES, **GRANITE, num_local_experts=4, tie_word_embeddings=True),
        granite("granitemoe", expert_count=4, expert_used_count=2),
        {},
    ),
    "granitemoehybrid": (
        GraniteMoeHybridConfig(**SIZES | HYBRID, **GRANITE, num_local_experts=4, position_embedding_type="rope"),
        granite("granitemoe", expert_count=4, expert_used_count=2, expert_shared_feed_forward_length=96),
        {},
    ),
}


def opened(name: str, folder: Path, **options: Any) -> tuple[Source, Source]:
    """From Hugging Face's folder, from GGUF."""
    config, metadata, extra = FAMILIES[name]
    model = random_model(config)
    with torch.no_grad():  # gains as models have them: less one they are below and above zero
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.mul_(3)
    folder.mkdir(exist_ok=True)
    metadata, extra = metadata | options.pop("metadata", {}), extra | options.pop("extra", {})
    written = write_gguf(folder / "model.gguf", model, metadata=metadata, extra=extra, **options)
    return open_source(save_folder(model, folder / "hf")), open_source(written)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_and_the_architecture_are_the_folders(name: str, tmp_path: Path) -> None:
    theirs, ours = opened(name, tmp_path)
    if name == "phi3, longrope":  # a factor that the folder's config implies, and the file says in fp32
        assert ours.architecture.rope.attention_factor == pytest.approx(theirs.architecture.rope.attention_factor, rel=1e-7)
        rope = ours.architecture.rope.model_copy(update={"attention_factor": theirs.architecture.rope.attention_factor})
        assert ours.architecture.model_copy(update={"rope": rope}) == theirs.architecture
    else:
        assert ours.architecture == theirs.architecture
    for tensor in [*theirs.architecture.float_shapes(), *(f"{group}.weight" for group in theirs.architecture.linear_shapes())]:
        assert torch.equal(ours.tensor(tensor), theirs.tensor(tensor)), tensor


@dataclass(frozen=True)
class Header:
    """A file's, of a model too deep to write."""

    metadata: dict[str, Any]
    tensors: tuple[str, ...] = ()
    path: str = "model.gguf"

    def read(self, name: str) -> NDArray[np.float32]:
        raise AssertionError(f"{name} is read, and keys alone should be")


@pytest.mark.parametrize(("kind", "num_layers"), [("gemma2", 46), ("gemma3", 62)])
def test_scores_of_the_widest_gemmas(kind: str, num_layers: int) -> None:
    """llama.cpp knows them by their number of layers: 4608 / 32, as in their configs, in place of head_dim."""
    keys = {
        "block_count": num_layers,
        "context_length": 8192,
        "embedding_length": 4608,
        "feed_forward_length": 36864,
        "attention.head_count": 32,
        "attention.head_count_kv": 16,
        "attention.key_length": 128,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "vocab_size": 256000,
    }
    scalars = []
    for shaped in (keys, keys | {"block_count": 42}):
        metadata = {f"{kind}.{key}": value for key, value in shaped.items()} | {"general.architecture": kind}
        scalars.append(architecture(hf_config(Header(metadata))).query_scalar)
    assert scalars == [144, 128]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "gemma3",
            {"drop": "model.layers.0.post_feedforward_layernorm.weight"},
            MissingTensor,
            r"blk\.0\.post_ffw_norm\.weight",
        ),
        (
            "gemma3",
            {"metadata": {"gemma3.attention.sliding_window_pattern": [True]}},
            DamagedFile,
            "an entry per layer, 7, got 1",
        ),
        ("gemma3", {"metadata": {"gemma3.attention.value_length": 8}}, UnsupportedModel, "different sizes per head"),
        ("gemma2", {"metadata": {"gemma2.rope.freq_base_swa": 5.0}}, UnsupportedModel, "by a base of their own"),
        ("glm4", {"metadata": {"glm4.rope.dimension_sections": [8, 12, 12, 0]}}, UnsupportedModel, "positions of images"),
        ("glm4", {"metadata": {"glm4.nextn_predict_layers": 1}}, UnsupportedModel, "predict further tokens"),
        ("phi3, longrope", {"metadata": {"phi3.rope.scaling.yarn_log_mul": 2.0}}, UnsupportedModel, "yarn_log_mul = 2.0"),
        (
            "granite",
            {"metadata": {"granite.rope.scaling.finetuned": False}},
            UnsupportedModel,
            "no layer of it knows positions",
        ),
        ("granite", {"metadata": {"granite.deepstack_mapping": [-1, 0, 1]}}, UnsupportedModel, "reads images"),
        ("smollm3", {"metadata": {"smollm3.attention.sliding_window": 8}}, UnsupportedModel, "does not say in which layers"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    name: str, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        opened(name, tmp_path, **options)


def test_longrope_without_the_factors_of_one_length(tmp_path: Path) -> None:
    extra = {"rope_factors_long.weight": FACTORS["rope_factors_long.weight"]}
    path = write_gguf(tmp_path / "model.gguf", random_model(PHI3_LONG), extra=extra)
    with pytest.raises(DamagedFile, match=r"lacks rope_factors_short\.weight"):
        open_source(path)


def test_codes_of_rows_in_another_order_are_values_alone(tmp_path: Path) -> None:
    config = Glm4Config(**SIZES, head_dim=16, pad_token_id=None)
    metadata = {"glm4.rope.dimension_count": 8}
    path = write_gguf(tmp_path / "model.gguf", random_model(config), GGMLQuantizationType.Q4_0, metadata=metadata)
    source = open_source(path)
    assert source.tensor("layers.0.qkv.weight").shape == (128, 32)
    assert source.checkpoint.stored("model.layers.0.mlp.down_proj.weight") is not None


def test_granite_4_without_experts(tmp_path: Path) -> None:
    """The converter says how many heads of keys each layer has, and the size of what would stand beside experts."""
    keys = {"attention.head_count_kv": [2, 2, 2], "expert_shared_feed_forward_length": 64, "ssm.state_size": 256}
    theirs, ours = opened("granite", tmp_path, metadata={f"granite.{key}": value for key, value in keys.items()})
    assert ours.architecture == theirs.architecture


@pytest.mark.parametrize("name", ["mixtral", "granitemoehybrid"])
@pytest.mark.parametrize(("kind", "scheme"), [("Q4_0", "int4-g32-sym"), ("Q8_0", "int8"), ("MXFP4", "mxfp4")])
def test_codes_of_experts_are_kept(name: str, kind: str, scheme: str, tmp_path: Path) -> None:
    """One expert behind the other, each with its rows of gate before those of up."""
    config, metadata, _ = FAMILIES[name]
    path = write_gguf(tmp_path / "model.gguf", random_model(config), GGMLQuantizationType[kind], metadata=metadata)
    source = open_source(path)
    groups = ["layers.1.experts_gate_up", "layers.1.gate_up"][: 1 + ("hybrid" in name)]
    for group in [*groups, "layers.1.experts_down"][: 3 if scheme != "int8" else len(groups)]:  # down has two blocks in a row
        found = source.stored(group, Scheme.parse(scheme))
        assert isinstance(found, QuantizedMatrix)
        np.testing.assert_array_equal(found.dequantize(), source.tensor(f"{group}.weight").flatten(0, -2).numpy())


def test_experts_in_types_that_no_scheme_holds(tmp_path: Path) -> None:
    """K-quants, which the gguf package reads and does not write: of three matrices one is read."""
    random, block_bytes = np.random.default_rng(0), 144
    blocks = random.integers(0, 256, (3, 4, 2 * block_bytes), dtype=np.uint8)
    blocks.reshape(3, 4, 2, block_bytes)[..., :4] = np.array([0.01, 0.02], "<f2").view(np.uint8)  # scales, not NaN
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("blk.0.ffn_gate_exps.weight", blocks, raw_dtype=GGMLQuantizationType.Q4_K)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    file, place = GgufFile.open(tmp_path / "model.gguf"), Place(("blk.0.ffn_gate_exps.weight",), slice(1, 2), is_expert=True)
    assert place.shape(file) == (4, 512)
    np.testing.assert_array_equal(place.read(file), dequantize(blocks[1], GGMLQuantizationType.Q4_K))
    assert place.stored(file) == Misfit("codes are Q4_K")


EXPS = "blk.1.ffn_up_exps.weight"
MALFORMED: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "more experts than matrices": (
        "mixtral",
        {"metadata": {"llama.expert_count": 5}},
        DamagedFile,
        r"blk\.\d\.ffn_\w+_exps\.weight in .* as many matrices as there are experts, 5, and has shape \[4, ",
    ),
    "no matrices of up": ("olmoe", {"leave_out": "blk.1.ffn_up_exps.weight"}, MissingTensor, r"blk\.1\.ffn_up_exps"),
    "another size": (
        "qwen3_moe",
        {"metadata": {"qwen3moe.expert_feed_forward_length": 40}},
        ShapeMismatch,
        r"ffn_gate_exps\.weight in .* moe_intermediate_size",
    ),
    "gate unlike up": (
        "granitemoe",
        {"leave_out": EXPS, "extra": {EXPS: np.zeros((4, 64, 64), np.float32)}},
        ShapeMismatch,
        r"ffn_gate_exps.* and .*ffn_up_exps.* must differ in rows alone, and have shapes \[4, 64, 32\] and \[4, 64, 64\]",
    ),
    "no router": ("granitemoehybrid", {"leave_out": "blk.0.ffn_gate_inp.weight"}, MissingTensor, r"blk\.0\.ffn_gate_inp"),
    "more experts for a token than there are": (
        "olmoe",
        {"metadata": {"olmoe.expert_used_count": 9}},
        UnsupportedModel,
        "num_experts_per_token must be at most num_experts",
    ),
    "experts, a tensor each": (
        "mixtral",
        {"extra": {"blk.0.ffn_gate.0.weight": np.zeros((64, 32), np.float32)}},
        UnsupportedModel,
        "has a tensor for each expert .* convert it again",
    ),
    "gate and up in one": (
        "qwen3_moe",
        {"extra": {"blk.0.ffn_gate_up_exps.weight": np.zeros((6, 64, 32), np.float32)}},
        UnsupportedModel,
        "gate and up of its experts in one tensor",
    ),
    "a tensor without a place": (
        "mixtral",
        {"extra": {"blk.0.exp_probs_b.bias": np.zeros(4, np.float32)}},
        UnexpectedTensor,
        "exp_probs_b",
    ),
    "no experts": ("qwen3_moe", {"metadata": {"qwen3moe.expert_count": 0}}, UnsupportedModel, "qwen3moe and has no experts"),
    "experts elsewhere": ("olmo2", {"metadata": {"olmo2.expert_count": 4}}, UnsupportedModel, "olmo2 and has experts"),
    "no key heads in some layers": (
        "granite",
        {"metadata": {"granite.attention.head_count_kv": [2, 0, 2]}},
        UnsupportedModel,
        r"as many key heads in all layers, got \[0, 2\]",
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_mixture_is_one_error(what: str, tmp_path: Path) -> None:
    name, options, error, message = MALFORMED[what]
    with pytest.raises(error, match=message) as refused:
        opened(name, tmp_path, **options)
    assert "\n" not in str(refused.value)


def test_the_documentation_says_which_families_are_read_from_gguf() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| [^|]*GGUF \|$", (ROOT / "docs/models.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(GGUF_FAMILIES)
