"""Folders without a tokenizer.json, against transformers' tokenizers from the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GPT2Tokenizer, Qwen2Tokenizer

from optimizer.importers import DamagedFile, MissingTokenizer, open_source
from optimizer.importers.hf_tokenizer import read_tokenizer
from tests.importers.random_models import CONFIGS, random_model, save_folder
from tests.importers.test_gguf_tokenizer import CORPUS, TEXTS, _vocab_and_merges, byte_level_trained

ADDED = {
    "content": "<|im_start|>",
    "lstrip": False,
    "normalized": False,
    "rstrip": True,
    "single_word": False,
    "special": True,
}


@pytest.fixture(scope="module")
def vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    return _vocab_and_merges(byte_level_trained())


def write(folder: Path, vocabulary: tuple[list[str], list[tuple[str, str]]], name: str, **config: Any) -> int:
    """The number of tokens."""
    vocab, merges = vocabulary
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name} | config))
    return len(vocab)


# https://github.com/ggml-org/llama.cpp/issues/9673: which files a folder has is its writer's habit
@pytest.mark.parametrize("theirs", [Qwen2Tokenizer, GPT2Tokenizer])
@pytest.mark.parametrize("suffix", ["", "Fast"])
def test_vocabulary_and_merges(
    theirs: type, suffix: str, vocabulary: tuple[list[str], list[tuple[str, str]]], tmp_path: Path
) -> None:
    tokens = {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    count = write(tmp_path, vocabulary, f"{theirs.__name__}{suffix}", **tokens)
    decoder = {str(count): ADDED | {"content": "<|endoftext|>", "rstrip": False}, str(count + 1): ADDED}
    write(tmp_path, vocabulary, f"{theirs.__name__}{suffix}", **tokens, added_tokens_decoder=decoder)
    found = read_tokenizer(tmp_path)
    expected = theirs.from_pretrained(tmp_path)
    for text in [*TEXTS, *CORPUS[:3], "a<|im_start|>  user<|endoftext|>e\u0301"]:
        ids = found.encode(text, add_special_tokens=False).ids
        assert ids == expected(text, add_special_tokens=False).input_ids, text
        assert found.decode(ids) == expected.decode(ids, skip_special_tokens=True), text


def test_older_files_list_added_tokens_apart(vocabulary: tuple[list[str], list[tuple[str, str]]], tmp_path: Path) -> None:
    count = write(tmp_path, vocabulary, "Qwen2Tokenizer", eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|x|>": count + 1, "<|endoftext|>": count}))
    found = read_tokenizer(tmp_path)
    assert found.encode("a<|x|>b<|endoftext|>").ids == AutoTokenizer.from_pretrained(tmp_path)("a<|x|>b<|endoftext|>").input_ids
    assert {token.content: token.special for token in found.get_added_tokens_decoder().values()} == {
        "<|endoftext|>": True,
        "<|x|>": False,
    }


def test_a_folder_opens_with_them(vocabulary: tuple[list[str], list[tuple[str, str]]], tmp_path: Path) -> None:
    save_folder(random_model(CONFIGS["qwen2"]), tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    write(tmp_path, vocabulary, "Qwen2Tokenizer", eos_token="!")
    source = open_source(tmp_path)
    assert {"vocab.json", "merges.txt"} <= source.sha256().keys() and source.generation_config["eos_token"] == "!"


@pytest.mark.parametrize("name", ["LlamaTokenizer", None])
def test_another_class_is_refused(
    name: str | None, vocabulary: tuple[list[str], list[tuple[str, str]]], tmp_path: Path
) -> None:
    write(tmp_path, vocabulary, str(name))
    with pytest.raises(
        MissingTokenizer, match=r"nor are vocab\.json and merges\.txt of a Qwen2Tokenizer or GPT2Tokenizer; .*save_"
    ):
        read_tokenizer(tmp_path)


def test_merges_of_another_vocabulary(vocabulary: tuple[list[str], list[tuple[str, str]]], tmp_path: Path) -> None:
    write(tmp_path, (vocabulary[0], [("no", "pe")]), "GPT2Tokenizer")
    with pytest.raises(DamagedFile, match="do not fit together"):
        read_tokenizer(tmp_path)
