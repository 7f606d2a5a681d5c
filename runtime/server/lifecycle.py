"""From a listening socket to a clean exit: answers while the model loads, drains when told to stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from artifacts.errors import UserError
from runtime.heap import keep_loaded
from runtime.server.connections import TimedProtocol
from runtime.server.errors import error_body
from runtime.server.follower import Follower
from runtime.server.served_apps import ServedApps
from runtime.server.service import Service
from runtime.serving_limits import DRAIN_TIMEOUT_S, HTTP_KEEP_ALIVE_S

logger = logging.getLogger(__name__)
_FLUSH_TIMEOUT_S = 5


class CannotListen(UserError):
    """The address or the port is not to be had."""


class LoadingApp:
    """Answers 503 until `build` has returned on a thread of its own, and is that application from then on.

    With a `follower`, it is another bundle's after each move. If `build` fails, `failure` is set and `on_error` is called.
    """

    def __init__(self, build: Callable[[], FastAPI], on_error: Callable[[], None], follower: Follower | None = None) -> None:
        self.apps = ServedApps(logger.info if follower is None else follower.say)
        self.failure: BaseException | None = None
        self._build = build
        self._on_error = on_error
        self._follower = follower

    @property
    def app(self) -> FastAPI | None:
        """The application that new requests go to; None while the first one loads."""
        return None if self.apps.current is None else self.apps.current.app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif self.apps.current is None:
            response = JSONResponse(error_body(503, "the model is loading", path=scope["path"]), 503, {"Retry-After": "1"})
            await response(scope, receive, send)
        else:
            await self.apps.current(scope, receive, send)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        loading = asyncio.create_task(self._load())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await self.apps.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _load(self) -> None:
        try:
            await self.apps.serve(await asyncio.to_thread(self._build))
        except Exception as error:  # raised again by `serve`, where there is somebody to catch it
            self.failure = error
            self._on_error()
            return
        if self._follower is not None:
            await self._follower.follow(self.apps)


class Server(uvicorn.Server):
    """The first SIGTERM or SIGINT drains: new generations get 503, open ones finish, for at most `drain_timeout_s`.

    A second signal, or one while the model loads, ends the process at once, by that signal.
    """

    def __init__(
        self,
        build: Callable[[], FastAPI],
        host: str,
        port: int,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
        *,
        http_keep_alive_s: int = HTTP_KEEP_ALIVE_S,
        logs_as_json: bool = False,
        follower: Follower | None = None,
    ) -> None:
        """`logs_as_json`: the process's own log takes uvicorn's lines too. `follower` goes on from what `build` has made."""
        self.loading = LoadingApp(build, self._exit, follower)
        super().__init__(
            uvicorn.Config(
                self.loading,
                host=host,
                port=port,
                http=TimedProtocol,
                lifespan="on",
                access_log=False,
                log_config=None if logs_as_json else uvicorn.config.LOGGING_CONFIG,
                log_level="warning",
                timeout_keep_alive=http_keep_alive_s,
                timeout_graceful_shutdown=_FLUSH_TIMEOUT_S,
            )
        )
        if not drain_timeout_s >= 0:
            raise UserError(f"drain_timeout must be at least 0 seconds, got {drain_timeout_s}")
        self._drain_timeout_s = drain_timeout_s
        self._drain_deadline_s = 0.0
        self._is_cut = False

    @property
    def service(self) -> Service | None:
        """Of the bundle that new requests go to; None while the model loads."""
        current = self.loading.apps.current
        return None if current is None else current.service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        apps = self.loading.apps
        if apps.current is None:
            _end_at_once(sig, "stopped while the model was loading")
        elif apps.is_draining:
            _end_at_once(sig, f"stopped by a second signal: {apps.num_open} open sequences are cut off")
        else:
            logger.info("draining %d open sequences", apps.num_open)
            apps.drain()
            self._drain_deadline_s = time.monotonic() + self._drain_timeout_s

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's own tick, ten times a second; true ends its main loop."""
        apps = self.loading.apps
        if apps.is_draining:
            if time.monotonic() > self._drain_deadline_s and not self._is_cut:
                self._is_cut = True
                num_open, after_s = apps.num_open, self._drain_timeout_s
                logger.warning("%d open sequences are cut off: they have not ended within %g s", num_open, after_s)
                await apps.cut()
            self.should_exit = self.should_exit or apps.num_open == 0
        return await super().on_tick(counter)

    def _exit(self) -> None:
        self.should_exit = True


def serve(
    build: Callable[[], FastAPI],
    host: str,
    port: int,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    *,
    http_keep_alive_s: int = HTTP_KEEP_ALIVE_S,
    logs_as_json: bool = False,
    follower: Follower | None = None,
) -> None:
    """Listen at once, load with `build`, serve until told to stop. Options as `Server` has them.

    Raises what `build` raises, and CannotListen, before anything is loaded.
    """

    def build_to_stay() -> FastAPI:
        app = build()
        keep_loaded()
        return app

    listener = listen(host, port)
    server = Server(
        build_to_stay,
        host,
        port,
        drain_timeout_s,
        http_keep_alive_s=http_keep_alive_s,
        logs_as_json=logs_as_json,
        follower=follower,
    )
    server.run([listener])
    if server.loading.failure is not None:
        raise server.loading.failure


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to the address. Raises CannotListen with what to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            fix = "--host must be an address of this machine"
        elif error.errno == errno.EADDRINUSE:
            fix = "another process has that port; choose a free one with --port"
        else:
            fix = f"{error.strerror}: choose another --host or --port"
        raise CannotListen(f"cannot listen at {host}:{port}; {fix}") from error


def _end_at_once(sig: int, line: str) -> None:
    logger.warning(line)
    signal.signal(sig, signal.SIG_DFL)
    signal.raise_signal(sig)
