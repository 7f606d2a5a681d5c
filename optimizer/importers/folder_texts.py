"""The files about text of a Hugging Face folder, which other formats have beside them, too: tokenizer, template, ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from artifacts.text_file import read_text
from optimizer.importers.errors import DamagedFile
from optimizer.importers.hf_tokenizer import read_tokenizer, tokenizer_files
from optimizer.importers.json_file import read_json

_SPECIAL_TOKENS = "special_tokens_map.json"
_OPTIONAL = ("generation_config.json", "tokenizer_config.json", _SPECIAL_TOKENS)
_TEMPLATES = ("chat_template.jinja", "additional_chat_templates/*.jinja", "chat_template.json")


@dataclass(frozen=True)
class FolderTexts:
    """As `Source` has them; `files` are those that were read."""

    tokenizer_json: str
    chat_template: str | None
    generation_config: dict[str, object]
    files: tuple[Path, ...]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path, config: dict[str, Any]) -> FolderTexts:
        """`config` is the model's, which may state BOS and EOS. Raises MissingTokenizer, DamagedFile."""
        tokenizer = read_tokenizer(folder)
        tokenizer_config = read_json(folder / "tokenizer_config.json", required=False)
        templates = _chat_templates(folder, tokenizer_config)
        notes: tuple[str, ...] = ()
        if templates and "default" not in templates:
            notes = (f"chats are refused: of the chat templates {', '.join(templates)} none is named default",)
        inputs = [*tokenizer_files(folder), *(folder / name for name in _OPTIONAL)]
        inputs += [path for pattern in _TEMPLATES for path in sorted(folder.glob(pattern))]
        return cls(
            tokenizer_json=tokenizer.to_str(),
            chat_template=templates.get("default"),
            generation_config=_generation_config(folder, config, tokenizer_config, tokenizer),
            files=tuple(path for path in inputs if path.exists()),
            notes=notes,
        )


def _chat_templates(folder: Path, tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """By name, from where transformers has them: files, else tokenizer_config.json, else the file of a processor."""
    own, further, of_processor = (sorted(folder.glob(pattern)) for pattern in _TEMPLATES)
    files = {**dict.fromkeys(own, "default"), **{path: path.stem for path in further}}
    stated: Any = {name: read_text(path, "a chat template") for path, name in files.items()}
    stated = stated or tokenizer_config.get("chat_template")
    if stated is None and of_processor:
        stated = read_json(of_processor[0]).get("chat_template")
    if isinstance(stated, list) and all(isinstance(entry, dict) for entry in stated):
        stated = {entry.get("name"): entry.get("template") for entry in stated}
    named: dict[str, str] = {} if stated is None else stated if isinstance(stated, dict) else {"default": stated}
    if not all(isinstance(text, str) for text in (*named, *named.values())):
        raise DamagedFile(f"the chat template in {folder} must be a string, or strings by name")
    return named


def _generation_config(
    folder: Path, config: dict[str, Any], tokenizer_config: dict[str, Any], tokenizer: Tokenizer
) -> dict[str, object]:
    """generation_config.json, with what it leaves out about BOS and EOS from config.json and the tokenizer's config."""
    special: dict[str, object] = dict(_special_tokens(folder, tokenizer_config))
    for name in ("bos_token", "eos_token"):
        token_id = config.get(f"{name}_id")
        if token_id is None and name in special:
            token_id = tokenizer.token_to_id(str(special[name]))
        if token_id is not None:
            special[f"{name}_id"] = token_id
    stated = read_json(folder / "generation_config.json", required=False)
    return special | {key: value for key, value in stated.items() if value is not None}


def _special_tokens(folder: Path, tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """Texts by name, as transformers gives them to a chat template; an older file counts where the config lists no tokens."""
    further = tokenizer_config.get("extra_special_tokens")
    stated = {**tokenizer_config, **(further if isinstance(further, dict) else {})}
    if "added_tokens_decoder" not in tokenizer_config:
        stated |= read_json(folder / _SPECIAL_TOKENS, required=False)
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in stated.items()}
    return {name: text for name, text in texts.items() if name.endswith("_token") and isinstance(text, str)}
