"""Models that are refused by name: what they have, why that is not served, and what is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4VisionConfig,
    LlamaConfig,
    LlavaConfig,
    PreTrainedModel,
    SiglipVisionConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from optimizer.importers import open_source
from runtime.models import FAMILIES, UNSERVED, UnknownArchitecture, UnservedArchitecture, architecture
from runtime.models.unserved import Unserved
from tests.house.test_words import ROOT
from tests.importers.gguf_writing import write_gguf
from tests.importers.random_models import CONFIGS, SIZES, random_model, save_folder

DOC = (ROOT / "docs/models.md").read_text(encoding="utf-8")
#: of remote code, of GGUF files alone, or of versions of transformers to come and gone by
ELSEWHERE = set(
    ["granitehybrid", "minicpm_sala", "minicpmv", "minimax_text_01", "nemotron_h_moe", "plamo2", "rwkv6", "rwkv7", "t5encoder"]
)


@pytest.mark.parametrize("row", UNSERVED, ids=lambda row: row.title)
def test_each_listed_type_is_refused_in_one_line_with_its_reason(row: Unserved) -> None:
    for name in row.types:
        with pytest.raises(UnservedArchitecture, match=f"^{re.escape(name)} is not served: it has ") as refused:
            architecture({"model_type": name})
        text = str(refused.value)
        assert row.has in text and row.because in text and "llama" in text and "\n" not in text


def test_types_are_those_of_transformers_and_stand_in_one_row_each() -> None:
    listed = [name for row in UNSERVED for name in row.types]
    assert len(set(listed)) == len(listed) and not set(listed) & set(FAMILIES)
    assert {name for name in listed if name not in CONFIG_MAPPING_NAMES} == ELSEWHERE


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("recurrent state", "qwen3_next jamba falcon_h1 bamba lfm2 minimax nemotron_h"),
        ("sparse attention", "deepseek_v32 deepseek_v4"),
        ("layers of Gemma 3n", "gemma3n_text gemma4_text"),
        ("images, video or sound", "llava qwen2_vl gemma3 qwen2_audio"),
        ("encoder and decoder", "t5 whisper"),
    ],
)
def test_a_config_tells_what_it_has_under_any_name(title: str, names: str) -> None:
    """By keys that transformers writes: a family of next year is refused for the same reason."""
    (has,) = (row.has for row in UNSERVED if row.title == title)
    for name in names.split():
        with pytest.raises(UnservedArchitecture, match=f"^of_next_year is not served: it has {re.escape(has)}"):
            architecture({**AutoConfig.for_model(name).to_dict(), "model_type": "of_next_year"})


def test_a_wrapper_says_which_text_part_is_served() -> None:
    config = LlavaConfig(text_config=LlamaConfig(**SIZES)).to_dict()
    with pytest.raises(UnservedArchitecture, match=r"served instead: its text part, a llama, saved alone \(docs/models\.md\)"):
        architecture(config)


def gemma3() -> PreTrainedModel:
    vision = SiglipVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16)
    sizes = {**SIZES, "num_hidden_layers": 1, "head_dim": 16}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=Gemma3TextConfig(**sizes), vision_config=vision))


def gemma4() -> PreTrainedModel:
    vision = Gemma4VisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, head_dim=8)
    own = {"num_hidden_layers": 1, "head_dim": 16, "global_head_dim": 16, "vocab_size_per_layer_input": SIZES["vocab_size"]}
    text = Gemma4TextConfig(**SIZES | own, hidden_size_per_layer_input=8)
    return Gemma4ForConditionalGeneration(Gemma4Config(text_config=text, vision_config=vision))


@pytest.mark.parametrize("family", ["gemma3_text", "gemma4_text"])
def test_a_text_part_saved_as_the_document_says_is_served(tmp_path: Path, family: str) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    whole = gemma3() if family == "gemma3_text" else gemma4()
    save_folder(whole, tmp_path / "whole")
    with pytest.raises(UnservedArchitecture, match=f"its text part, a {family}, saved alone"):
        open_source(tmp_path / "whole")
    names = {"AutoModelForCausalLM": AutoModelForCausalLM, "AutoModelForImageTextToText": AutoModelForImageTextToText}
    lines = re.sub(r"(?m)^(from|AutoTokenizer).*\n", "", lines)
    exec(lines, {**names, "folder": tmp_path / "whole", "text": tmp_path / "text"})
    save_folder(AutoModelForCausalLM.from_pretrained(tmp_path / "text"), tmp_path / "text")
    source = open_source(tmp_path / "text")
    assert source.architecture.family == family
    assert torch.equal(source.tensor("layers.0.down.weight"), whole.model.language_model.layers[0].mlp.down_proj.weight)


@pytest.mark.parametrize(("name", "near"), [("qwen3_mo", "qwen3_moe"), ("deepseek_v5", "deepseek_v"), ("phi", "phi3")])
def test_an_unknown_type_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownArchitecture, match=rf"says '{name}', to which .*{near}.* nearest"):
        architecture({"model_type": name})


@pytest.mark.parametrize("name", ["falcon-h1", "qwen3next", "nomic-bert", "granitehybrid"])
def test_a_gguf_file_is_refused_likewise(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnservedArchitecture, match=f"^{name} is not served"):
        model, metadata = random_model(CONFIGS["llama"]), {"general.architecture": name}
        open_source(write_gguf(tmp_path / "model.gguf", model, metadata=metadata))


def test_the_document_has_every_row() -> None:
    for row in UNSERVED:
        (line,) = (line for line in DOC.splitlines() if line.startswith(f"| {row.title} |"))
        assert re.findall(r"`([^`]+)`", line) == sorted(row.types)
    served = re.findall(r"(?m)^\| `(\w+)` \|", DOC)
    assert sorted(served) == sorted(FAMILIES)
