"""A Hugging Face folder: config.json, safetensors, quantized or not, tokenizer.json, generation_config.json, chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from artifacts.architecture import Architecture
from optimizer.importers.errors import DamagedFile
from optimizer.importers.folder_texts import FolderTexts
from optimizer.importers.json_file import read_json
from optimizer.importers.prequantized import QuantizationConfig, QuantizedCheckpoint, quantization_method
from optimizer.importers.safetensors_checkpoint import SafetensorsCheckpoint
from optimizer.importers.source import Source
from runtime.models import architecture, without_effect

_MODELOPT = "hf_quant_config.json"
#: file of its own -> the method of which it is, for writers that leave config.json as it was
_QUANTIZATION_FILES = {_MODELOPT: "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}


def open_hf_folder(folder: Path) -> Source:
    """The model in `folder`. Raises SourceError and UnsupportedModel."""
    config = read_json(folder / "config.json")
    described = architecture(config)
    stored = SafetensorsCheckpoint.open(folder)
    num_drafts = config.get("num_nextn_predict_layers", config.get("num_mtp_layers"))
    if isinstance(num_drafts, int):
        stored = stored.without_layers(described.num_layers, described.num_layers + num_drafts)
    stored = stored.without_effect(lambda name: without_effect(described, name))
    if described.tie_embeddings:
        stored, is_tied = stored.with_tied_head()
        described = described.model_copy(update={"tie_embeddings": is_tied})
    checkpoint = _checkpoint(folder, config, stored, described)
    texts = FolderTexts.read(folder, config)
    inputs = [folder / "config.json", *(folder / name for name in _QUANTIZATION_FILES)]
    return Source(
        architecture=described,
        checkpoint=checkpoint,
        tokenizer_json=texts.tokenizer_json,
        chat_template=texts.chat_template,
        generation_config=texts.generation_config,
        files=(*(path for path in inputs if path.exists()), *texts.files, *stored.files),
        notes=texts.notes,
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
