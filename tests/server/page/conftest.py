"""A browser on the page at /, and servers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright import sync_api

from tests.chromium import chromium

REPORT = b'<!DOCTYPE html><body style="margin: 3px"><h1>Measured</h1><script>parent.document.title = "taken"</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens the page of a server. Whatever it complains of or asks of other servers fails the test."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def visit(served: Any, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if "Failed to load resource" not in said.text else None)
        page.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith(
            (served.url, "data:,", f"blob:{served.url}")) else None)  # fmt: skip
        page.goto(served.url)
        return page

    visit.complaints = complaints  # type: ignore[attr-defined]
    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def slow(run_server: Any) -> Iterator[Any]:
    """A server whose tokens take 10 ms each."""
    with run_server(runner_options={"step_time_s": 0.01}, report=REPORT) as served:
        yield served


@pytest.fixture(scope="module")
def guarded(run_server: Any) -> Iterator[Any]:
    with run_server(api_key="sesame", report=REPORT) as served:
        yield served
