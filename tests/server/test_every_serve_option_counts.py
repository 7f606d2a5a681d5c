"""Every option of `serve` reaches what loads, answers or listens; what each does there is for their own tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from optimizer.cli import coldforge
from runtime.loading import load
from tests.exporters.conftest import save_gpu_bundle
from tests.options import assert_listed
from tests.runtime.conftest import Tiny, tiny  # noqa: F401 - a fixture

#: an option and two values of it. A new one needs a line here.
SERVE = {
    "--registry": ("one", "other"),
    "--host": ("127.0.0.1", "0.0.0.0"),
    "--port": ("8001", "8002"),
    "--api-key": ("one", "other"),
    "--served-model-name": ("one", "other"),
    "--num-threads": ("1", "2"),
    "--max-queue": ("1", "2"),
    "--max-wait": ("1", "2"),
    "--drain-timeout": ("1", "2"),
    "--api-keys": ("one.keys", "other.keys"),
    "--stream-keep-alive": ("1", "2"),
    "--http-keep-alive": ("1", "2"),
    "--log-format": ("text", "json"),
    "--log-requests": ("one.jsonl", "other.jsonl"),
    "--peaks": ("one.json", "other.json"),
    "--tool-format": ("hermes", "none"),
    "--reasoning-format": ("think", "none"),
}


def test_every_option_is_listed() -> None:
    assert_listed("serve", {"bundle", *SERVE})


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Any]]:
    """Runs the command and gives everything that it hands on."""
    heard: list[Any] = []

    def load(*arguments: Any, **named: Any) -> Any:
        heard.append(("load", arguments, named))
        manifest = SimpleNamespace(name="tiny", digest="0" * 64)
        parts = dict.fromkeys(("engine", "tokenizer", "chat_template", "generation_config", "report", "step_cost"))
        return SimpleNamespace(manifest=manifest, **parts)

    def create_app(*arguments: Any, **named: Any) -> None:
        heard.append(("app", arguments, named))

    def serve(build: Callable[[], object], *arguments: Any, follower: Any, **named: Any) -> None:
        if follower is None:
            build()
        heard.append(("serve", arguments, named, follower and (follower._watch.name, follower._watch.root)))

    monkeypatch.chdir(tmp_path)
    for name in ("one.keys", "other.keys"):
        Path(name).write_text(f"{name}:{'0' * 64}\n")
    for value, name in enumerate(("one.json", "other.json"), start=1):
        peaks = dict.fromkeys(("memory_gbps", "float_gflops", "int8_gops"), value)
        Path(name).write_text(json.dumps({"peaks": peaks}))
    monkeypatch.setattr("runtime.server.access_log.log_as_json", lambda: heard.append("as json"))
    monkeypatch.setattr("runtime.loading.load", load)
    monkeypatch.setattr("runtime.server.app.create_app", create_app)
    monkeypatch.setattr("runtime.server.lifecycle.serve", serve)

    def run(*options: str) -> list[Any]:
        heard.clear()
        served = "tiny@production" if "--registry" in options else str(tmp_path)
        result = CliRunner().invoke(coldforge, ["serve", served, *options])
        assert result.exit_code == 0, result.output
        return list(heard)

    return run


@pytest.mark.parametrize("option", SERVE)
def test_an_option_of_serve(option: str, started: Callable[..., list[Any]]) -> None:
    one, other = (started(option, value) for value in SERVE[option])
    assert one and one != other, f"{option} changes nothing"


def test_threads_of_a_gpus_bundle_are_refused(
    tiny: Callable[[str], Tiny],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would change nothing."""
    monkeypatch.setattr("runtime.loading._gpu_arch", lambda: "sm_90")
    model = tiny("llama")
    save_gpu_bundle(tmp_path / "bundle", model, dict.fromkeys(model.architecture.linear_shapes(), "bf16"))
    with pytest.raises(
        ValueError, match="threads are for bundles that run on a CPU, this one runs on a GPU; got 2, leave it out"
    ):
        load(tmp_path / "bundle", num_threads=2)
