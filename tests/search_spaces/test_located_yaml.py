"""YAML whose every value knows its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from search_spaces.located_yaml import Document, LocatedError, Place


def is_plain_number(text: str) -> bool:
    """Of YAML 1.2's core schema, which the other writer, of YAML 1.1, leaves without quotes in some forms: 0E0."""
    return re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text) is not None


texts = st.text().filter(lambda text: not is_plain_number(text))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
keys = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1).map(lambda text: f"k{text}")
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


@given(value=st.dictionaries(keys, values, min_size=1, max_size=4))
@settings(max_examples=60)
def test_what_another_writer_wrote_is_read(value: dict[str, object]) -> None:
    assert Document.parse(yaml.safe_dump(value), "x").value == value


def test_core_types() -> None:
    text = "a: 1e-3\nb: yes\nc: 010\nd: 12:30:00\ne: 2026-01-01\nf: -.5\ng: null\nh:\ni: true\nj: '1'\nk: +3"
    assert Document.parse(text, "x").value == {
        "a": 1e-3,
        "b": "yes",
        "c": "010",
        "d": "12:30:00",
        "e": "2026-01-01",
        "f": -0.5,
        "g": None,
        "h": None,
        "i": True,
        "j": "1",
        "k": 3,
    }


def test_places() -> None:
    places = Document.parse("# comment\na:\n  b: 1\n  c:\n  - x\n  - y: 2\n", "file").places
    assert places[("a", "b")] == Place("file", 3)
    assert places[("a", "c")] == Place("file", 4)
    assert places[("a", "c", 1)] == places[("a", "c", 1, "y")] == Place("file", 6)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "x:1: must be a mapping of keys to values, got an empty document"),
        ("# nothing\n", "x:1: .* got an empty document"),
        ("- a\n", "x:1: must be a mapping"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", r"x:4: b\.c: this key appears twice; remove one"),
        ("a: [1\n", "x:2: must be YAML"),
        ("a: 1\n\tb: 2\n", "x:2: must be YAML"),
        ("a: 1\n---\nb: 1\n", "x:2: must be YAML"),
        ("a: &one 1\nb: *one\n", "x:2: aliases are not supported"),
        ("? [a]\n: 1\n", "x:1: a key must be text"),
        ("a: \x00\n", "x:1: must be YAML"),
    ],
)
def test_what_is_no_document(text: str, fault: str) -> None:
    with pytest.raises(LocatedError, match=f"^{fault}"):
        Document.parse(text, "x")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LocatedError, match=r"absent\.yaml:1: must be a readable UTF-8 file"):
        Document.load(tmp_path / "absent.yaml")


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int
    ratio: float = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner | None = None
    inners: list[Inner] = []
    by_name: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("iner:\n  size: 1\n", "x:1: iner: unknown key; did you mean 'inner'?"),
        ("zzz: 1\n", "x:1: zzz: unknown key; use one of by_name, inner, inners"),
        ("inner:\n  size: 1\n  sise: 2\n", "x:3: inner.sise: unknown key; did you mean 'size'?"),
        ("inners:\n- size: 1\n- size: 1\n  ratios: 2\n", "x:4: inners.1.ratios: unknown key; did you mean 'ratio'?"),
        ("by_name:\n  a:\n    siz: 1\n    size: 1\n", "x:3: by_name.a.siz: unknown key; did you mean 'size'?"),
        ("inner:\n  ratio: 1\n", "x:1: inner.size: this key is required and missing; add it"),
        ("inner:\n  size: '1'\n", "x:2: inner.size: must be a valid integer, got '1'"),
        ("inner:\n  size: 1.0\n", "x:2: inner.size: must be a valid integer, got 1.0"),
        ("inner: {size: true}\n", "x:1: inner.size: must be a valid integer, got True"),
        ("inner: {size: 1, ratio: x}\n", "x:1: inner.ratio: must be a valid number, got 'x'"),
    ],
)
def test_validation_names_line_rule_value_and_nearest_key(text: str, fault: str) -> None:
    with pytest.raises(LocatedError) as caught:
        Document.parse(text, "x").validate(Outer)
    assert str(caught.value) == fault


def test_every_fault_is_told_in_the_order_of_the_file() -> None:
    with pytest.raises(LocatedError) as caught:
        Document.parse("zzz: 1\ninner:\n  size: x\n  rati: 1\n", "x").validate(Outer)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["x:1", "x:3", "x:4"]
    assert caught.value.place == Place("x", 1)


def test_merged_documents_keep_their_places() -> None:
    base = Document.parse("size: 1\nratio: 2\n", "base").under("inner")
    other = Document.parse("inner:\n  ratio: x\n", "other")
    with pytest.raises(LocatedError, match=r"^other:2: inner\.ratio"):
        base.overridden(other).validate(Outer)
