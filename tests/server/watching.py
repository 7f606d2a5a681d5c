"""What others notice meanwhile: a process of its own asks /health all the while."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_WATCH = """
import json, sys, threading, time, httpx
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
seconds = []
with httpx.Client(timeout=10) as client:
    while not ended.wait(0.05):
        start_s = time.monotonic()
        client.get(sys.argv[1] + "/health").raise_for_status()
        seconds.append(time.monotonic() - start_s)
print(json.dumps(seconds))
"""


@contextmanager
def watching_health(url: str) -> Iterator[list[float]]:
    """The list has, once the context is left, the seconds of each answer; twenty times a second it is asked for."""
    seconds: list[float] = []
    command = [sys.executable, "-c", _WATCH, url]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield seconds
            said, _ = process.communicate(timeout=30)
            seconds += json.loads(said)
        finally:
            process.kill()
