"""A Hugging Face folder: config.json, safetensors, quantized or not, tokenizer.json, generation_config.json, chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from artifacts.architecture import Architecture
from artifacts.text_file import read_text
from optimizer.importers.errors import DamagedFile
from optimizer.importers.hf_tokenizer import read_tokenizer, tokenizer_files
from optimizer.importers.json_file import read_json
from optimizer.importers.prequantized import QuantizationConfig, QuantizedCheckpoint, quantization_method
from optimizer.importers.safetensors_checkpoint import SafetensorsCheckpoint
from optimizer.importers.source import Source
from runtime.models import architecture

_MODELOPT = "hf_quant_config.json"
#: file of its own -> the method of which it is, for writers that leave config.json as it was
_QUANTIZATION_FILES = {_MODELOPT: "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
_SPECIAL_TOKENS = "special_tokens_map.json"
_OPTIONAL = (*_QUANTIZATION_FILES, "generation_config.json", "tokenizer_config.json", _SPECIAL_TOKENS)
_TEMPLATES = ("chat_template.jinja", "additional_chat_templates/*.jinja", "chat_template.json")


def open_hf_folder(folder: Path) -> Source:
    """The model in `folder`. Raises SourceError and UnsupportedModel."""
    config = read_json(folder / "config.json")
    described = architecture(config)
    stored = SafetensorsCheckpoint.open(folder)
    num_drafts = config.get("num_nextn_predict_layers", config.get("num_mtp_layers"))
    if isinstance(num_drafts, int):
        stored = stored.without_layers(described.num_layers, described.num_layers + num_drafts)
    if described.tie_embeddings:
        stored, is_tied = stored.with_tied_head()
        described = described.model_copy(update={"tie_embeddings": is_tied})
    checkpoint = _checkpoint(folder, config, stored, described)
    tokenizer = read_tokenizer(folder)
    tokenizer_config = read_json(folder / "tokenizer_config.json", required=False)
    templates = _chat_templates(folder, tokenizer_config)
    inputs = [folder / "config.json", *tokenizer_files(folder), *(folder / name for name in _OPTIONAL)]
    notes: tuple[str, ...] = ()
    if templates and "default" not in templates:
        notes = (f"chats are refused: of the chat templates {', '.join(templates)} none is named default",)
    inputs += [path for pattern in _TEMPLATES for path in sorted(folder.glob(pattern))]
    return Source(
        architecture=described,
        checkpoint=checkpoint,
        tokenizer_json=tokenizer.to_str(),
        chat_template=templates.get("default"),
        generation_config=_generation_config(folder, config, tokenizer_config, tokenizer),
        files=(*(path for path in inputs if path.exists()), *stored.files),
        notes=notes,
    )


def _checkpoint(
    folder: Path, config: dict[str, Any], stored: SafetensorsCheckpoint, described: Architecture
) -> SafetensorsCheckpoint | QuantizedCheckpoint:
    """`stored` as its quantization config has it, which is part of the config or a file of its own."""
    for key in ("quantization_config", "compression_config"):
        if config.get(key) is not None:
            method = quantization_method(config[key], f"{key} in {folder / 'config.json'}")
            return QuantizedCheckpoint.open(stored, method, described)
    for name, method_name in _QUANTIZATION_FILES.items():
        if (folder / name).exists():
            return QuantizedCheckpoint.open(stored, _method_of_file(folder / name, method_name), described)
    stored.require_floats()
    return stored


def _method_of_file(path: Path, name: str) -> QuantizationConfig:
    """What a file says that is of method `name`. DamagedFile if ModelOpt's lacks its section."""
    content: Any = read_json(path)
    if path.name == _MODELOPT:
        content = content.get("quantization")
        if not isinstance(content, dict):
            raise DamagedFile(f"{path} must have an object quantization, got {content!r}; export the checkpoint again")
    return quantization_method({"quant_method": name, **content}, str(path))


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
