"""One line for each request that was answered, and log lines as JSON. Neither has anything that a client wrote, but its id."""

from __future__ import annotations

import json
import logging
import sys
import time

from starlette.types import Scope

from runtime.server.caller import CALLER

logger = logging.getLogger(__name__)


def log_access(scope: Scope, status: int | None, duration_s: float) -> None:
    """At INFO. `status` is None if the client left before its answer began. The route, not the path: clients choose that."""
    if not logger.isEnabledFor(logging.INFO):
        return
    route = getattr(scope.get("route"), "path", "other")
    fields = {"method": scope["method"], "route": route, "status": status, "duration_ms": round(duration_s * 1e3, 3)}
    logger.info("%s %s %s", scope["method"], route, status, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """A line is an object: time (ISO 8601, UTC), level, logger, message, request_id and client where a request caused it."""

    def format(self, record: logging.LogRecord) -> str:
        caller = CALLER.get()
        milliseconds = int(record.msecs)
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if caller.request_id:
            line |= {"request_id": caller.request_id, "client": caller.client}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def log_as_json() -> None:
    """All of this process's log lines from INFO on, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
