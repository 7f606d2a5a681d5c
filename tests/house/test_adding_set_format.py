"""docs/adding.md, "A set format": a toy is written, registered and compared as the others are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from optimizer.evaluation import Subject, compare_on
from optimizer.evaluation.sets import ItemSet, Likelihood, Marked, Question, Reply, formats, open_set
from optimizer.evaluation.sets.item_set import dealt, path_of
from optimizer.evaluation.sets.jsonl import read_items
from optimizer.spec.evaluation_spec import SET_OPTIONS, EvaluationSpec, SetSpec
from runtime.engine_core import EngineCore
from runtime.prompts import Prompts
from search_spaces.located_yaml import Document, LocatedError
from tests.house.recipes import files_of
from tests.optimizer.evaluation.sets.test_item_sets import prompts
from tests.server.conftest import RecitingRunner

NUM_ITEMS = 40


class YesOrNo(ItemSet):
    """Items have `text` and `answer`, yes or no: the more likely of the two words is the model's answer."""

    format: ClassVar[str] = "yes_or_no"
    metrics: ClassVar[tuple[str, ...]] = ("acc",)

    @classmethod
    def open(cls, spec: SetSpec, reference: Prompts, seed: int) -> YesOrNo:
        return cls(spec.name, dealt(read_items(path_of(spec), {"text": str, "answer": str}), spec, seed), margin=spec.margin)

    def questions(self, item: Mapping[str, Any], prompts: Prompts) -> list[Question]:
        context = prompts.encode(item["text"])
        return [Likelihood((*context, *prompts.encode(word, False)), len(context)) for word in (" yes", " no")]

    def mark(self, item: Mapping[str, Any], replies: Sequence[Reply], prompts: Prompts) -> Marked:
        yes, no = map(float, replies)
        answer = "yes" if yes > no else "no"
        return Marked(item["id"], {"acc": float(answer == item["answer"])}, answer)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the recipe changes beside the file of the format."""
    monkeypatch.setitem(formats.FORMATS, YesOrNo.format, YesOrNo)
    monkeypatch.setitem(SET_OPTIONS, YesOrNo.format, {"path"})


def specified(folder: Path, text: str) -> EvaluationSpec:
    rows = ({"text": f"Is {i} even?", "answer": ("no", "yes")[i % 2 == 0]} for i in range(NUM_ITEMS))
    (folder / "even.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Document.parse(f"sets: [{text}]", "model.yaml").validate(EvaluationSpec, {"folder": folder})


def test_the_recipe_is_three_files() -> None:
    assert files_of("A set format") == [
        "optimizer/evaluation/sets/NAME.py",
        "optimizer/evaluation/sets/formats.py",
        "optimizer/spec/evaluation_spec.py",
    ]


def test_a_name_that_is_not_registered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocatedError, match=r"sets\.0\.format: must be .*, got 'yes_or_no'"):
        specified(tmp_path, "{path: even.jsonl, format: yes_or_no}")


@pytest.mark.usefixtures("registered")
def test_a_registered_format_takes_its_own_options_alone(tmp_path: Path) -> None:
    with pytest.raises(LocatedError, match="a set of format yes_or_no takes margin, max_items, path; got chat"):
        specified(tmp_path, "{path: even.jsonl, format: yes_or_no, chat: true}")


@pytest.mark.usefixtures("registered")
def test_a_registered_format_is_read_and_compared(tmp_path: Path) -> None:
    (spec,) = specified(tmp_path, "{path: even.jsonl, format: yes_or_no, max_items: 30, margin: 10%}").sets
    opened = open_set(spec, prompts(), 0)
    assert isinstance(opened, YesOrNo) and len(opened.items) == 30 and opened.margin == 0.1
    asked = prompts()

    def engine(_: int) -> EngineCore:
        return EngineCore(RecitingRunner(asked.tokenizer.get_vocab_size(), asked.encode("yes")), [])

    comparison = compare_on(opened, Subject(asked, engine), Subject(asked, engine), seed=0)
    assert comparison.baseline == comparison.candidate and {marked.answer for marked in comparison.candidate} == {"yes", "no"}
    record = comparison.record()
    assert (record["format"], record["metric"], record["num_items"]) == ("yes_or_no", "acc", 30)
