"""The `serve` command as a process of its own."""

from __future__ import annotations

import os
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
import openai

COMMAND = Path(sys.executable).with_name("serve")


@dataclass(frozen=True)
class ServingProcess:
    """A running `serve`, and when it was started by the monotonic clock."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    started_s: float

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=60)

    def said(self) -> str:
        """What it has written to stderr so far."""
        return self.log.read_text()

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.02)


@contextmanager
def serving(bundle: Path, log: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[ServingProcess]:
    """`serve bundle` on a free port, ready; it is told to stop at the end, and must do so."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as stderr:
        started_s = time.monotonic()
        process = subprocess.Popen(
            [COMMAND, bundle, "--port", str(port), *options], stderr=stderr, env={**os.environ, **(environment or {})}
        )
        server = ServingProcess(process, port, log, started_s)
        try:
            server.wait_until_ready()
            yield server
            process.terminate()
            assert process.wait(30) == 0, server.said()
        finally:
            process.kill()
            process.wait()


def ask(server: ServingProcess, question: str, **options: Any) -> Any:
    """The answer of the only model, at temperature 0."""
    client = server.client
    (model,) = client.models.list().data
    message: Any = {"role": "user", "content": question}
    return client.chat.completions.create(model=model.id, messages=[message], temperature=0, **options)
