"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from fastapi import Request
from starlette.responses import Response

from runtime.request import Logprobs
from runtime.server.choice import Increment, ScoredToken
from runtime.server.generation import Generation, start
from runtime.server.prompts import truncate
from runtime.server.protocol_completion import Completion, CompletionBody, CompletionChoice, CompletionLogprobs
from runtime.server.protocol_generation import StreamOptions, Usage
from runtime.server.service import Service
from runtime.server.streaming import EventStream, json_response
from runtime.text_stream import Vocabulary

_DEFAULT_MAX_TOKENS = 16


async def create_completion(service: Service, body: CompletionBody, http: Request) -> Response:
    """The text that follows each prompt: JSON, or server-sent events."""
    service.check_model(body.model)
    service.check_accepting()
    vocabulary = service.vocabulary
    prompts: list[list[int]] = []
    echo_texts: list[str] = []
    for given in body.prompts:
        whole = service.prompts.encode(given, body.add_special_tokens) if isinstance(given, str) else given
        prompt = truncate(whole, body.truncate_prompt_tokens, service.engine.max_model_len, body.num_answer_tokens)
        prompts.append(prompt)
        if isinstance(given, str) and prompt == whole:
            echo_texts.append(given)
        else:
            echo_texts.append(vocabulary.decode(vocabulary.visible(prompt, skip_special_tokens=True)))
    generation = await start(
        service,
        body,
        prompts,
        id_prefix="cmpl",
        max_tokens=body.max_tokens,
        default_max_tokens=_DEFAULT_MAX_TOKENS,
        logprobs=body.logprobs,
        echo_texts=echo_texts if body.echo else (),
    )
    answer = _Answer(generation, vocabulary, wants_logprobs=body.logprobs is not None)
    if body.stream:
        return EventStream(answer.chunks(body.stream_options), generation.close)
    return await json_response(http.receive, answer.whole(), generation.close)


class _Answer:
    def __init__(self, generation: Generation, vocabulary: Vocabulary, wants_logprobs: bool) -> None:
        self._generation = generation
        self._vocabulary = vocabulary
        self._wants_logprobs = wants_logprobs

    async def whole(self) -> Completion:
        wholes = await self._generation.collect()
        choices = [self._choice(index, whole) for index, whole in enumerate(wholes)]
        return self._completion(choices, {"usage": self._generation.usage()})

    async def chunks(self, options: StreamOptions) -> AsyncIterator[Completion]:
        async for choice, increment in self._generation.increments():
            part = self._choice(choice.index, increment)
            yield self._completion([part], self._generation.chunk_usage(options))
        if options.include_usage:
            yield self._completion([], {"usage": self._generation.usage()})

    def _completion(self, choices: list[CompletionChoice], usage: dict[str, Usage | None]) -> Completion:
        generation = self._generation
        return Completion(
            id=generation.id,
            object="text_completion",
            created=generation.created,
            model=generation.model,
            choices=choices,
            **usage,
        )

    def _choice(self, index: int, increment: Increment) -> CompletionChoice:
        logprobs = self._logprobs(increment.tokens) if self._wants_logprobs else None
        return CompletionChoice(index=index, text=increment.text, logprobs=logprobs, finish_reason=increment.finish_reason)

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> CompletionLogprobs:
        text = self._vocabulary.token_text
        return CompletionLogprobs(
            tokens=[text(token.token_id) for token in tokens],
            token_logprobs=[None if token.logprobs is None else token.logprobs.logprob for token in tokens],
            top_logprobs=[None if token.logprobs is None else self._top(token.logprobs) for token in tokens],
            text_offset=[token.text_offset for token in tokens],
        )

    def _top(self, logprobs: Logprobs) -> dict[str, float]:
        """The most likely tokens and, as in OpenAI's answers, the token itself. Of two with one text the likelier counts."""
        top: dict[str, float] = {}
        for token_id, logprob in (*logprobs.top, (logprobs.token_id, logprobs.logprob)):
            top.setdefault(self._vocabulary.token_text(token_id), logprob)
        return top
