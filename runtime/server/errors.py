"""What clients are told when something is refused or fails: OpenAI's error body, one type for all of it."""

from __future__ import annotations

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from runtime.server.admission import Overloaded

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ApiError(HTTPException):
    """A refusal or failure with its HTTP status; `param` is the request field it is about, `code` a fixed word."""

    def __init__(
        self,
        status_code: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        headers = None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        super().__init__(status_code, message, headers)
        self.param = param
        self.code = code


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400."""
    return ApiError(400, message, param=param, code=code)


def error_body(status_code: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    """`{"error": {message, type, param, code}}`."""
    kind = _TYPES.get(status_code, "server_error" if status_code >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def on_http_error(_: Request, error: Exception) -> JSONResponse:
    """Handler of `ApiError` and of the router's own 404 and 405."""
    assert isinstance(error, HTTPException)
    body = error_body(error.status_code, error.detail, getattr(error, "param", None), getattr(error, "code", None))
    return JSONResponse(body, error.status_code, error.headers)


async def on_validation_error(_: Request, error: Exception) -> JSONResponse:
    """A body that does not fit its model: 400 with the first fault and the field that has it."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    path = ".".join(str(part) for part in fault["loc"][1:])
    message = fault["msg"].removeprefix("Value error, ")
    return JSONResponse(error_body(400, f"{path}: {message}" if path else message, path or None), 400)


async def on_overload(_: Request, error: Exception) -> JSONResponse:
    """429 with the time after which to come back."""
    assert isinstance(error, Overloaded)
    body = error_body(429, str(error), code=error.reason)
    return JSONResponse(body, 429, {"Retry-After": str(error.retry_after_s)})


async def on_engine_failure(_: Request, error: Exception) -> JSONResponse:
    """500 with what the engine said."""
    return JSONResponse(error_body(500, str(error)), 500)


async def on_failure(_: Request, error: Exception) -> JSONResponse:
    """Anything unforeseen: 500. The server's log has the traceback."""
    return JSONResponse(error_body(500, f"the server failed: {type(error).__name__}"), 500)
