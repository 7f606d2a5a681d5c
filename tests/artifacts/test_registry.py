"""A registry: names that move at once or not at all, and a history that cannot be changed unseen."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import HashMismatchError, UserError
from artifacts.registry import Event, NameWatch, Registry, RegistryError
from artifacts.registry.history import past

NAME = "tiny@production"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.create(tmp_path / "registry")


def moved(registry: Registry, *bundles: Path, name: str = NAME) -> list[str]:
    """Promotes each in turn; their digests."""
    digests = [registry.add(bundle) for bundle in bundles]
    for digest in digests:
        registry.promote(name, digest, why="better")
    return digests


def test_a_name_means_what_was_promoted_last(registry: Registry, bundles: list[Path]) -> None:
    first, second = moved(registry, *bundles[:2])
    assert registry.digest_of(NAME) == second
    events = registry.events()
    assert [(event.action, event.digest, event.replaces) for event in events] == [
        ("promote", first, None),
        ("promote", second, first),
    ]
    assert len(registry.verify()) == 2


def test_promoting_what_it_means_already_is_no_event(registry: Registry, bundles: list[Path]) -> None:
    (digest,) = moved(registry, bundles[0])
    assert registry.promote(NAME, digest, why="again") is None
    assert len(registry.events()) == 1


def test_rollbacks_go_back_one_promotion_each(registry: Registry, bundles: list[Path]) -> None:
    first, second, third = moved(registry, *bundles[:3])
    assert registry.rollback(NAME, why="slow").digest == second
    assert registry.rollback(NAME, why="slower").digest == first
    with pytest.raises(RegistryError, match="can be rolled back to a bundle that it meant before: none"):
        registry.rollback(NAME, why="worse")
    registry.promote(NAME, third, why="mended")
    assert registry.rollback(NAME, first[:8], why="named").digest == first


@given(st.lists(st.one_of(st.integers(0, 3), st.none()), max_size=20))
def test_past_is_a_stack_of_promotions(steps: list[int | None]) -> None:
    """None is a rollback; a bundle that is promoted again leaves its old place."""
    events: list[Event] = []
    expected: list[str] = []
    for step in steps:
        if step is None and len(expected) < 2:
            continue
        if step is None:
            expected.pop()
        else:
            digest = f"{step:064x}"
            expected = [known for known in expected if known != digest] + [digest]
        events.append(
            Event(
                sequence=len(events),
                previous="0" * 64,
                time="2026-01-01T00:00:00Z",
                action="rollback" if step is None else "promote",
                name=NAME,
                digest=expected[-1],
                replaces=None,
                why="a test",
            )
        )
    assert past(events, NAME) == expected
    assert past(events, "other@production") == []


def test_a_decision_on_old_news_does_not_move_a_name(registry: Registry, bundles: list[Path]) -> None:
    first, second = moved(registry, *bundles[:2])
    third = registry.add(bundles[2])
    with pytest.raises(RegistryError, match=f"must still mean {first}.*means {second}; decide again"):
        registry.promote(NAME, third, why="faster", expected=first)
    registry.promote(NAME, third, why="faster", expected=second)
    assert registry.digest_of(NAME) == third


def test_evidence_is_kept_and_checked(registry: Registry, bundles: list[Path]) -> None:
    digest = registry.add(bundles[0])
    event = registry.promote(NAME, digest, why="proved", evidence=b'{"ratio": 1.05}')
    assert event is not None and registry.evidence(event) == b'{"ratio": 1.05}'
    assert event.evidence is not None
    (registry.root / "evidence" / event.evidence).write_bytes(b'{"ratio": 1.50}')
    with pytest.raises(RegistryError, match="was changed"):
        registry.verify()


@pytest.mark.parametrize("line", [0, 1])
def test_a_changed_history_is_refused(registry: Registry, bundles: list[Path], line: int) -> None:
    moved(registry, *bundles[:3])
    path = registry.root / "history.jsonl"
    lines = path.read_text().splitlines()
    lines[line] = lines[line].replace("better", "worse")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RegistryError, match=f"line {line + 2} was not written by this program"):
        registry.events()


def test_an_event_that_was_taken_out_is_missed(registry: Registry, bundles: list[Path]) -> None:
    moved(registry, *bundles[:3])
    path = registry.root / "history.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(RegistryError, match="line 2"):
        registry.events()


def test_half_an_event_never_happened(registry: Registry, bundles: list[Path]) -> None:
    """A writer that is killed in the middle of a line leaves the old value, and the next writer goes on."""
    first, second = moved(registry, *bundles[:2])
    path = registry.root / "history.jsonl"
    data = path.read_bytes()
    for cut in range(1, len(data.splitlines(keepends=True)[1])):
        path.write_bytes(data[:-cut])
        assert registry.digest_of(NAME) == first
    assert registry.promote(NAME, second, why="again") is not None
    assert registry.digest_of(NAME) == second and len(registry.verify()) == 2


def test_prune_keeps_what_is_named_and_what_can_be_rolled_back_to(registry: Registry, bundles: list[Path]) -> None:
    digests = moved(registry, *bundles)
    moved(registry, bundles[0], name="tiny@staging")
    assert registry.prune(keep=1) == [digests[1]]
    assert registry.digests() == sorted({digests[0], digests[2], digests[3]})
    assert registry.rollback(NAME, why="slow").digest == digests[2]
    with pytest.raises(RegistryError, match=f"{digests[1]} was pruned"):
        registry.rollback(NAME, why="slow")
    registry.verify()


def test_prune_removes_what_killed_writers_left(registry: Registry) -> None:
    left = [registry.root / name for name in ("bundles/.incomingdead", "bundles/.pruneddead", "evidence/.writingdead")]
    for folder in left:
        folder.mkdir()
    registry.prune(keep=0)
    assert not any(folder.exists() for folder in left)


def test_a_damaged_bundle_is_not_added(registry: Registry, bundles: list[Path], tmp_path: Path) -> None:
    damaged = shutil.copytree(bundles[0], tmp_path / "damaged")
    (damaged / "tokenizer.json").write_bytes(b"[]\n")
    with pytest.raises(HashMismatchError):
        registry.add(damaged)
    assert registry.digests() == []


@pytest.mark.parametrize("name", ["tiny", "Tiny@production", "tiny@", "@x", "a@b@c", "../x@y", "a b@c", ""])
def test_a_name_is_model_at_stage(registry: Registry, bundles: list[Path], name: str) -> None:
    digest = registry.add(bundles[0])
    with pytest.raises(RegistryError, match="a name is MODEL@STAGE"):
        registry.promote(name, digest, why="a test")


@pytest.mark.parametrize("why", ["", "  ", "two\nlines"])
def test_why_is_one_line(registry: Registry, bundles: list[Path], why: str) -> None:
    digest = registry.add(bundles[0])
    with pytest.raises(RegistryError, match="why must be one line"):
        registry.promote(NAME, digest, why=why)


def test_a_night_is_noted_and_moves_nothing(registry: Registry, bundles: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = moved(registry, *bundles[:2])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    event = registry.note(NAME, why="kept", evidence=b"{}")
    assert (event.action, event.digest, event.replaces, event.time) == ("retune", new, new, "1970-01-01T00:00:00Z")
    assert registry.digest_of(NAME) == new and registry.evidence(event) == b"{}"
    registry.prune(keep=1)
    assert registry.rollback(NAME, why="a night is no promotion to go back from").digest == old
    registry.verify()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(UserError, match="SOURCE_DATE_EPOCH must be whole seconds"):
        registry.note(NAME, why="kept", evidence=b"{}")
    with pytest.raises(RegistryError, match="has no name"):
        registry.note("tiny@unknown", why="kept", evidence=b"{}")


def test_a_folder_of_other_files_is_no_registry(tmp_path: Path) -> None:
    (tmp_path / "note").touch()
    with pytest.raises(RegistryError, match="and holds note"):
        Registry.create(tmp_path)
    with pytest.raises(RegistryError, match="must be a registry"):
        Registry.open(tmp_path)


def _promote_in_turn(root: Path, bundles: list[Path], count: int, seed: int) -> None:
    choose = random.Random(seed)
    registry = Registry.create(root)
    for _ in range(count):
        registry.promote(NAME, registry.add(choose.choice(bundles)), why=f"writer {seed}")


def test_writers_do_not_disturb_each_other(tmp_path: Path, bundles: list[Path]) -> None:
    root = tmp_path / "registry"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_promote_in_turn, args=(root, bundles, 15, seed)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    events = Registry.open(root).events()
    assert {event.why for event in events} == {"writer 0", "writer 1", "writer 2"}
    assert all(after.replaces == before.digest for before, after in itertools.pairwise(events))
    Registry.open(root).verify()


@pytest.mark.slow
def test_a_killed_promotion_leaves_the_old_or_the_new(tmp_path: Path, bundles: list[Path]) -> None:
    """kill -9 at 40 random moments; the registry is whole each time, and the same command then finishes."""
    root = tmp_path / "registry"
    choose = random.Random(0)
    command = [sys.executable, "-m", "tests.artifacts.promoting", str(root)]
    begin = time.monotonic()
    subprocess.run([*command, str(bundles[0])], check=True)
    whole_s = time.monotonic() - begin
    old = Registry.open(root).digest_of(NAME)
    killed = 0
    for _ in range(40):
        bundle = choose.choice(bundles)
        writer = subprocess.Popen([*command, str(bundle)])
        time.sleep(choose.uniform(0.3, 1.0) * whole_s)
        writer.send_signal(signal.SIGKILL)
        killed += writer.wait() != 0
        new = json.loads((bundle / "manifest.json").read_bytes())["digest"]
        registry = Registry.open(root)
        assert registry.digest_of(NAME) in (old, new)
        registry.verify()
        subprocess.run([*command, str(bundle)], check=True)
        assert registry.digest_of(NAME) == new
        registry.prune(keep=0)
        assert registry.digests() == [new]
        old = new
    assert killed >= 20


def test_only_one_of_two_rolls_back(registry: Registry, bundles: list[Path]) -> None:
    first, second = moved(registry, *bundles[:2])
    registry.rollback(NAME, why="its self-test fails", expected=second)
    with pytest.raises(
        RegistryError, match=f"must still mean {second}, against which the decision was made, and means {first}"
    ):
        registry.rollback(NAME, why="its self-test fails", expected=second)
    assert registry.digest_of(NAME) == first


def test_a_watch_reads_what_has_changed(registry: Registry, bundles: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = moved(registry, *bundles[:2])
    watch = NameWatch(registry.root, NAME)
    read, reads = Registry.events, []
    monkeypatch.setattr(Registry, "events", lambda self: reads.append(1) or read(self))
    assert [watch.look().digest for _ in range(3)] == [second] * 3 and len(reads) == 1
    last = registry.rollback(NAME, why="slow")
    registry.note(NAME, why="a night without a move", evidence=b"{}")
    assert watch.look() == last and last.digest == first


def test_a_watch_says_what_is_missing(registry: Registry, bundles: list[Path], tmp_path: Path) -> None:
    moved(registry, bundles[0])
    with pytest.raises(RegistryError, match="has no name 'tiny@staging'; it has tiny@production"):
        NameWatch(registry.root, "tiny@staging").look()
    with pytest.raises(RegistryError, match="must be a registry"):
        NameWatch(tmp_path / "nowhere", NAME).look()
    watch = NameWatch(registry.root, NAME)
    watch.look()
    registry.root.rename(tmp_path / "away")
    with pytest.raises(RegistryError, match=r"history\.jsonl cannot be read \(No such file or directory\); bring the registry"):
        watch.look()
