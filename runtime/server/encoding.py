"""A prompt's text -> token ids, unless it is plain from its length that they are too many. For a worker's thread."""

from __future__ import annotations

from runtime.server.generation import too_long
from runtime.server.service import Service


def encode(service: Service, text: str, add_special_tokens: bool, truncate_prompt_tokens: int | None) -> list[int]:
    """Ids of `text`. Raises ApiError 400, before it is encoded, if it cannot fit and is not to be cut."""
    if truncate_prompt_tokens is None and service.text_bound is not None:
        least, most = service.text_bound.min_num_tokens(text), service.engine.max_model_len
        if least > most:
            raise too_long(f"at least {least}", most)
    return service.prompts.encode(text, add_special_tokens)
