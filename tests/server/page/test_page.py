"""GET / and /report over HTTP: what they are, who may see them, and what a browser is told to forbid."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime.server import page_route
from tests.server.page.conftest import REPORT

PAGE = (Path(page_route.__file__).with_name("page") / "index.html").read_text(encoding="utf-8")
SCRIPT = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
KEY = {"Authorization": "Bearer sesame"}


def test_the_page_is_there_without_a_key(guarded: Any) -> None:
    answer = httpx.get(f"{guarded.url}/")
    assert (answer.status_code, answer.text) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "no-referrer"


def test_only_its_own_script_may_run(guarded: Any) -> None:
    policy = httpx.get(f"{guarded.url}/").headers["content-security-policy"]
    (script,) = SCRIPT
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["script-src"] == f"'sha256-{digest}'" and rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'" and rules["frame-ancestors"] == "'none'" and rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'", "no markup is made of strings"


def test_it_needs_nothing_else() -> None:
    assert not re.search(r"https?://|@import|url\(|<link [^>]*stylesheet|<script [^>]*src|<img", PAGE)
    assert re.findall(r'(?:src|href)="([^"]*)"', PAGE) == ["data:,", "/report"]


@pytest.mark.parametrize("sink", ["innerHTML", "outerHTML", "insertAdjacentHTML", "write(", "eval(", "Function(", "srcdoc"])
def test_nothing_becomes_markup_or_code(sink: str) -> None:
    assert sink not in SCRIPT[0]


def test_the_script_can_be_read_at_a_sitting() -> None:
    assert len(SCRIPT[0].splitlines()) < 400
    assert max(map(len, SCRIPT[0].splitlines())) <= 140


def test_the_figures_that_it_reads_are_there(served: Any) -> None:
    (table,) = re.findall(r"const METRICS = \{(.*?)\};", PAGE, re.DOTALL)
    names = re.findall(r'"(\w+)"', table)
    exposition = httpx.get(f"{served.url}/metrics").text
    assert len(names) == 6 and all(re.search(rf"^{name}[ {{]", exposition, re.MULTILINE) for name in names)


def test_the_fields_that_it_sends_are_served() -> None:
    from runtime.server.protocol_chat import ChatCompletionBody

    names = re.findall(r'<input name="(\w+)"', PAGE)
    assert set(names) >= {"temperature", "top_p", "max_tokens", "seed"}
    assert set(names) <= ChatCompletionBody.model_fields.keys()


def test_the_report_is_for_those_with_the_key(guarded: Any) -> None:
    assert httpx.get(f"{guarded.url}/report").status_code == 401
    answer = httpx.get(f"{guarded.url}/report", headers=KEY)
    assert (answer.status_code, answer.content) == (200, REPORT)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "sandbox" in policy and "script-src" not in policy


def test_a_bundle_without_a_report_says_so(served: Any) -> None:
    answer = httpx.get(f"{served.url}/report")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "no_report"
    assert "this bundle has no report.html" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path"), [("POST", "/"), ("DELETE", "/"), ("POST", "/report")])
def test_they_are_only_read(served: Any, method: str, path: str) -> None:
    answer = httpx.request(method, served.url + path, json={})
    assert answer.status_code == 405 and answer.headers["allow"] == "GET"


def test_they_are_no_part_of_the_api(served: Any) -> None:
    assert not {"/", "/report"} & httpx.get(f"{served.url}/openapi.json").json()["paths"].keys()


def test_their_answers_are_counted(served: Any) -> None:
    httpx.get(f"{served.url}/")
    assert 'coldforge_http_responses_total{route="/",status="200"}' in httpx.get(f"{served.url}/metrics").text
