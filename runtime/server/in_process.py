"""A served model without HTTP: the same bodies through the same generation, on an event loop of its own thread."""

from __future__ import annotations

import asyncio
import difflib
import math
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError

from runtime.answer.whole import Answer
from runtime.generated import Delta, Generated
from runtime.loading import Loaded
from runtime.request import RequestError
from runtime.server.chat_generation import start_chat
from runtime.server.choice import Choice, Increment
from runtime.server.completion_generation import start_completion
from runtime.server.errors import ApiError
from runtime.server.faults import explain
from runtime.server.generation import Generation
from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.protocol_completion import CompletionBody
from runtime.server.service import Service
from runtime.serving_limits import MAX_QUEUE

OnAnswer = Callable[[Sequence[Generated]], None]
Body = CompletionBody | ChatCompletionBody
T = TypeVar("T")

#: What makes sense over HTTP only, or is an argument of its own.
_NOT_OPTIONS = frozenset({"model", "stream", "stream_options", "prompt", "messages"})


class InProcess:
    """Takes calls from any thread. As many requests are open at a time as keep the engine busy, not the whole batch."""

    def __init__(self, loaded: Loaded) -> None:
        self._service = Service.over(
            loaded.engine,
            loaded.tokenizer,
            model_name=loaded.manifest.name,
            chat_template=loaded.chat_template,
            generation_config=loaded.generation_config,
            max_queue=MAX_QUEUE,
            max_wait_s=math.inf,
        )
        self._num_open = 2 * loaded.engine.max_num_seqs
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="generation", daemon=True)
        self._thread.start()
        self._loop.call_soon_threadsafe(self._service.start)

    def body(self, method: str, field: str, value: object, options: Mapping[str, Any]) -> Body:
        """The request's body; `field`, "prompt" or "messages", has `value`. RequestError names what is wrong."""
        kind: type[Body] = CompletionBody if field == "prompt" else ChatCompletionBody
        given = {**options, field: value}
        try:
            body = kind.model_validate(given)
        except ValidationError as error:
            raise RequestError(*explain(error, given)) from error
        # A server ignores what it does not know; here it is a slip of the pen.
        for name in [*sorted(_NOT_OPTIONS & options.keys()), *body.unknown_fields()]:
            near = difflib.get_close_matches(name, kind.model_fields.keys() - _NOT_OPTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near and near[0] != name else "leave it out"
            raise RequestError(f"{name} is not an option of {method}; {hint}", name)
        return body

    def answers(self, bodies: Sequence[Body], on_answer: OnAnswer) -> list[Generated]:
        """All answers, in order; `on_answer` gets each body's as they come. The first failure ends the others."""
        return self._call(self._all(bodies, on_answer))

    async def stream(self, body: Body) -> AsyncIterator[Delta]:
        """The answers' pieces, for a reader in any event loop. Close it to end the generation."""
        here = asyncio.get_running_loop()
        pieces: asyncio.Queue[Delta | Exception | None] = asyncio.Queue()

        def put(piece: Delta | Exception | None) -> None:
            with suppress(RuntimeError):  # the reader's loop has closed
                here.call_soon_threadsafe(pieces.put_nowait, piece)

        pumping = asyncio.run_coroutine_threadsafe(self._pump(body, put), self._loop)
        try:
            while (piece := await pieces.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            pumping.cancel()

    def close(self) -> None:
        """End the threads; what is open fails."""
        self._call(self._service.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C comes to the caller's thread
            future.cancel()
            raise

    # Everything below runs on the event loop.

    async def _all(self, bodies: Sequence[Body], on_answer: OnAnswer) -> list[Generated]:
        answers: list[list[Generated]] = [[] for _ in bodies]
        waiting = iter(enumerate(bodies))

        async def work() -> None:
            for index, body in waiting:
                try:
                    answers[index] = await self._whole(body)
                except RequestError as error:
                    raise error if len(bodies) == 1 else RequestError(f"request {index}: {error}", error.param) from error
                on_answer(answers[index])

        num_open = max(1, self._num_open // max((body.n for body in bodies), default=1))
        workers = [asyncio.ensure_future(work()) for _ in range(min(num_open, len(bodies)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [answer for own in answers for answer in own]

    async def _whole(self, body: Body) -> list[Generated]:
        generation = await self._start(body)
        try:
            wholes = await generation.collect()
        finally:
            generation.close()
        num_prompt_tokens = generation.usage().prompt_tokens
        wants_scores = body.logprobs is not None and body.logprobs is not False
        return [
            _generated(choice, whole, num_prompt_tokens, wants_scores)
            for choice, whole in zip(generation.choices, wholes, strict=True)
        ]

    async def _pump(self, body: Body, put: Callable[[Delta | Exception | None], None]) -> None:
        try:
            generation = await self._start(body)
            try:
                async for choice, increment in generation.increments():
                    put(Delta(choice.index, increment.text, increment.events, increment.finish_reason))
            finally:
                generation.close()
        except Exception as error:
            put(error)
        put(None)

    async def _start(self, body: Body) -> Generation:
        about_num_bytes = len(repr(body))
        try:
            if isinstance(body, CompletionBody):
                return await start_completion(self._service, body, about_num_bytes)
            return await start_chat(self._service, body, about_num_bytes, "chat")
        except ApiError as error:
            raise RequestError(error.detail, error.param) from error


def _generated(choice: Choice, whole: Increment, num_prompt_tokens: int, wants_scores: bool) -> Generated:
    answer = Answer.of(whole.events)
    assert whole.finish_reason is not None
    return Generated(
        text=answer.text,
        token_ids=tuple(choice.token_ids),
        finish_reason=whole.finish_reason,
        logprobs=tuple(token.logprobs for token in whole.tokens) if wants_scores else None,
        reasoning=answer.reasoning,
        tool_calls=answer.calls,
        num_prompt_tokens=num_prompt_tokens,
        num_cached_tokens=choice.num_cached_tokens,
    )
