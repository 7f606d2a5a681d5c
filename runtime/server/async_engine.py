"""The engine on a thread of its own, behind asyncio."""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from runtime.engine_core import EngineCore, EngineStats, QueueFull
from runtime.request import Request, TokenOutput
from runtime.server.admission import Admission, Overloaded
from runtime.server.api_key import has_share
from runtime.server.metrics import ServerMetrics
from runtime.server.token_stream import EngineFailure, TokenStream
from runtime.step_cost import StepCost

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Add:
    requests: tuple[Request, ...]
    reply: asyncio.Future[None]
    arrival_s: float


@dataclass(frozen=True)
class _Abort:
    request_ids: tuple[str, ...]


@dataclass(frozen=True)
class _Expire:
    """These, submitted together, have waited long enough if none of them has begun."""

    request_ids: tuple[str, ...]


class AsyncEngine:
    """Runs `EngineCore.step` in a loop on one thread, which alone touches the engine; everything else posts to its inbox.

    What a single request makes a step raise ends that request. An exception of the step itself fails every open request with
    EngineFailure and the loop goes on. If the engine cannot be cleaned up after that, or fails with nothing open, it is
    `broken` and refuses new requests. `max_num_sequences` is what one request may ever ask for.
    """

    def __init__(
        self, engine: EngineCore, admission: Admission, metrics: ServerMetrics, step_cost: StepCost | None = None
    ) -> None:
        self.max_model_len = engine.max_model_len
        self.max_num_sequences = min(engine.max_num_waiting, admission.num_seats + admission.max_queue)
        self.stats: EngineStats = engine.stats()
        self.broken = False
        self._engine = engine
        self._admission = admission
        self._metrics = metrics
        self._step_cost = step_cost
        metrics.work.knows_costs |= step_cost is not None
        self._inbox: queue.SimpleQueue[_Add | _Abort | _Expire | None] = queue.SimpleQueue()
        self._streams: dict[str, TokenStream] = {}  # event loop only
        self._arrival_s_in_engine: dict[str, float] = {}  # by request id; engine thread only
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Call once, from the event loop that will use it."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def take_over(self) -> None:
        """New requests come here from now on."""
        self._metrics.engines.put_last(self._last_stats)

    async def close(self) -> None:
        """Stop after the current step; requests still open fail."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)
        self._metrics.engines.remove(self._last_stats)
        self._fail(tuple(self._streams), EngineFailure("the server has shut down"))

    def _last_stats(self) -> EngineStats:
        return self.stats

    @property
    def num_open(self) -> int:
        """Requests that are in the engine or about to be."""
        return len(self._streams)

    def check_room(self, num_new: int) -> None:
        """Raises Overloaded if a request of `num_new` sequences would be refused now, as far as the last step tells."""
        try:
            self._admission.check(num_new, self.stats)
        except Overloaded as error:
            self._metrics.rejected.labels(error.reason).inc()
            raise

    async def submit(self, requests: Sequence[Request]) -> TokenStream:
        """Add all of `requests` or none. Raises what `EngineCore.add` raises, but Overloaded for its QueueFull; EngineFailure.

        Those that have not begun when the longest wait is over fail with Overloaded.
        """
        assert self._loop is not None, "start() comes first"
        if not self._thread.is_alive():
            raise EngineFailure("the server has shut down")
        ids = tuple(request.id for request in requests)
        stream = TokenStream(ids, self._abort)
        self._streams.update(dict.fromkeys(ids, stream))
        reply: asyncio.Future[None] = self._loop.create_future()
        self._inbox.put(_Add(tuple(requests), reply, time.monotonic()))
        try:
            await reply
        except BaseException:
            stream.close()
            raise
        if math.isfinite(self._admission.max_wait_s):
            self._loop.call_later(self._admission.max_wait_s, self._inbox.put, _Expire(ids))
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

    def _fail(self, request_ids: Sequence[str], failure: EngineFailure | Overloaded) -> None:
        popped = (self._streams.pop(request_id, None) for request_id in request_ids)
        for stream in {stream for stream in popped if stream is not None}:
            stream.put(failure)

    # Everything below runs on the engine's thread.

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # a fault beside the steps; a library's panic need not be an Exception
            logger.exception("the engine's thread has failed: all open requests fail, and no more are taken")
            self.broken = True
            failure = EngineFailure(f"the engine failed: {type(error).__name__}: {error}")
            self._post(lambda: self._fail(tuple(self._streams), failure))
            while (message := self._inbox.get()) is not None:
                if isinstance(message, _Add):
                    self._post(partial(_answer, message.reply, failure))

    def _work(self) -> None:
        while self._take_messages():
            if self.broken or not self._engine.has_work():
                continue
            begin_s = time.monotonic()
            try:
                outputs = self._engine.step()
            except Exception as error:
                self._recover(error)
                continue
            end_s = time.monotonic()
            cost = () if self._step_cost is None else (self._step_cost.cost(self._engine.last_work),)
            self._metrics.work.observe(end_s, end_s - begin_s, *cost)
            for request_id in self._engine.last_started:
                self._metrics.queue_wait.observe(begin_s - self._arrival_s_in_engine[request_id])
            for output in outputs:
                if output.finish_reason is not None:
                    del self._arrival_s_in_engine[output.request_id]
            self._look()
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
            elif isinstance(message, _Expire):
                self._expire(message.request_ids)
            else:
                for request_id in message.request_ids:
                    self._forget(request_id)
            self._look()
            idle = False
        return True

    def _look(self) -> None:
        self.stats = self._engine.stats()
        self._admission.observe(time.monotonic(), self.stats)

    def _add(self, message: _Add) -> None:
        added: list[str] = []
        failure: Exception | None = EngineFailure("the engine has failed; restart the server") if self.broken else None
        try:
            if failure is None:
                client = message.requests[0].client
                num_own = self._engine.num_waiting_of(client) if has_share(client) else None
                self._admission.check(len(message.requests), self._engine.stats(), num_own)
                for request in message.requests:
                    self._engine.add(request)
                    added.append(request.id)
        except Exception as error:  # the caller's coroutine raises it
            for request_id in added:
                self._forget(request_id)
            failure = error
            if isinstance(error, QueueFull):
                failure = self._admission.full(len(message.requests), self._engine.stats())
            if isinstance(failure, Overloaded):
                self._metrics.rejected.labels(failure.reason).inc()
        else:
            self._arrival_s_in_engine.update(dict.fromkeys(added, message.arrival_s))
        self._post(partial(_answer, message.reply, failure))

    def _expire(self, request_ids: tuple[str, ...]) -> None:
        if not all(self._engine.is_queued(request_id) for request_id in request_ids):
            return
        failure = self._admission.timed_out(self._engine.stats())
        self._metrics.rejected.labels(failure.reason).inc()
        for request_id in request_ids:
            self._forget(request_id)
        self._post(partial(self._fail, request_ids, failure))

    def _forget(self, request_id: str) -> None:
        self._arrival_s_in_engine.pop(request_id, None)
        try:
            self._engine.abort(request_id)
        except Exception:
            logger.exception("aborting request %s failed; the engine takes no more requests", request_id)
            self.broken = True

    def _recover(self, error: Exception) -> None:
        request_ids = tuple(self._arrival_s_in_engine)
        logger.error("an engine step failed; its %d open requests fail", len(request_ids), exc_info=error)
        self.broken = self.broken or not request_ids
        for request_id in request_ids:
            self._forget(request_id)
        self._look()
        self._post(partial(self._fail, request_ids, EngineFailure(f"the engine failed: {type(error).__name__}: {error}")))

    def _post(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has closed: no client is left
            self._loop.call_soon_threadsafe(callback)


def _answer(reply: asyncio.Future[None], failure: Exception | None) -> None:
    if reply.done():  # the caller went away while it waited
        return
    if failure is None:
        reply.set_result(None)
    else:
        reply.set_exception(failure)
