"""The key: what the command takes, and what a header may look like."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from runtime.cli import serve
from runtime.server import create_app


@pytest.mark.parametrize("key", ["", " ", "\t", "sesame\n", " sesame", "open sesame", "schlüssel", "\x00"])
@pytest.mark.parametrize("place", ["option", "environment"])
def test_a_key_that_cannot_be_sent_is_refused_before_anything_starts(key: str, place: str, tmp_path: Path) -> None:
    if place == "environment" and "\x00" in key:
        pytest.skip("no environment can hold it")
    options = ["--api-key", key] if place == "option" else []
    environment = {"COLDFORGE_API_KEY": key if place == "environment" else None}
    done = CliRunner().invoke(serve, [str(tmp_path), *options], env=environment)
    assert done.exit_code == 2
    assert "an API key must" in done.output and "got" in done.output and "COLDFORGE_API_KEY" in done.output
    assert "sesame" not in done.output, "a key is not told"


def test_help_names_the_variable() -> None:
    assert "COLDFORGE_API_KEY" in CliRunner().invoke(serve, ["--help"]).output


def test_an_app_is_not_made_with_such_a_key(served: Any) -> None:
    for key in ("", "a b"):
        with pytest.raises(ValueError, match="an API key must"):
            create_app(served.engine, served.tokenizer, model_name="tiny", version="1", api_key=key)


@pytest.fixture(scope="module")
def guarded(run_server: Any) -> Any:
    with run_server(api_key="sesame") as served:
        yield served


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Bearer sesame", 200),
        (b"bearer sesame", 200),
        (b"BEARER sesame", 200),
        (b"bEaReR   sesame ", 200),
        (None, 401),
        (b"", 401),
        (b"Bearer", 401),
        (b"Bearer ", 401),
        (b"sesame", 401),
        (b"Basic sesame", 401),
        (b"Bearersesame", 401),
        (b"Bearer Sesame", 401),
        (b"Bearer sesame sesame", 401),
        (b"Bearer sesam\xe9", 401),
        (b"\xff\xfe \xc3\x28", 401),
        (b"Bearer " + b"x" * 20_000, 401),
    ],
)
def test_headers_byte_for_byte(guarded: Any, header: bytes | None, status: int) -> None:
    host, port = guarded.url.removeprefix("http://").split(":")
    line = b"" if header is None else b"Authorization: " + header + b"\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + line + b"\r\n")
        assert connection.recv(100).startswith(f"HTTP/1.1 {status}".encode())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "sesame"}, 200),
        ({"X-Api-Key": "sesame", "Authorization": "Bearer other"}, 200),
        ({"x-api-key": "other", "Authorization": "Bearer sesame"}, 200),
        ({"x-api-key": "other"}, 401),
        ({"x-api-key": ""}, 401),
    ],
)
def test_the_header_of_anthropics_clients_carries_it_too(guarded: Any, headers: dict[str, str], status: int) -> None:
    assert httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == status
