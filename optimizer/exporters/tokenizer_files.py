"""The files about text of a Hugging Face folder: tokenizer, special tokens, chat template, generation config."""

from __future__ import annotations

import json
from pathlib import Path

from optimizer.exporters.logical import LogicalBundle
from runtime.chat import special_tokens


def write_tokenizer_files(logical: LogicalBundle, folder: Path) -> None:
    """tokenizer.json and chat_template.jinja as they are; the strings of special tokens move to tokenizer_config.json."""
    generation = logical.generation_config
    tokens = special_tokens(generation)
    (folder / "tokenizer.json").write_text(logical.tokenizer_json)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": logical.architecture.max_position,
        "clean_up_tokenization_spaces": False,
        **tokens,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")
    stated = {key: value for key, value in generation.items() if key not in tokens}
    (folder / "generation_config.json").write_text(json.dumps(stated, indent=2) + "\n")
    if logical.chat_template is not None:
        (folder / "chat_template.jinja").write_text(logical.chat_template)
