"""The tests' reciting server in a process of its own: what happens to it happens to no test."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class RecitingProcess:
    url: str
    process: subprocess.Popen[str]


@contextmanager
def reciting(*, load_s: float = 0, step_time_s: float = 0, drain_timeout_s: float = 30) -> Iterator[RecitingProcess]:
    """Listening, and ready unless loading takes time; killed at the end."""
    with process_of(
        "tests.server.reciting_process", load_s, step_time_s, drain_timeout_s, status=503 if load_s else 200
    ) as server:
        yield server


@contextmanager
def process_of(module: str, *arguments: float, status: int = 200) -> Iterator[RecitingProcess]:
    """`module` as a server: it is run with a port and `arguments`, and /health answers `status`. Killed at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", module, *map(str, (port, *arguments))]
    process = subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True)
    server = RecitingProcess(f"http://127.0.0.1:{port}", process)
    try:
        _wait(server, status)
        yield server
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _wait(server: RecitingProcess, status: int) -> None:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        assert server.process.poll() is None
        try:
            if httpx.get(f"{server.url}/health").status_code == status:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.02)
    raise AssertionError("the server does not come up")


def _main(port: int, load_s: float, step_time_s: float, drain_timeout_s: float) -> None:
    from runtime.chat import ChatTemplate
    from runtime.engine_core import EngineCore
    from runtime.server import create_app, serve
    from tests.server.conftest import RECITAL, TEMPLATE, RecitingRunner, make_tokenizer

    def build() -> Any:
        time.sleep(load_s)
        tokenizer = make_tokenizer()
        recital = tokenizer.encode(RECITAL, add_special_tokens=False).ids
        runner = RecitingRunner(tokenizer.get_vocab_size(), recital, step_time_s=step_time_s)
        template = ChatTemplate(TEMPLATE, bos_token="<s>", eos_token="</s>")
        return create_app(EngineCore(runner, []), tokenizer, model_name="tiny", version="1", chat_template=template)

    serve(build, "127.0.0.1", port, drain_timeout_s)


if __name__ == "__main__":
    _main(int(sys.argv[1]), *map(float, sys.argv[2:]))
