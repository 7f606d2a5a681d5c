"""kill -9 in the middle of an answer, and the same command again at the same port."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.server.serving_process import COMMAND, ServingProcess, ask
from tests.server.smollm2_bundle import write_smollm2_bundle

SERVING_AGAIN_S = 2.0
QUESTION = "What is the capital of France?"


@pytest.mark.slow
@pytest.mark.alone
def test_killed_and_started_again_it_serves_within_two_seconds(smollm2_gguf: Path, kernels_path: Path, tmp_path: Path) -> None:
    bundle = write_smollm2_bundle(smollm2_gguf, kernels_path, tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    times_s = []
    for attempt in range(6):
        log = tmp_path / f"stderr-{attempt}"
        with log.open("wb") as stderr:
            started_s = time.monotonic()
            process = subprocess.Popen([COMMAND, bundle, "--port", str(port)], stderr=stderr)
            try:
                server = ServingProcess(process, port, log, started_s)
                server.wait_until_ready()
                stream = ask(server, QUESTION, max_tokens=64, stream=True)
                next(chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
                times_s.append(time.monotonic() - started_s)
            finally:
                process.kill()  # while it answers
                process.wait()
        if attempt and min(times_s[1:]) < SERVING_AGAIN_S:
            break  # another process can only make it slower
    assert min(times_s[1:]) < SERVING_AGAIN_S, times_s
