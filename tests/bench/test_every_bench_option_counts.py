"""Every option of `coldforge bench` changes what is asked of a server, or what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from optimizer.cli import coldforge
from tests.bench.test_bench_client import KnownEndpoint, serving
from tests.options import assert_listed

BRIEF = "--prompt-tokens 9 --requests 2 --output-tokens 2 --seed 1"
#: two command lines that differ in the option alone; BUNDLE and OUT are filled in
BENCH = {
    "--prompt-tokens": (BRIEF, f"{BRIEF} --prompt-tokens 5"),
    "--concurrency": (f"{BRIEF} --concurrency 1", f"{BRIEF} --concurrency 2"),
    "--rate": (f"{BRIEF} --concurrency 1", f"{BRIEF} --rate 50"),
    "--output-tokens": (BRIEF, f"{BRIEF} --output-tokens 3"),
    "--requests": (BRIEF, f"{BRIEF} --requests 5"),
    "--ttft-ms": (f"{BRIEF} --ttft-ms 9000", f"{BRIEF} --ttft-ms 1"),
    "--itl-ms": (f"{BRIEF} --itl-ms 9000", f"{BRIEF} --itl-ms 1"),
    "--bundle": (f"{BRIEF} --concurrency 1", f"{BRIEF} --concurrency 1 --bundle BUNDLE"),
    "--model": (BRIEF, f"{BRIEF} --model other"),
    "--api-key": (f"{BRIEF} --api-key one", f"{BRIEF} --api-key other"),
    "--seed": (BRIEF, f"{BRIEF} --seed 2"),
    "--json": (BRIEF, f"{BRIEF} --json OUT"),
}


def test_every_option_is_listed() -> None:
    assert_listed("bench", {"url", "--profile", *BENCH})  # without a server: test_bench_profile.py


def measured(line: str, bundle: Path, out: Path) -> Any:
    """What the server was asked, what was written, and of what was printed that which no clock decides."""
    known = KnownEndpoint()
    words = [{"BUNDLE": str(bundle), "OUT": str(out)}.get(word, word) for word in line.split()]
    with serving(known) as url:
        result = CliRunner().invoke(coldforge, ["bench", url, *words])
    assert result.exit_code == 0, result.output
    asked = sorted(json.dumps(body, sort_keys=True) for body in known.bodies)
    good = [row.split()[-2] != "0.00" for row in result.stdout.splitlines() if "TTFT" in row and "at once" in row]
    return asked, known.max_num_open, known.keys, good, "decode:" in result.stdout, out.exists()


@pytest.mark.parametrize("option", BENCH)
def test_an_option_of_bench(option: str, tiny_bundle: Path, tmp_path: Path) -> None:
    one, other = (measured(line, tiny_bundle, tmp_path / "out.json") for line in BENCH[option])
    assert one != other, f"{option} changes nothing"
