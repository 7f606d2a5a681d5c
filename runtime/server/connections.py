"""Connections that send no whole request: uvicorn would wait for ever."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """uvicorn's own, which closes a connection that has been open, or has sent something, and no request for too long.

    Bodies have a time of their own, which `gate` keeps.
    """

    headers_timeout_s = 30.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.headers_timeout_s, self._close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._lacks_request():
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.headers_timeout_s, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _lacks_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close(self) -> None:
        self._timer = None
        if self._lacks_request():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
