"""The applications of a server, one for each bundle in memory: the one that new requests go to, and those that end theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from runtime.heap import free_unloaded
from runtime.server.service import Service


class ServedApp:
    """One bundle's, from its start until it is closed. A request is its own from first to last, whatever is served by then."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.service: Service = app.state.service
        self.num_open = 0
        self._lifespan = AsyncExitStack()
        self._may_be_idle = asyncio.Event()
        self._closing: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_open += 1
        try:
            # A copy: an idle connection keeps its last scope, and with what is put into that the whole application.
            await self.app(dict(scope), receive, send)
        finally:
            self.num_open -= 1
            self._may_be_idle.set()

    async def start(self) -> None:
        await self._lifespan.enter_async_context(self.app.router.lifespan_context(self.app))

    async def idle(self) -> None:
        """Returns once no request is open, be it whole, half sent or half answered."""
        while self.num_open:
            self._may_be_idle.clear()
            await self._may_be_idle.wait()

    @property
    def is_closing(self) -> bool:
        return self._closing is not None

    async def close(self) -> None:
        """Whoever else waits for it, and is cancelled meanwhile, does not stop it."""
        self._closing = self._closing or asyncio.ensure_future(self._lifespan.aclose())
        await asyncio.shield(self._closing)


class ServedApps:
    """`current` is what new requests go to, None while the first one loads. Lives in the event loop.

    One that is no longer current is drained, closed and freed, however long its requests take. `say` then gets a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.current: ServedApp | None = None
        self.is_draining = False
        self._say = say
        self._ending: list[ServedApp] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def num_open(self) -> int:
        """Open sequences of all applications."""
        return sum(served.service.engine.num_open for served in self._all())

    async def serve(self, app: FastAPI) -> None:
        """Let new requests go to `app`."""
        served = ServedApp(app)
        await served.start()
        self._turn_to(served)

    def turn_back_to(self, digest: str) -> bool:
        """Let new requests go to the bundle of `digest` again, if it still ends its requests; whether it does."""
        found = next((one for one in self._ending if one.service.digest == digest and not one.is_closing), None)
        if found is None:
            return False
        self._ending.remove(found)
        found.service.take_over()
        self._turn_to(found)
        return True

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self.is_draining = True
        for served in self._all():
            served.service.draining = True

    async def cut(self) -> None:
        """End the engines; requests still open fail."""
        for served in self._all():
            await served.service.engine.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for served in self._all():
            await served.close()

    def _all(self) -> list[ServedApp]:
        return [*self._ending, *([self.current] if self.current else [])]

    def _turn_to(self, served: ServedApp) -> None:
        before, self.current = self.current, served
        if before is not None:
            self._ending.append(before)
            task = asyncio.create_task(self._retire(before))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _retire(self, served: ServedApp) -> None:
        begin_s = time.monotonic()
        await served.idle()
        if served not in self._ending or served.is_closing:  # it serves again, or an earlier call closes it
            return
        digest = served.service.digest or "no digest"
        await served.close()
        self._ending.remove(served)
        served.service.empty()
        del served
        await asyncio.to_thread(free_unloaded)
        self._say(f"the bundle {digest[:12]} is out of memory; its last request ended {time.monotonic() - begin_s:.1f} s after")
