"""GET / and /report: the page for a person with a browser, and the report of the bundle that is served."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from runtime.server.errors import ApiError

_PAGE = Path(__file__).with_name("page") / "index.html"
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
#: Attributes of the report have styles, so that no digest could name them all; without a source they can load nothing.
_STYLED = "style-src 'unsafe-inline'; img-src data:"
_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def add(router: APIRouter, report: bytes | None) -> None:
    """Put both routes on `router`; `report` is the bundle's report.html, None if it has none. They are in no list of an API."""
    page = _PAGE.read_bytes()
    policy = page_policy(page)

    @router.get("/", include_in_schema=False)
    async def page_at_root() -> Response:
        return _html(page, policy)

    @router.get("/report", include_in_schema=False)
    async def bundle_report() -> Response:
        if report is None:
            raise ApiError(404, "this bundle has no report.html; `optimize` writes one", code="no_report")
        return _html(report, f"{_NOTHING}; {_STYLED}; sandbox")


def page_policy(page: bytes) -> str:
    """The Content-Security-Policy of a page: its own scripts and no other, requests to its own server, no markup from strings.

    The report is shown in a frame without scripts, which inherits this policy.
    """
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"{_NOTHING}; script-src {sources}; {_STYLED}; connect-src 'self'; frame-src blob:; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _html(content: bytes, policy: str) -> Response:
    headers = {**_HEADERS, "Content-Security-Policy": policy}
    return Response(content, media_type="text/html", headers=headers)
