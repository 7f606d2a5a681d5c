"""What differs between two fingerprints, and which records that makes void."""

from __future__ import annotations

import pytest

from optimizer.nights.changes import asks_for_another, changes
from optimizer.nights.night import Voided

THEN = {"coldforge": "1", "checkpoint: a": "x", "microcode": "0x1", "model.yaml: gate.max_kl": "0.05", "device h100": "{}"}


@pytest.mark.parametrize(
    ("name", "value", "voids"),
    [
        ("checkpoint: a", "y", ("codes", "accuracy")),
        ("microcode", "0x2", ("times",)),
        ("compiler_flags", "-O2", ("accuracy", "times")),
        ("set: gsm8k", "{}", ("accuracy",)),
        ("model.yaml: gate.max_kl", "0.04", ()),
        ("model.yaml: workload.concurrency", "2", ("times",)),
        ("device h100", "{1}", ("codes", "accuracy", "times")),
        ("something new", "1", ("codes", "accuracy", "times")),
    ],
)
def test_a_change_and_what_it_voids(name: str, value: str, voids: tuple[Voided, ...]) -> None:
    (change,) = changes(THEN, {**THEN, name: value})
    assert (change.name, change.then, change.now, change.voids) == (name, THEN.get(name), value, voids)


def test_what_is_gone_has_changed_and_what_is_the_same_has_not() -> None:
    assert changes(THEN, dict(THEN)) == ()
    (gone,) = changes(THEN, {name: value for name, value in THEN.items() if name != "microcode"})
    assert (gone.name, gone.now) == ("microcode", None)


def test_another_checkpoint_is_another_model_and_another_machine_is_not() -> None:
    assert asks_for_another(changes(THEN, {**THEN, "checkpoint: a": "y"}))
    assert asks_for_another(changes(THEN, {**THEN, "model.yaml: generation.temperature": "1.0"}))
    assert not asks_for_another(changes(THEN, {**THEN, "microcode": "0x2", "model.yaml: gate.max_kl": "1"}))
