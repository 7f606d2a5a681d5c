"""Responses as JSON. Long ones are made by a worker, and in pieces, for Python's lock is held while one is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pydantic_core
from pydantic import BaseModel

from runtime.server.protocol_generation import to_json
from runtime.server.workers import Workers

_MAX_TOKENS_AT_ONCE = 64
_BYTES_PER_TOKEN = 1024
_NUM_AT_ONCE = 1024
#: response, choice, logprobs: an entry of the last is small
_DEPTH = 3


async def json_text(workers: Workers, build: Callable[[], BaseModel], num_scored_tokens: int) -> str:
    """What `build` returns, as JSON; `num_scored_tokens` is how many tokens it describes one by one."""
    if num_scored_tokens <= _MAX_TOKENS_AT_ONCE:
        return to_json(build())
    return await workers.run(num_scored_tokens * _BYTES_PER_TOKEN, lambda: "".join(json_pieces(build())))


def json_pieces(value: object, depth: int = _DEPTH) -> Iterator[str]:
    """`to_json(value)` in pieces: fields one by one down to `depth` models, the items of lists in groups."""
    if isinstance(value, BaseModel) and depth:
        opening = "{"
        for name in type(value).model_fields:
            if name in value.model_fields_set:
                yield f'{opening}"{name}":'
                yield from json_pieces(getattr(value, name), depth - 1)
                opening = ","
        yield "}" if opening == "," else "{}"
    elif isinstance(value, BaseModel):
        yield to_json(value)
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        for index, item in enumerate(value):
            yield "," if index else "["
            yield from json_pieces(item, depth)
        yield "]"
    elif isinstance(value, list) and len(value) > _NUM_AT_ONCE:
        for start in range(0, len(value), _NUM_AT_ONCE):
            yield "," if start else "["
            yield _dumps(value[start : start + _NUM_AT_ONCE])[1:-1]
        yield "]"
    else:
        yield _dumps(value)


def _dumps(value: object) -> str:
    return pydantic_core.to_json(value, inf_nan_mode="null").decode()
