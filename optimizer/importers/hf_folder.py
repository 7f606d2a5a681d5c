"""A Hugging Face folder: config.json, safetensors, quantized or not, tokenizer.json, generation_config.json, chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from artifacts.architecture import Architecture
from optimizer.importers.errors import DamagedFile
from optimizer.importers.hf_tokenizer import read_tokenizer, tokenizer_files
from optimizer.importers.json_file import read_json
from optimizer.importers.prequantized import Method, QuantizedCheckpoint, quantization_method
from optimizer.importers.safetensors_checkpoint import SafetensorsCheckpoint
from optimizer.importers.source import Source
from runtime.models import architecture

_MODELOPT = "hf_quant_config.json"
#: file of its own -> the method of which it is, for writers that leave config.json as it was
_QUANTIZATION_FILES = {_MODELOPT: "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
_OPTIONAL = (*_QUANTIZATION_FILES, "generation_config.json", "tokenizer_config.json", "chat_template.jinja")


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
    inputs = [folder / "config.json", *tokenizer_files(folder), *(folder / name for name in _OPTIONAL)]
    return Source(
        architecture=described,
        checkpoint=checkpoint,
        tokenizer_json=tokenizer.to_str(),
        chat_template=_chat_template(folder, tokenizer_config),
        generation_config=_generation_config(folder, config, tokenizer_config, tokenizer),
        files=(*(path for path in inputs if path.exists()), *stored.files),
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


def _method_of_file(path: Path, name: str) -> Method:
    """What a file says that is of method `name`. DamagedFile if ModelOpt's lacks its section."""
    content: Any = read_json(path)
    if path.name == _MODELOPT:
        content = content.get("quantization")
        if not isinstance(content, dict):
            raise DamagedFile(f"{path} must have an object quantization, got {content!r}; export the checkpoint again")
    return quantization_method({"quant_method": name, **content}, str(path))


def _chat_template(folder: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """chat_template.jinja, else tokenizer_config.json's: one string, or named ones of which `default` counts."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _generation_config(
    folder: Path, config: dict[str, Any], tokenizer_config: dict[str, Any], tokenizer: Tokenizer
) -> dict[str, object]:
    """generation_config.json, with what it leaves out about BOS and EOS from config.json and the tokenizer's config."""
    special: dict[str, object] = {}
    for name in ("bos_token", "eos_token"):
        token = tokenizer_config.get(name)
        if token is not None:
            special[name] = text = token["content"] if isinstance(token, dict) else token
            special[f"{name}_id"] = tokenizer.token_to_id(text)
        if config.get(f"{name}_id") is not None:
            special[f"{name}_id"] = config[f"{name}_id"]
    stated = read_json(folder / "generation_config.json", required=False)
    return special | {key: value for key, value in stated.items() if value is not None}
