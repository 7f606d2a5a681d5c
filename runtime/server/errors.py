"""What clients are told when something is refused or fails: in OpenAI's error body, or in Anthropic's on its routes."""

from __future__ import annotations

import difflib

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from runtime.request import RequestError
from runtime.server.admission import Overloaded
from runtime.server.wording import shown, shown_name

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_ANTHROPIC_PATHS = "/v1/messages"
_ANTHROPIC_TYPES = _TYPES | {413: "request_too_large", 503: "overloaded_error"}
_LONGEST_MESSAGE = 2000


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


def error_body(
    status_code: int, message: str, param: str | None = None, code: str | None = None, *, path: str = ""
) -> dict[str, object]:
    """`{"error": {message, type, param, code}}`, or `{"type": "error", "error": {type, message}}` if `path` is Anthropic's."""
    if len(message) > _LONGEST_MESSAGE:  # a chat template may say what it was given
        message = f"{message[:_LONGEST_MESSAGE]}..."
    if path.startswith(_ANTHROPIC_PATHS):
        kind = _ANTHROPIC_TYPES.get(status_code, "api_error" if status_code >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = _TYPES.get(status_code, "server_error" if status_code >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Handler of `ApiError` and of the router's own 404 and 405."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if isinstance(error, ApiError):
        body = error_body(error.status_code, error.detail, error.param, error.code, path=path)
    elif error.status_code in (404, 405):
        body = error_body(error.status_code, _no_such_route(request), code="unknown_url", path=path)
    else:
        body = error_body(error.status_code, error.detail, path=path)
    return JSONResponse(body, error.status_code, error.headers)


def _no_such_route(request: Request) -> str:
    """Says which routes there are, and which of them is likely meant."""
    methods = {path: ", ".join(sorted(ways)).upper() for path, ways in request.app.openapi()["paths"].items()}
    path = request.scope["path"]
    if path in methods:
        return f"{path} is asked with {methods[path]}, got {shown_name(request.method)}"
    # A forgotten or doubled /v1, or the path of one route behind that of another.
    inside = [known for known in methods if known.endswith(path) or path.endswith(known) or path.startswith(f"{known}/")]
    near = (inside if path.strip("/") else []) or difflib.get_close_matches(path, methods, n=1, cutoff=0.8)
    hint = f"did you mean {methods[near[0]]} {near[0]}? " if near else ""
    routes = ", ".join(f"{method} {known}" for known, method in methods.items())
    return f"there is no route {shown_name(request.method)} {shown(path)}; {hint}There are {routes}"


async def on_request_error(request: Request, error: Exception) -> JSONResponse:
    """400 with the field at fault."""
    assert isinstance(error, RequestError)
    return JSONResponse(error_body(400, str(error), error.param, path=request.url.path), 400)


async def on_overload(request: Request, error: Exception) -> JSONResponse:
    """429 with the time after which to come back."""
    assert isinstance(error, Overloaded)
    body = error_body(429, str(error), code=error.reason, path=request.url.path)
    return JSONResponse(body, 429, {"Retry-After": str(error.retry_after_s)})


async def on_engine_failure(request: Request, error: Exception) -> JSONResponse:
    """500 with what the engine said."""
    return JSONResponse(error_body(500, str(error), path=request.url.path), 500)


async def on_failure(request: Request, error: Exception) -> JSONResponse:
    """Anything unforeseen: 500. The server's log has the traceback."""
    return JSONResponse(error_body(500, f"the server failed: {type(error).__name__}", path=request.url.path), 500)
