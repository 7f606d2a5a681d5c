"""Chat templates, special tokens and ends of sequence of a folder, as transformers' own tokenizer finds them there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig

from optimizer.importers import DamagedFile, open_source
from runtime.generation_config import eos_token_ids
from runtime.loading import chat_template_of
from tests.importers.gguf_writing import TOKENIZER, write_gguf
from tests.importers.random_models import CONFIGS, random_model, save_folder

CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
CHAT = [{"role": "user", "content": "Hi"}]
#: what the file of templates has -> it
FILES: dict[str, dict[str, Any]] = {
    "a string": {"tokenizer_config.json": {"chat_template": "S{{ eos_token }}"}},
    "named": {
        "tokenizer_config.json": {
            "chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
        }
    },
    "an object": {"tokenizer_config.json": {"chat_template": {"default": "D", "rag": "R"}}},
    "no default": {"tokenizer_config.json": {"chat_template": [{"name": "tool_use", "template": "T"}]}},
    "none": {"tokenizer_config.json": {}},
    "a file": {"tokenizer_config.json": {"chat_template": "S"}, "chat_template.jinja": "F\n\n"},
    "files": {"chat_template.jinja": "F", "additional_chat_templates/rag.jinja": "R"},
    "further files alone": {"tokenizer_config.json": {"chat_template": "S"}, "additional_chat_templates/rag.jinja": "R"},
    "a default among further files": {
        "additional_chat_templates/default.jinja": "D",
        "additional_chat_templates/rag.jinja": "R",
    },
    "special tokens": {
        "tokenizer_config.json": {
            "bos_token": {"__type": "AddedToken", "content": "<s>"},
            "pad_token": "</s>",
            "image_token": "<s>",
            "chat_template": "{{ bos_token }}{{ eos_token is defined }}{{ pad_token }}{{ image_token }}{{ unk_token }}",
        }
    },
    "special tokens of an older file": {
        "tokenizer_config.json": {"eos_token": "<s>", "chat_template": "{{ bos_token }}{{ eos_token }}"},
        "special_tokens_map.json": {"bos_token": {"content": "<s>", "lstrip": False, "rstrip": False}, "eos_token": "</s>"},
    },
    "special tokens of an older file that does not count": {
        "tokenizer_config.json": {"eos_token": "<s>", "added_tokens_decoder": {}, "chat_template": "{{ eos_token }}"},
        "special_tokens_map.json": {"eos_token": "</s>"},
    },
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(random_model(CONFIGS["llama"]), tmp_path_factory.mktemp("saved"))


def folder_with(saved: Path, folder: Path, files: dict[str, Any]) -> Path:
    for path in saved.iterdir():
        if path.name not in files:
            (folder / path.name).symlink_to(path)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(CLASS | content if "tokenizer" in name else content)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_templates_and_special_tokens(name: str, saved: Path, tmp_path: Path) -> None:
    source = open_source(folder_with(saved, tmp_path, {"tokenizer_config.json": {}} | FILES[name]))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    template = chat_template_of(source.chat_template, source.generation_config)
    try:
        expected = theirs.apply_chat_template(CHAT, tokenize=False)
    except ValueError:
        assert template is None
        assert any("none is named default" in note for note in source.notes) == (theirs.chat_template is not None)
    else:
        assert template is not None and template.render(CHAT, add_generation_prompt=False) == expected
        for path in tmp_path.rglob("*.jinja"):
            assert path in source.files


def test_a_processors_file_counts_where_there_is_no_other(saved: Path, tmp_path: Path) -> None:
    files = {"tokenizer_config.json": {}, "chat_template.json": {"chat_template": "P"}}
    assert open_source(folder_with(saved, tmp_path, files)).chat_template == "P"
    (tmp_path / "chat_template.jinja").write_text("F")
    assert open_source(tmp_path).chat_template == "F"


@pytest.mark.parametrize(
    "template", ["{% if %}", "{{ x | no_such_filter }}", 5, [{"name": "default"}], {"default": None}, ["x"]]
)
def test_a_template_that_is_none_is_one_error(template: Any, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"chat[ _]template"):
        open_source(folder_with(saved, tmp_path, {"tokenizer_config.json": {"chat_template": template}}))


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": [1, 5]}, None, [1, 5]),
        ({"eos_token_id": 5}, {"eos_token_id": None}, [5]),
        ({"eos_token_id": 5}, {"eos_token_id": [7, 1]}, [7, 1]),
        ({"eos_token_id": None}, {}, [1]),
    ],
)
def test_ends_that_the_generation_config_does_not_say(
    config: dict[str, Any], generation: dict[str, Any] | None, expected: list[int], saved: Path, tmp_path: Path
) -> None:
    files = {
        "config.json": json.loads((saved / "config.json").read_text()) | config,
        "tokenizer_config.json": {"eos_token": "</s>"},
    }
    files["generation_config.json"] = generation or {}
    source = open_source(folder_with(saved, tmp_path, files))
    assert eos_token_ids(source.generation_config) == expected
    if generation and generation["eos_token_id"]:
        assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == expected


@pytest.mark.parametrize("ends", ["</s>", [1, None], -1, 1 << 40, {"id": 1}, [[1]]])
def test_ends_that_are_no_tokens_are_one_error(ends: Any, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="eos_token_id must be a token id, or a list of them, got"):
        open_source(folder_with(saved, tmp_path, {"generation_config.json": {"eos_token_id": ends}}))


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def test_a_folder_whose_template_ends_turns_otherwise(saved: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(saved / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    end = tokenizer.token_to_id("<|im_end|>")
    source = open_source(folder_with(saved, tmp_path, {"tokenizer.json": tokenizer.to_str(), "chat_template.jinja": CHATML}))
    assert eos_token_ids(source.generation_config) == [1, end]
    assert any(f"'<|im_end|>', token {end}, which is not among the ends of sequence 1" in note for note in source.notes)


def test_a_gguf_file_whose_template_ends_turns_otherwise(tmp_path: Path) -> None:
    tokens: list[str] = [*TOKENIZER["tokens"]]  # type: ignore[misc]
    names = {40: "<|im_start|>", 41: "<|im_end|>", 42: "<|eom_id|>", 43: "<|eot_id|>"}
    for at, name in names.items():
        tokens[at] = name
    types = [3 if token in ("<s>", "</s>", *names.values()) else 1 for token in tokens]
    tokenizer = TOKENIZER | {"tokens": tokens, "token_type": types, "eot_token_id": 43}
    path = write_gguf(
        tmp_path / "m.gguf",
        random_model(CONFIGS["llama"]),
        GGMLQuantizationType.F32,
        metadata={"tokenizer.chat_template": CHATML},
        tokenizer=tokenizer,
    )
    source = open_source(path)
    assert source.generation_config["eos_token_id"] == [1, 43, 41, 42]
    assert sum("which is not among the ends of sequence 1, 43" in note for note in source.notes) == 2
