"""Being told to stop, being told twice, and a port that is not to be had."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from fastapi import FastAPI

from kernels.cpu.host import host
from runtime.cli import serve as serve_command
from runtime.server import serve
from runtime.server.lifecycle import CannotListen
from tests.server.reciting_process import reciting

ENDLESS = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True}


def never() -> FastAPI:
    raise AssertionError("nothing is loaded before the server listens")


@pytest.fixture
def taken_port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    yield listener.getsockname()[1]
    listener.close()


def test_a_second_signal_ends_at_once_and_says_what_it_cut() -> None:
    with reciting(step_time_s=0.05) as server, httpx.stream("POST", f"{server.url}/v1/completions", json=ENDLESS) as stream:
        lines = stream.iter_lines()  # without a name it would be closed, and the stream with it
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None, "it drains"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(2) == -signal.SIGTERM
        _, said = server.process.communicate()
    assert said == "stopped by a second signal: 1 open sequences are cut off\n"


def test_a_drain_that_takes_too_long_says_what_it_cut() -> None:
    with reciting(step_time_s=0.05, drain_timeout_s=0.3) as server:
        with httpx.stream("POST", f"{server.url}/v1/completions", json=ENDLESS) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGINT)
            assert list(lines)[-2] == "data: [DONE]"
        _, said = server.process.communicate(timeout=10)
        assert server.process.returncode == 0
    assert said == "1 open sequences are cut off: they have not ended within 0.3 s\n"


def test_a_signal_while_the_model_loads_ends_at_once() -> None:
    with reciting(load_s=60) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(2) == -signal.SIGTERM
        assert server.process.communicate()[1] == "stopped while the model was loading\n"


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(taken_port: int) -> None:
    with pytest.raises(CannotListen, match=f"127.0.0.1:{taken_port}; another process has that port; .* --port"):
        serve(never, "127.0.0.1", taken_port)


@pytest.mark.parametrize("address", ["203.0.113.7", "no such host", "2001:db8::7"])
def test_an_address_that_is_not_here_is_refused(address: str) -> None:
    with pytest.raises(CannotListen, match="--host"):
        serve(never, address, 0)


def test_the_command_says_so_in_one_line(taken_port: int, tmp_path: Path) -> None:
    done = CliRunner().invoke(serve_command, [str(tmp_path), "--port", str(taken_port)])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: cannot listen at 127.0.0.1:") and done.stderr.count("\n") == 1
    assert "serving" not in done.output


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--num-threads", str(host().num_cores + 1)], f"at most the {host().num_cores} cores .* got {host().num_cores + 1}"),
        (["--num-threads", "0"], "x>=1"),
        (["--max-queue", "-1"], "x>=0"),
        (["--max-wait", "0"], "x>0"),
        (["--drain-timeout", "-1"], "x>=0"),
        (["--drain-timeout", "nan"], "at least 0 seconds, got nan"),
    ],
)
def test_options_out_of_range_are_refused(options: list[str], rule: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = CliRunner().invoke(serve_command, [str(tmp_path), "--port", str(port), *options])
    assert done.exit_code != 0
    assert re.search(rule, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
