"""Scored tokens as chats and responses word them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runtime.server.choice import ScoredToken
from runtime.server.protocol_chat import TokenLogprob, TopLogprob
from runtime.text_stream import Vocabulary


def token_logprobs(vocabulary: Vocabulary, tokens: Iterable[ScoredToken]) -> list[TokenLogprob]:
    """One entry for each of an answer's tokens, with the most likely ones in its place."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        as_bytes = vocabulary.token_bytes(token_id)
        return {"token": as_bytes.decode(errors="replace"), "logprob": logprob, "bytes": list(as_bytes)}

    entries = []
    for token in tokens:
        assert token.logprobs is not None, "a chat does not score its prompt"
        top = [TopLogprob(**entry(token_id, logprob)) for token_id, logprob in token.logprobs.top]
        entries.append(TokenLogprob(**entry(token.token_id, token.logprobs.logprob), top_logprobs=top))
    return entries
