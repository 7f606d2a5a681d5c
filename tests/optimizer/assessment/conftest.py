"""Two small bundles, one of them served, the files of a few sets, and strangers that speak HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optimizer.cli import coldforge
from optimizer.importers import open_source
from tests.server.serving_process import serving
from tests.small_bundle import write_small_bundle
from tests.tiny_models import random_llama, save_tiny

Evaluate = Callable[..., Result]
Stranger = Callable[..., str]
SETS = {
    "evaluation": {
        "num_sequences": 6,
        "tokens_per_sequence": 24,
        "text": ["prose.txt"],
        "sets": [{"path": "pick.jsonl", "format": "multiple_choice", "margin": "10%"}],
    },
    "gate": {"max_perplexity_increase": "1%"},
}


@pytest.fixture(scope="package")
def folder(kernels_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, `worse` of the same model with other weights, and the files of the sets."""
    folder = tmp_path_factory.mktemp("assessed")
    for name, scale in (("good", 4.0), ("worse", -4.0)):
        model = random_llama(300)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(scale if parameter.shape[0] == 300 else 4.0)
        source = open_source(save_tiny(folder / f"{name} model", model))
        write_small_bundle(folder / name, source, folder / f"{name} store", kernels_path)
    items = ({"question": f"{i}?", "choices": [f"{i}", f"a{i + 1}"], "answer": i % 2} for i in range(60))
    (folder / "pick.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "prose.txt").write_text("The quick brown fox jumps over the lazy dog, naïve as ever. " * 40)
    (folder / "sets.yaml").write_text(json.dumps(SETS))
    return folder


@pytest.fixture(scope="package")
def url(folder: Path) -> Iterator[str]:
    """The good bundle, as a process of `serve` has it."""
    with serving(folder / "good", folder / "serve.log") as server:
        yield f"http://127.0.0.1:{server.port}/v1"


@pytest.fixture
def evaluate(folder: Path, tmp_path: Path) -> Evaluate:
    """Runs the command; `sets` changes the file."""

    def run(target: object, *options: object, sets: object = None) -> Result:
        path = folder / "sets.yaml"
        if sets is not None:
            path = folder / f"{tmp_path.name}.yaml"
            path.write_text(sets if isinstance(sets, str) else json.dumps(sets))
        words = ["evaluate", str(target), "--sets", str(path), *map(str, options)]
        return CliRunner().invoke(coldforge, words, env={"COLUMNS": "200"})

    return run


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """Something that answers every request with the same; it keeps the keys that it was shown."""
    servers = []

    def start(status: int, body: bytes, keys: list[str | None] | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if keys is not None:
                    keys.append(self.headers["Authorization"])
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
