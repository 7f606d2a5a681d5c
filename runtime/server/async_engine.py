"""The engine on a thread of its own, behind asyncio."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from runtime.engine import Engine, EngineStats
from runtime.request import Request, TokenOutput

logger = logging.getLogger(__name__)


class EngineFailure(RuntimeError):
    """A step failed, or the engine has stopped; the open requests are lost."""


@dataclass(frozen=True)
class _Add:
    requests: tuple[Request, ...]
    reply: asyncio.Future[None]


@dataclass(frozen=True)
class _Abort:
    request_ids: tuple[str, ...]


class TokenStream:
    """The outputs of requests submitted together, as they come. Lives in the event loop; close it, or iterate to its end."""

    def __init__(self, request_ids: Sequence[str], abort: Callable[[Sequence[str]], None]) -> None:
        self._open = set(request_ids)
        self._abort = abort
        self._outputs: asyncio.Queue[TokenOutput | EngineFailure] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[TokenOutput]:
        """Yields until every request has finished or been aborted. Raises EngineFailure."""
        while self._open:
            output = await self._outputs.get()
            if isinstance(output, EngineFailure):
                self._open.clear()
                raise output
            if output.request_id not in self._open:
                continue
            if output.finish_reason is not None:
                self._open.discard(output.request_id)
            yield output

    def put(self, output: TokenOutput | EngineFailure) -> None:
        self._outputs.put_nowait(output)

    def abort(self, request_id: str) -> None:
        """End one of the requests; the others go on."""
        if request_id in self._open:
            self._open.discard(request_id)
            self._abort([request_id])

    def close(self) -> None:
        """Abort whatever has not finished."""
        if self._open:
            self._abort(tuple(self._open))
            self._open.clear()


class AsyncEngine:
    """Runs `Engine.step` in a loop on one thread, which alone touches the engine; everything else posts to its inbox.

    An exception in a step fails every open request with EngineFailure and the loop goes on. If the engine cannot be cleaned up
    after that, or fails with nothing open, it is `broken` and refuses new requests.
    """

    def __init__(self, engine: Engine) -> None:
        self.max_model_len = engine.max_model_len
        self.stats: EngineStats = engine.stats()
        self.broken = False
        self._engine = engine
        self._inbox: queue.SimpleQueue[_Add | _Abort | None] = queue.SimpleQueue()
        self._streams: dict[str, TokenStream] = {}  # event loop only
        self._ids_in_engine: set[str] = set()  # engine thread only
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Call once, from the event loop that will use it."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Stop after the current step; requests still open fail."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)
        self._fail(tuple(self._streams), EngineFailure("the server has shut down"))

    @property
    def num_open(self) -> int:
        """Requests that are in the engine or about to be."""
        return len(self._streams)

    async def submit(self, requests: Sequence[Request]) -> TokenStream:
        """Add all of `requests` or none. Raises what `Engine.add` raises, and EngineFailure."""
        assert self._loop is not None, "start() comes first"
        if not self._thread.is_alive():
            raise EngineFailure("the server has shut down")
        ids = tuple(request.id for request in requests)
        stream = TokenStream(ids, self._abort)
        self._streams.update(dict.fromkeys(ids, stream))
        reply: asyncio.Future[None] = self._loop.create_future()
        self._inbox.put(_Add(tuple(requests), reply))
        try:
            await reply
        except BaseException:
            stream.close()
            raise
        return stream

    def _abort(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            self._streams.pop(request_id, None)
        self._inbox.put(_Abort(tuple(request_ids)))

    def _deliver(self, outputs: Sequence[TokenOutput]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            if output.finish_reason is not None:
                del self._streams[output.request_id]
            stream.put(output)

    def _fail(self, request_ids: Sequence[str], failure: EngineFailure) -> None:
        popped = (self._streams.pop(request_id, None) for request_id in request_ids)
        for stream in {stream for stream in popped if stream is not None}:
            stream.put(failure)

    # Everything below runs on the engine's thread.

    def _run(self) -> None:
        while self._take_messages():
            if self.broken or not self._engine.has_work():
                continue
            try:
                outputs = self._engine.step()
            except Exception as error:
                self._recover(error)
                continue
            self._ids_in_engine.difference_update(o.request_id for o in outputs if o.finish_reason is not None)
            self.stats = self._engine.stats()
            if outputs:
                self._post(partial(self._deliver, outputs))

    def _take_messages(self) -> bool:
        """Handle what is in the inbox, waiting for something if there is nothing else to do. False to stop."""
        idle = self.broken or not self._engine.has_work()
        while idle or not self._inbox.empty():
            message = self._inbox.get()
            if message is None:
                return False
            if isinstance(message, _Add):
                self._add(message)
            else:
                for request_id in message.request_ids:
                    self._forget(request_id)
            self.stats = self._engine.stats()
            idle = False
        return True

    def _add(self, message: _Add) -> None:
        added: list[str] = []
        failure: Exception | None = EngineFailure("the engine has failed; restart the server") if self.broken else None
        try:
            for request in message.requests if failure is None else ():
                self._engine.add(request)
                added.append(request.id)
        except Exception as error:  # the caller's coroutine raises it
            failure = error
            for request_id in added:
                self._forget(request_id)
        else:
            self._ids_in_engine.update(added)
        self._post(partial(_answer, message.reply, failure))

    def _forget(self, request_id: str) -> None:
        self._ids_in_engine.discard(request_id)
        try:
            self._engine.abort(request_id)
        except Exception:
            logger.exception("aborting request %s failed; the engine takes no more requests", request_id)
            self.broken = True

    def _recover(self, error: Exception) -> None:
        request_ids = tuple(self._ids_in_engine)
        logger.error("an engine step failed; its %d open requests fail", len(request_ids), exc_info=error)
        self.broken = self.broken or not request_ids
        for request_id in request_ids:
            self._forget(request_id)
        self.stats = self._engine.stats()
        self._post(partial(self._fail, request_ids, EngineFailure(f"the engine failed: {type(error).__name__}: {error}")))

    def _post(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback)


def _answer(reply: asyncio.Future[None], failure: Exception | None) -> None:
    if reply.done():  # the caller went away while it waited
        return
    if failure is None:
        reply.set_result(None)
    else:
        reply.set_exception(failure)
