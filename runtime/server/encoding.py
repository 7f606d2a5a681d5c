"""A prompt's text -> token ids, unless it is plain from its size that they are too many. For a worker's thread."""

from __future__ import annotations

from runtime.reasoning import Reasoning
from runtime.server.answer_grammar import answer_grammar
from runtime.server.answer_reading import answer_reading, reasoning_in
from runtime.server.generation import Prompt, too_long
from runtime.server.prompts import render_chat, truncate
from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.service import Service


def encode_text(service: Service, text: str, add_special_tokens: bool, cut: int | None) -> list[int]:
    """Ids of `text`, before they are cut. Raises ApiError 400, before it is encoded, if it cannot fit and is not to be cut."""
    if cut is None and service.text_bound is not None:
        _check(service, service.text_bound.min_num_tokens(text))
    return service.prompts.encode(text, add_special_tokens)


def encode_chat(service: Service, body: ChatCompletionBody) -> Prompt:
    """The chat, and what reads answers to it. Raises ApiError 400 as `encode_text` does; a message is at least one token."""
    cut = body.truncate_prompt_tokens
    if cut is None:
        _check(service, len(body.messages))
    text = render_chat(service.prompts, body)
    token_ids = encode_text(service, text, body.add_special_tokens, cut)
    kept = truncate(token_ids, cut, service.engine.max_model_len, body.num_answer_tokens)
    formats, vocabulary = service.prompts.formats, service.vocabulary
    grammar = answer_grammar(formats, body, vocabulary.special_tokens)
    reasoning = reasoning_in(formats, body, text, vocabulary)
    if grammar is not None and reasoning is not None and not _can_be_told_apart(reasoning):
        reasoning = None
    return Prompt(kept, reading=answer_reading(formats, body, text), grammar=grammar, reasoning=reasoning)


def _can_be_told_apart(reasoning: Reasoning) -> bool:
    """Whether the first token tells thoughts from a call: `<think>` in pieces begins as `<tool_call>` in pieces does."""
    return reasoning.is_open or len(reasoning.begin_token_ids) == 1


def _check(service: Service, min_num_tokens: int) -> None:
    if min_num_tokens > service.engine.max_model_len:
        raise too_long(f"at least {min_num_tokens}", service.engine.max_model_len)
