"""Follows a name of a registry: what it means now is loaded beside what is served, tried out, and takes over."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from fastapi import FastAPI

from artifacts.errors import BundleError, DeviceError, FormatVersionError, NotABundleError
from artifacts.reader import Bundle, read_manifest
from artifacts.registry import Event, NameWatch, Registry, RegistryError
from runtime.bench.bound import Peaks
from runtime.heap import free_unloaded, keep_loaded
from runtime.host_memory import NoRoomError, check_room
from runtime.loading import Loaded
from runtime.model_runner import ModelRunner
from runtime.self_test import check
from runtime.server.metrics import ServerMetrics
from runtime.server.response_store import ResponseStore
from runtime.server.served_apps import ServedApps

logger = logging.getLogger(__name__)

POLL_S = 1.0
RETRY_S = 10.0
_SHOWN = 12

Outcome = Literal["moved", "superseded", "rolled_back", "failed", "refused", "postponed"]
#: Found by this server or on this host, and not of the bundle: another server may well serve it.
_OF_THIS_SERVER = (DeviceError, FormatVersionError)
#: What may be different in a while.
_PASSING = (NoRoomError, NotABundleError, RegistryError, OSError, MemoryError)


class Follower:
    """Looks every `poll_s` seconds at what the name means. The server stays as it is until another bundle has been loaded and
    has passed its self-test; it does not wait for anything here.

    A bundle that is broken is not served, and the name is rolled back: with a reason, and only if it still means that bundle.
    One that this server cannot take is left to others. One that it cannot take now, such as for lack of memory, is tried again
    every `retry_s` seconds.
    """

    def __init__(
        self,
        watch: NameWatch,
        load: Callable[[Path], Loaded],
        make: Callable[[Loaded], FastAPI],
        metrics: ServerMetrics,
        say: Callable[[str], None],
        *,
        poll_s: float,
        retry_s: float,
    ) -> None:
        """`load` verifies a bundle, loads it and runs its self-test; `make` makes an application of it. `say` gets a line for
        what goes well; what does not is logged."""
        self._watch = watch
        self._registry = Registry(watch.root)
        self._load = load
        self._make = make
        self._metrics = metrics
        self.say = say
        self._poll_s = poll_s
        self._retry_s = retry_s
        self._trouble = ""
        self._failed_at: int | None = None
        self._retry_at_s = 0.0

    @classmethod
    def of(
        cls,
        name: str,
        root: Path,
        model_name: str,
        peaks: Peaks | None,
        open_bundle: Callable[..., Loaded],
        make: Callable[..., FastAPI],
        say: Callable[[str], None],
        *,
        poll_s: float = POLL_S,
        retry_s: float = RETRY_S,
    ) -> Follower:
        """Of `name` in the registry at `root`. `open_bundle` is `runtime.loading.load`, `make` `create_app` of what it gives;
        the figures and the kept responses of its applications are the same."""
        metrics, responses = ServerMetrics(model_name, peaks), ResponseStore()

        def load(folder: Path) -> Loaded:
            def try_out(bundle: Bundle, runner: ModelRunner) -> None:
                say(f"{bundle.manifest.digest[:_SHOWN]}: {check(bundle, runner)}")

            return open_bundle(folder, try_out=try_out)

        make = partial(make, metrics=metrics, responses=responses)
        return cls(NameWatch(root, name), load, make, metrics, say, poll_s=poll_s, retry_s=retry_s)

    def first(self) -> FastAPI:
        """What the name means at the start. Raises RegistryError, and as `load` and `make` do."""
        return self._make(self._load(self._registry.folder(self._watch.look().digest)))

    async def follow(self, apps: ServedApps) -> None:
        """Until it is cancelled, or the server drains."""
        while not apps.is_draining:
            await asyncio.sleep(self._poll_s)
            try:
                await self._look(apps)
            except Exception:
                logger.exception("following %s failed; it goes on", self._watch.name)

    async def _look(self, apps: ServedApps) -> None:
        event = await self._meaning()
        assert apps.current is not None
        if event is None or event.digest == apps.current.service.digest:
            return
        if event.sequence == self._failed_at and time.monotonic() < self._retry_at_s:
            return
        if apps.turn_back_to(event.digest):
            self._moved(event, "which it had not freed yet")
            return
        begin_s = time.monotonic()
        try:
            loaded = await asyncio.to_thread(self._load_beside, event)
            if await self._is_left_behind(event):
                del loaded
                await asyncio.to_thread(free_unloaded)
                return
            app = await asyncio.to_thread(self._make, loaded)
        except Exception as error:
            await self._fail(event, error, apps.current.service.digest or "")
            await asyncio.to_thread(free_unloaded)
            return
        if not apps.is_draining:
            await apps.serve(app)
            keep_loaded()
            self._moved(event, f"loaded and tried in {time.monotonic() - begin_s:.1f} s")

    async def _meaning(self) -> Event | None:
        """None, and one line about it, while the registry cannot be read."""
        try:
            event = await asyncio.to_thread(self._watch.look)
        except (RegistryError, OSError) as error:
            if not self._trouble:
                logger.warning("what is served stays, and %s is not followed for now: %s", self._watch.name, error)
            self._trouble = str(error)
            return None
        if self._trouble:
            self.say(f"{self._watch.name} is followed again")
            self._trouble = ""
        return event

    def _load_beside(self, event: Event) -> Loaded:
        folder = self._registry.folder(event.digest)
        check_room(read_manifest(folder))
        return self._load(folder)

    async def _is_left_behind(self, event: Event) -> bool:
        """Whether the name has moved on since `event`."""
        now = await self._meaning()
        if now is None or now.digest == event.digest:
            return False
        self._count("superseded")
        self.say(f"{event.name} moved on to {now.digest[:_SHOWN]} while {event.digest[:_SHOWN]} was loading, which is dropped")
        return True

    def _moved(self, event: Event, how: str) -> None:
        self._failed_at = None
        self._count("moved")
        self.say(
            f"{event.name} means {event.digest[:_SHOWN]} now, {how}: it answers new requests ({event.action}: {event.why})"
        )

    async def _fail(self, event: Event, error: Exception, served: str) -> None:
        is_new = event.sequence != self._failed_at
        self._failed_at, self._retry_at_s = event.sequence, time.monotonic() + self._retry_s
        stays = f"{event.name} means {event.digest[:_SHOWN]} now, and {served[:_SHOWN]} is served still"
        if isinstance(error, _PASSING):
            if is_new:
                self._count("postponed")
                logger.warning("%s: %s; it is tried again every %g s", stays, error, self._retry_s)
            return
        self._retry_at_s = float("inf")
        if isinstance(error, BundleError) and not isinstance(error, _OF_THIS_SERVER):
            logger.error("%s: %s; %s", stays, error, await asyncio.to_thread(self._roll_back, event, error))
            return
        self._count("refused")
        trace = None if isinstance(error, ValueError) else error
        logger.error("%s, which this server cannot serve: %s; the name stays where it is", stays, error, exc_info=trace)

    def _roll_back(self, event: Event, error: Exception) -> str:
        """What came of it, in words."""
        why = f"serve on {socket.gethostname()}: {' '.join(str(error).split())}"
        try:
            rollback = self._registry.rollback(event.name, why=_printable(why), expected=event.digest)
        except (RegistryError, OSError) as refusal:
            self._count("failed")
            return f"it could not be rolled back: {refusal}"
        self._count("rolled_back")
        return f"rolled back to {rollback.digest[:_SHOWN]}"

    def _count(self, outcome: Outcome) -> None:
        self._metrics.moves.labels(outcome).inc()


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in line)
