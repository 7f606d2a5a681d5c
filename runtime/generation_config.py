"""generation_config.json: where generation ends, and how tokens are chosen where a request says nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from artifacts.errors import UserError
from runtime.request import RequestError, SamplingParams

_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty")
_COUNTS = {"top_k": -1, "max_new_tokens": 1}
_TEXTS = ("bos_token", "eos_token")


def eos_token_ids(config: Mapping[str, Any]) -> list[int]:
    """The tokens at which generation ends."""
    ids = config.get("eos_token_id")
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def check_generation_config(config: object, vocab_size: int) -> dict[str, Any]:
    """`config` if a server can do what it says, for a model of `vocab_size` tokens; null means the same as absent.

    Fields that are not read here may hold anything. Raises UserError that names the field, the rule and the value.
    """
    if not isinstance(config, dict):
        raise UserError(f"generation_config.json must hold an object, got {config!r:.100}")
    for token in eos_token_ids(config):
        if not _is_integer(token) or not 0 <= token < vocab_size:
            raise _fault("eos_token_id", f"a token id between 0 and {vocab_size - 1}, or a list of such", token)
    for name in _TEXTS:
        if not isinstance(config.get(name) or "", str):
            raise _fault(name, "a string", config[name])
    present = {name: config[name] for name in (*_FLOATS, *_COUNTS) if config.get(name) is not None}
    for name, value in present.items():
        if name in _COUNTS:
            if not _is_integer(value) or value < _COUNTS[name]:
                raise _fault(name, f"an integer of at least {_COUNTS[name]}", value)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _fault(name, "a finite number", value)
    try:
        replace(SamplingParams(), **{name: present[name] for name in _FLOATS if name in present})
    except RequestError as error:
        raise UserError(f"generation_config.json: {error}") from error
    return config


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fault(name: str, rule: str, value: object) -> UserError:
    return UserError(f"generation_config.json: {name} must be {rule}; got {value!r:.100}")
