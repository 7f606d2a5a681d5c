"""What `make demo` shows of a bundle: serve it, ask it something, print what was measured when it was made."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

from openai import OpenAI

#: one that every plan within the gate answers alike: asked for the capital of France, SmolLM2 wavers between two languages
QUESTION, EXPECTED = "How many days are in a week?", re.compile(r"\b(7|seven)\b", re.IGNORECASE)
SERVE = Path(sys.executable).with_name("serve")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, server: subprocess.Popen[bytes], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"the server did not answer at {url} within {timeout_s:.0f} s")


def ask(url: str) -> tuple[str, float]:
    """The model's answer, printed as it comes, and the moment of its first token."""
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    model = client.models.list().data[0].id
    answer, first = "", 0.0
    messages = [{"role": "user", "content": QUESTION}]
    for chunk in client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=64, stream=True):  # type: ignore[arg-type]
        delta = chunk.choices[0].delta.content if chunk.choices else None
        if delta:
            first = first or time.monotonic()
            answer += delta
            print(delta, end="", flush=True)
    print()
    return answer, first


def show_measurements(bundle: Path) -> None:
    evaluation = json.loads((bundle / "evaluation.json").read_text())
    for phase, speed in evaluation["speed"].items():
        ratio = speed["speedup"]
        print(
            f"{phase:8} {ratio['value']:.2f} x unquantized, in pairs (95 %: {ratio['low']:.2f} to {ratio['high']:.2f}), "
            f"{speed['baseline_ms']:.1f} ms -> {speed['candidate_ms']:.1f} ms a step"
        )
    for name, metrics in evaluation["sets"].items():
        kl, top1 = metrics["kl"], metrics["top1_agreement"]
        print(
            f"accuracy on {name} text: KL {kl['value']:.4f} nats ({kl['low']:.4f} to {kl['high']:.4f}), "
            f"same first choice for {top1['value']:.1%} of tokens"
        )
    sizes = evaluation["baseline"]["weight_bytes"], evaluation["bundle"]["weight_bytes"]
    print(f"weights  {sizes[0] / 1e6:.0f} MB -> {sizes[1] / 1e6:.0f} MB")


def main(bundle: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    begin = time.monotonic()
    server = subprocess.Popen([SERVE, bundle, "--port", url.rpartition(":")[2]])
    try:
        wait_until_ready(url, server)
        print(f"\n> {QUESTION}")
        answer, first = ask(url)
    finally:
        server.terminate()
        server.wait(30)
    print(f"\nprocess start to first token: {first - begin:.1f} s")
    show_measurements(bundle)
    print(f"report:  {bundle / 'report.html'}")
    if not EXPECTED.search(answer):
        raise SystemExit(f"the answer does not match {EXPECTED.pattern}: something is wrong with this bundle")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
