"""A registry of small bundles, and a server that follows a name of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from artifacts.manifest import Limits, Manifest
from artifacts.reader import read_manifest
from artifacts.registry import Registry
from artifacts.self_test import SELF_TEST_NAME, SelfTest
from optimizer.importers import open_source
from runtime.loading import Loaded, load, open_runner
from runtime.self_test import record
from runtime.server import Server, create_app, follower
from runtime.server.follower import Follower
from tests.small_bundle import LIMITS, write_small_bundle
from tests.tiny_models import TEMPLATE, byte_tokenizer, random_llama, save_tiny
from tests.waiting import wait_for

NAME = "tiny@production"
PROMPTS = ([5, 6, 7, 8], [9] * 20)


def write_bundle(folder: Path, library: Path, seed: int, template: str = TEMPLATE, limits: Limits = LIMITS) -> Path:
    """A bundle that answers as no other `seed` does, with its answers recorded."""
    model = random_llama(byte_tokenizer().get_vocab_size())
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head = model.lm_head.weight
        head.copy_(torch.randn(head.shape, generator=draw))
    source = open_source(save_tiny(folder / "model", model, template=template))
    plain = write_small_bundle(folder / "plain", source, folder / "store", library, limits=limits)
    _, runner = open_runner(plain)
    files = {SELF_TEST_NAME: record(runner, PROMPTS, 8, bits=True).to_bytes()}
    return write_small_bundle(folder / "bundle", source, folder / "store", library, limits=limits, more=files)


def with_other_records(bundle: Path, folder: Path, library: Path) -> Path:
    """The bundle in its own folder once more, but for one token of an answer that it does not give."""
    test = SelfTest.parse((bundle / SELF_TEST_NAME).read_bytes())
    first = test.prompts[0]
    answer = (*first.answer[:3], first.answer[3] ^ 1, *first.answer[4:])
    lie = test.model_copy(update={"prompts": (first.model_copy(update={"answer": answer}), *test.prompts[1:])})
    source = open_source(bundle.parent / "model")
    return write_small_bundle(folder, source, bundle.parent / "store", library, more={SELF_TEST_NAME: lie.to_bytes()})


def digest_of(bundle: Path) -> str:
    return read_manifest(bundle).digest


def fingerprint(digest: str) -> str:
    return f"fp_{digest[:12]}"


def flip_a_byte(registry: Registry, digest: str) -> None:
    """Of the weights of a bundle that is in the registry."""
    path = registry.folder(digest) / "weights" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x10
    path.write_bytes(content)


class Loading:
    """Holds loads up, until they may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        check_room = follower.check_room

        def held_up(manifest: Manifest) -> None:
            check_room(manifest)
            self.begun.set()
            assert self.may_end.wait(20)

        monkeypatch.setattr(follower, "check_room", held_up)


@dataclass
class Following:
    """A server that follows NAME, and the lines that it said."""

    url: str
    server: Server
    said: list[str]

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", **{"max_retries": 0, "timeout": 20} | options)

    def metrics(self) -> dict[str, float]:
        """The samples by name, with the values of their labels behind it."""
        text = httpx.get(f"{self.url}/metrics").text
        families = text_string_to_metric_families(text)
        return {" ".join((s.name, *s.labels.values())): s.value for family in families for s in family.samples}

    def digest(self) -> str:
        """Of the bundle that answers new requests."""
        (card,) = httpx.get(f"{self.url}/v1/models").json()["data"]
        return str(card["digest"])

    def wait_for(self, digest: str) -> None:
        """Until that bundle answers."""
        wait_for(lambda: self.digest() == digest)

    def wait_for_one(self) -> None:
        """Until no other bundle is in memory."""
        wait_for(lambda: self.metrics()["coldforge_bundles_loaded"] == 1)


@contextmanager
def following(root: Path, **polling: float) -> Iterator[Following]:
    """In a thread; drained, and its thread joined, at the end."""

    def make(loaded: Loaded, **outliving: Any) -> Any:
        return create_app(
            loaded.engine,
            loaded.tokenizer,
            model_name="tiny",
            version="0",
            chat_template=loaded.chat_template,
            generation_config=loaded.generation_config,
            digest=loaded.manifest.digest,
            **outliving,
        )

    said: list[str] = []
    options = {"poll_s": 0.02, "retry_s": 0.1} | polling
    follows = Follower.of(NAME, root, "tiny", None, load, make, said.append, **options)
    server = Server(follows.first, "127.0.0.1", 0, 10.0, follower=follows)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started and (server.loading.app or server.loading.failure))
        assert server.loading.failure is None, server.loading.failure
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Following(f"http://127.0.0.1:{port}", server, said)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
