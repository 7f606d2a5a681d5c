"""The tokens of requests as they leave the engine, for one reader in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from runtime.request import RequestError, TokenOutput
from runtime.server.admission import Overloaded


class EngineFailure(RuntimeError):
    """A step failed, or the engine has stopped; the open requests are lost."""


class RequestFailure(EngineFailure):
    """One request could not go on; others have not noticed."""


class TokenStream:
    """The outputs of requests submitted together, as they come. Lives in the event loop; close it, or iterate to its end."""

    def __init__(self, request_ids: Sequence[str], abort: Callable[[Sequence[str]], None]) -> None:
        self._open = set(request_ids)
        self._abort = abort
        self._outputs: asyncio.Queue[TokenOutput | EngineFailure | Overloaded] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[TokenOutput]:
        """Yields until every request has finished or been aborted.

        Raises EngineFailure; Overloaded if none was ever begun; RequestError if one asks for more than can be done.
        """
        while self._open:
            output = await self._outputs.get()
            if isinstance(output, EngineFailure | Overloaded):
                self._open.clear()
                raise output
            if output.request_id not in self._open:
                continue
            if output.finish_reason is not None:
                self._open.discard(output.request_id)
            if isinstance(output.error, RequestError):
                raise output.error
            if output.error is not None:
                raise RequestFailure(f"the request failed: {type(output.error).__name__}: {output.error}") from output.error
            yield output
            # With more in the queue nothing above would let other coroutines run.
            await asyncio.sleep(0)

    def put(self, output: TokenOutput | EngineFailure | Overloaded) -> None:
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
