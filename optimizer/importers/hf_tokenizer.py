"""The tokenizer of a Hugging Face folder: tokenizer.json, or what a byte-level one was kept as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from artifacts.text_file import read_text
from optimizer.importers.byte_level import byte_level_tokenizer
from optimizer.importers.errors import DamagedFile, MissingTokenizer
from optimizer.importers.gguf_splits import named_split
from optimizer.importers.json_file import read_json

_JSON, _VOCAB, _MERGES, _CONFIG, _ADDED = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "added_tokens.json",
)
#: transformers' class, without Fast -> the split of text that it implies
_SPLITS = {"Qwen2Tokenizer": "qwen2", "GPT2Tokenizer": "gpt-2"}
_ROLES = ("unk_token", "bos_token", "eos_token", "pad_token")


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """Those that `read_tokenizer` reads, tokenizer_config.json apart."""
    names = (_JSON,) if (folder / _JSON).exists() else (_VOCAB, _MERGES, _ADDED)
    return tuple(folder / name for name in names)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Raises MissingTokenizer, which says how to write a tokenizer.json, and DamagedFile."""
    path = folder / _JSON
    if not path.exists():
        return _from_vocabulary(folder)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise DamagedFile(f"{path} is not a tokenizer: {error}") from None
    # Left over from training scripts, these would cut or pad prompts.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_vocabulary(folder: Path) -> Tokenizer:
    """As transformers' class in tokenizer_config.json makes it of vocab.json and merges.txt."""
    config = read_json(folder / _CONFIG, required=False)
    name = str(config.get("tokenizer_class")).removesuffix("Fast")
    if name not in _SPLITS or not (folder / _VOCAB).exists() or not (folder / _MERGES).exists():
        raise MissingTokenizer(
            f"{folder / _JSON} is not there, nor are {_VOCAB} and {_MERGES} of a {' or '.join(_SPLITS)}; if transformers knows "
            "this tokenizer (from tokenizer.model, say), write it with "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    lines = read_text(folder / _MERGES, _MERGES).split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    tokenizer = byte_level_tokenizer(read_json(folder / _VOCAB), merges, named_split(_SPLITS[name]))
    for token in _added_tokens(folder, config):
        tokenizer.add_tokens([token])
    return tokenizer


def _added_tokens(folder: Path, config: dict[str, Any]) -> Iterator[AddedToken]:
    """In the order of their ids, and last the special ones that are named alone."""
    stated = config.get("added_tokens_decoder", {})
    for token_id in sorted(stated, key=int):
        flags = {key: stated[token_id].get(key, False) for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        yield AddedToken(stated[token_id]["content"], **flags)
    listed = read_json(folder / _ADDED, required=False)
    roles = (config.get(role) for role in _ROLES)
    named = {token["content"] if isinstance(token, dict) else token for token in roles if token is not None}
    known = {token["content"] for token in stated.values()}
    for text in sorted(listed, key=listed.__getitem__):
        if text not in known:
            yield AddedToken(text, special=text in named, normalized=False)
    yield from (AddedToken(text, special=True, normalized=False) for text in sorted(named - known - set(listed)))
