"""Who asks: known to everything that a request causes, without being handed on."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """`request_id` is the header x-request-id, ours where the client sent none; `client` the name of its API key, or ""."""

    request_id: str = ""
    client: str = ""


#: Set for each request; tasks that it starts inherit it, threads do not.
CALLER: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 - frozen
