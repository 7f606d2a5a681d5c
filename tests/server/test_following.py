"""`serve NAME`: the server goes from bundle to bundle as the name moves, and no request notices."""

from __future__ import annotations

import shutil
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from artifacts.registry import Registry
from tests.server.following import (
    NAME,
    Following,
    Loading,
    digest_of,
    fingerprint,
    flip_a_byte,
    following,
    with_other_records,
    write_bundle,
)
from tests.small_bundle import LIMITS
from tests.tiny_models import TEMPLATE
from tests.waiting import wait_for

CHAT: Any = [{"role": "user", "content": "Hi"}]
GREEDY: Any = {"model": "tiny", "prompt": "Hi", "temperature": 0, "max_tokens": 24, "extra_body": {"ignore_eos": True}}
LONG: Any = GREEDY | {"max_tokens": 200}


@pytest.fixture(scope="module")
def made(kernels_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The second has another template, the third other limits; the last is the first with a wrong record."""
    folder = tmp_path_factory.mktemp("made")
    smaller = LIMITS.model_copy(update={"max_model_len": 128, "max_num_seqs": 2})
    bundles = [
        write_bundle(folder / "one", kernels_path, 1),
        write_bundle(folder / "two", kernels_path, 2, template=f"Be brief.{TEMPLATE}"),
        write_bundle(folder / "three", kernels_path, 3, limits=smaller),
    ]
    return [*bundles, with_other_records(bundles[0], folder / "lying", kernels_path)]


@pytest.fixture
def registry(tmp_path: Path, made: list[Path]) -> Registry:
    registry = Registry.create(tmp_path / "registry")
    for bundle in made:
        registry.add(bundle)
    registry.promote(NAME, digest_of(made[0]), why="the first")
    return registry


@pytest.fixture
def served(registry: Registry) -> Iterator[Following]:
    with following(registry.root) as served:
        yield served


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def test_every_answer_says_which_bundle_it_is_from(served: Following, registry: Registry, made: list[Path]) -> None:
    one, two = (digest_of(bundle) for bundle in made[:2])
    for digest in (one, two):
        registry.promote(NAME, digest, why="better")
        served.wait_for(digest)
        client = served.client()
        chat: Any = {"model": "tiny", "messages": CHAT, "max_tokens": 4}
        assert client.completions.create(**GREEDY).system_fingerprint == fingerprint(digest)
        assert client.chat.completions.create(**chat).system_fingerprint == fingerprint(digest)
        for stream in (client.completions.create(stream=True, **GREEDY), client.chat.completions.create(stream=True, **chat)):
            assert {chunk.system_fingerprint for chunk in stream} == {fingerprint(digest)}
        # Bodies of these have no place for it.
        responses = client.responses.with_raw_response.create(model="tiny", input="Hi", max_output_tokens=16)
        messages = httpx.post(f"{served.url}/v1/messages", json={"model": "tiny", "messages": CHAT, "max_tokens": 4})
        for answer in (responses, messages):
            assert answer.headers["x-system-fingerprint"] == fingerprint(digest)
        assert served.metrics()[f"coldforge_bundle_info {digest}"] == 1
        assert sum(name.startswith("coldforge_bundle_info") for name in served.metrics()) == 1
    assert any(f"{NAME} means {two[:12]} now" in line and "(promote: better)" in line for line in served.said)
    assert sum("2 recorded prompts are answered bit for bit as before" in line for line in served.said) == 2


def test_what_is_open_ends_on_the_old_bundle(served: Following, registry: Registry, made: list[Path]) -> None:
    """A stream, a request for several choices, and a body that is half sent when the name moves."""
    one, two = (digest_of(bundle) for bundle in made[:2])
    client = served.client()
    alone = client.completions.create(**LONG).choices[0].text
    several = LONG | {"n": 3, "temperature": 1, "seed": 7}
    several_alone = sorted(choice.text for choice in client.completions.create(**several).choices)
    hurry = slowed_down(served)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(served.client().completions.create(**several)))
    asking.start()
    stream = iter(client.completions.create(stream=True, **LONG))
    chunks = [next(stream)]
    moved = threading.Event()

    def half_by_half() -> Iterator[bytes]:
        yield b'{"model": "tiny", "prompt": "Hi", '
        assert moved.wait(20)
        yield b'"max_tokens": 4}'

    half_sent = threading.Thread(
        target=lambda: answers.append(
            httpx.post(
                f"{served.url}/v1/completions", content=half_by_half(), headers={"Content-Type": "application/json"}, timeout=20
            ).json()
        )
    )
    half_sent.start()
    wait_for(lambda: served.server.loading.apps.current.num_open == 3)  # type: ignore[union-attr]
    registry.promote(NAME, two, why="better")
    served.wait_for(two)
    assert served.metrics()["coldforge_bundles_loaded"] == 2
    assert client.completions.create(**GREEDY).system_fingerprint == fingerprint(two)
    hurry.set()
    chunks += stream
    asking.join()
    assert "".join(chunk.choices[0].text for chunk in chunks) == alone
    assert {chunk.system_fingerprint for chunk in chunks} == {fingerprint(one)}
    assert chunks[-1].choices[0].finish_reason == "length"
    assert sorted(choice.text for choice in answers[0].choices) == several_alone
    assert answers[0].system_fingerprint == fingerprint(one)
    assert served.metrics()["coldforge_bundles_loaded"] == 2, "it waits for the body that is half sent"
    moved.set()
    half_sent.join()
    assert answers[1]["system_fingerprint"] == fingerprint(one)
    served.wait_for_one()


def slowed_down(served: Following) -> threading.Event:
    """Steps of the bundle that is served now take long, until the event is set."""
    engine = served.server.service.engine._engine  # type: ignore[union-attr]
    step, hurry = engine.step, threading.Event()

    def slow_step() -> Any:
        hurry.wait(0.1)
        return step()

    engine.step = slow_step  # type: ignore[method-assign]
    return hurry


def test_template_limits_and_figures_change_together(served: Following, registry: Registry, made: list[Path]) -> None:
    _, two, three = (digest_of(bundle) for bundle in made[:3])
    served.client().completions.create(**GREEDY)
    before = served.metrics()
    lengths = []
    for digest in (two, three):
        served.client().completions.create(**GREEDY)
        registry.promote(NAME, digest, why="better")
        served.wait_for(digest)
        told = httpx.post(f"{served.url}/tokenize", json={"messages": CHAT}).json()
        lengths.append((told["count"], told["max_model_len"]))
    served.wait_for_one()
    assert lengths == [(lengths[1][0] + len("Be brief."), 256), (lengths[1][0], 128)]
    assert served.metrics()["coldforge_max_num_seqs"] == 2
    with pytest.raises(Exception, match="128"):
        served.client().completions.create(**GREEDY | {"prompt": "a" * 150})
    after = served.metrics()
    grown = [name for name in before if "_total" in name or name.endswith(("_count", "_sum"))]
    assert len(grown) > 20
    assert all(after[name] >= before[name] for name in grown)
    assert after["coldforge_generated_tokens_total"] == 72
    assert after["vllm:generation_tokens_total 0 tiny"] == 72
    assert after["coldforge_bundle_moves_total moved"] == 2


def test_a_conversation_goes_on(served: Following, registry: Registry, made: list[Path]) -> None:
    two = digest_of(made[1])
    client = served.client()
    first = client.responses.create(model="tiny", input="Hi", max_output_tokens=16)
    registry.promote(NAME, two, why="better")
    served.wait_for(two)
    served.wait_for_one()
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = client.responses.create(model="tiny", input="And?", previous_response_id=first.id, max_output_tokens=16)
    assert second.usage and first.usage and second.usage.input_tokens > first.usage.input_tokens + len("Be brief.")


def what_is_large(served: Following) -> list[Any]:
    service = served.server.service
    assert service is not None
    return [service.engine._engine._runner, service.grammars, service.vocabulary, service.prompts]


def test_memory_is_given_back(served: Following, registry: Registry, made: list[Path]) -> None:
    """Though a connection of the old bundle's last request is still open."""
    gone = [weakref.ref(held) for held in what_is_large(served)]
    with httpx.Client() as client:
        client.post(f"{served.url}/v1/completions", json={"prompt": "Hi", "max_tokens": 4})
        registry.promote(NAME, digest_of(made[1]), why="better")
        wait_for(lambda: any("is out of memory" in line for line in served.said))
        assert [held() for held in gone] == [None] * len(gone)


@pytest.mark.parametrize("fault", ["a byte", "the self-test"])
def test_a_broken_bundle_is_rolled_back(
    served: Following, registry: Registry, made: list[Path], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = digest_of(made[0])
    broken = digest_of(made[1] if fault == "a byte" else made[3])
    if fault == "a byte":
        flip_a_byte(registry, broken)
    registry.promote(NAME, broken, why="better")
    wait_for(lambda: "coldforge_bundle_moves_total rolled_back" in served.metrics() and errors(caplog))
    event = registry.events()[-1]
    assert (event.action, event.replaces) == ("rollback", broken)
    reason = (
        "model.safetensors: sha256 must be" if fault == "a byte" else "the self-test fails: recorded prompt 1 must be answered"
    )
    assert reason in event.why and event.why.startswith("serve on ")
    (line,) = errors(caplog)
    assert f"{NAME} means {broken[:12]} now, and {one[:12]} is served still: " in line and reason in line
    assert line.endswith(f"rolled back to {one[:12]}")
    assert served.client().completions.create(**GREEDY).system_fingerprint == fingerprint(one)
    assert served.metrics()["coldforge_bundle_moves_total rolled_back"] == 1
    assert httpx.get(f"{served.url}/ready").status_code == 200


def test_two_servers_roll_back_once(registry: Registry, made: list[Path]) -> None:
    broken = digest_of(made[3])
    with following(registry.root) as first, following(registry.root) as second:
        registry.promote(NAME, digest_of(made[1]), why="better")
        for served in (first, second):
            served.wait_for(digest_of(made[1]))
        registry.promote(NAME, broken, why="better still")
        wait_for(lambda: len(registry.events()) > 3)
        threading.Event().wait(0.5)  # the other one looks when it is over, or is refused
        assert [event.action for event in registry.events()] == ["promote", "promote", "promote", "rollback"]
        assert first.digest() == second.digest() == digest_of(made[1])


def test_a_registry_that_cannot_be_written(
    served: Following, registry: Registry, made: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "history.jsonl")

    monkeypatch.setattr(Registry, "rollback", refuse)
    registry.promote(NAME, digest_of(made[3]), why="better")
    wait_for(lambda: errors(caplog))
    (line,) = errors(caplog)
    assert served.metrics()["coldforge_bundle_moves_total failed"] == 1
    assert "it could not be rolled back: [Errno 13] Permission denied" in line
    assert (registry.digest_of(NAME), served.digest()) == (digest_of(made[3]), digest_of(made[0]))


def test_both_must_fit(
    served: Following, registry: Registry, made: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = [10 << 20]
    monkeypatch.setattr("runtime.host_memory.available_bytes", lambda root: left[0])
    two = digest_of(made[1])
    registry.promote(NAME, two, why="better")
    wait_for(lambda: served.metrics().get("coldforge_bundle_moves_total postponed") == 1)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "GiB beside what is loaded, and 0.01 GiB are left" in line and line.endswith("it is tried again every 0.1 s")
    assert served.digest() == digest_of(made[0])
    assert registry.digest_of(NAME) == two, "other servers may have the room"
    left[0] = 8 << 30
    served.wait_for(two)
    assert served.metrics()["coldforge_bundle_moves_total postponed"] == 1


def test_a_bundle_for_another_machine_is_left_to_others(
    served: Following, registry: Registry, made: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("runtime.loading.host", lambda: type("Other", (), {"machine": "riscv64", "flags": frozenset()})())
    registry.promote(NAME, digest_of(made[1]), why="better")
    wait_for(lambda: errors(caplog))
    (line,) = errors(caplog)
    assert "which this server cannot serve: the bundle is for machine" in line and line.endswith("the name stays where it is")
    assert registry.digest_of(NAME) == digest_of(made[1]) != served.digest()


def test_the_registry_goes_and_comes_back(
    served: Following, registry: Registry, made: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.root.rename(tmp_path / "away")
    wait_for(lambda: caplog.records)
    threading.Event().wait(0.2)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "is not followed for now" in line and "history.jsonl cannot be read (No such file or directory)" in line
    assert served.client().completions.create(**GREEDY).system_fingerprint == fingerprint(digest_of(made[0]))
    shutil.move(tmp_path / "away", registry.root)
    registry.promote(NAME, digest_of(made[1]), why="better")
    served.wait_for(digest_of(made[1]))
    assert f"{NAME} is followed again" in served.said


@pytest.mark.parametrize("back", [True, False])
def test_the_name_moves_on_while_a_bundle_loads(
    served: Following, registry: Registry, made: list[Path], back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, two, three = (digest_of(bundle) for bundle in made[:3])
    loading = Loading(monkeypatch)
    registry.promote(NAME, two, why="better")
    assert loading.begun.wait(20)
    last = registry.rollback(NAME, why="no") if back else registry.promote(NAME, three, why="better still")
    assert last is not None
    loading.may_end.set()
    wait_for(lambda: served.metrics().get("coldforge_bundle_moves_total superseded") == 1)
    served.wait_for(last.digest)
    assert f"{NAME} moved on to {last.digest[:12]} while {two[:12]} was loading, which is dropped" in served.said
    assert served.metrics().get("coldforge_bundle_moves_total moved", 0) == (0 if back else 1)
    served.wait_for_one()


def test_back_to_a_bundle_that_still_answers(served: Following, registry: Registry, made: list[Path]) -> None:
    """It is loaded no second time; nothing of its stream is lost."""
    one, two = (digest_of(bundle) for bundle in made[:2])
    alone = served.client().completions.create(**LONG).choices[0].text
    hurry = slowed_down(served)
    stream = iter(served.client().completions.create(stream=True, **LONG))
    chunks = [next(stream)]
    registry.promote(NAME, two, why="better")
    served.wait_for(two)
    registry.rollback(NAME, why="not better")
    served.wait_for(one)
    assert any("which it had not freed yet" in line for line in served.said)
    assert served.metrics()[f"coldforge_bundle_info {one}"] == 1
    hurry.set()
    chunks += stream
    assert "".join(chunk.choices[0].text for chunk in chunks) == alone
    served.wait_for_one()
    assert served.client().completions.create(**GREEDY).system_fingerprint == fingerprint(one)
