"""`coldforge history`: every night is shown, moves are found where they were made, and each leads to its difference."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from artifacts.canonical import canonical_json
from artifacts.registry import Registry
from optimizer.cli import coldforge
from optimizer.difference import Facts, difference_of
from optimizer.difference.page import render_difference
from optimizer.history import histories_of
from optimizer.history.change_points import change_points
from optimizer.history.series import changed_between
from optimizer.nights.night import Night
from tests.artifacts.conftest import Parts
from tests.optimizer.history.nights import night
from tests.options import assert_listed

pytest.importorskip("otava", reason="`make setup` installs it")
NAME = "tiny@production"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(coldforge, ["history", *map(str, arguments)], env={"COLUMNS": "250", "COLDFORGE_REGISTRY": ""})


def saved(nights: list[Night], folder: Path) -> Path:
    for number, one in enumerate(nights):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "result.json").write_bytes(canonical_json(one.model_dump(mode="json")))
    return folder


def slowed(at: int, number: int, compiler: str = "g++ 14.1.0") -> list[Night]:
    """5 % slower from night `at` on, on which the compiler changed."""
    before = [night(index, 1.20) for index in range(at)]
    after = {"fingerprint": {"compiler": compiler, "cpu_model": "a CPU"}}
    return [*before, *(night(index, 1.14, **after) for index in range(at, number))]


def test_a_move_is_found_where_it_was_made() -> None:
    (history,) = histories_of(reversed(slowed(20, 26)))
    (move,) = history.moves
    assert move.after == history.nights[20] and move.before == history.nights[19] and move.bundles is None
    assert move.change_point.change == pytest.approx(-0.05, abs=0.01)
    assert changed_between(move.before, move.after) == ("compiler: g++ 13.2.0 -> g++ 14.1.0",)


@pytest.mark.parametrize("values", [[], [0.0], [0.1] * 30, [0.0, 0.1], [float(index % 2) for index in range(9)]])
def test_no_move_is_found_where_there_is_none(values: list[float]) -> None:
    assert change_points(values) == ()


def test_two_references_are_two_series() -> None:
    nights = [night(index, 1.2) for index in range(12)]
    nights += [night(index, 0.9, reference="e" * 64) for index in range(12, 24)]
    (history,) = histories_of(nights)
    assert [len(series.points) for series in history.series] == [12, 12] and not history.moves
    assert [notes for _, notes in history.notes() if notes] == [("reference eeeeeeeeeeee",)]


def test_each_model_has_its_own_history() -> None:
    histories = histories_of(night(index, 1.2, model=model) for index in range(3) for model in ("b", "a"))
    assert [(history.model, len(history.nights)) for history in histories] == [("a", 3), ("b", 3)]


def test_a_night_without_figures_is_shown_and_is_in_no_series(tmp_path: Path) -> None:
    failed = night(3, 1.0, verdict="failed", why="no compiler", against_reference={}, reference=None)
    told = run(saved([night(1, 1.2), failed, night(5, 1.2)], tmp_path))
    assert told.exit_code == 0, told.output
    assert "failed" in told.output and "No series moved." in told.output
    assert len(re.findall(r" 1\.\d{3} ", told.output)) == 2 and "ference f" not in told.output


def test_a_promoted_bundle_is_the_one_that_was_measured() -> None:
    """The night of a promotion shows the candidate's speed; later nights have it as their incumbent."""
    better = {"verdict": "promoted", "candidate": "b" * 64}
    nights = [night(index, 1.2) for index in range(15)] + [night(15, 1.3, **better)]
    nights += [night(index, 1.3, incumbent="b" * 64) for index in range(16, 20)]
    ((move,),) = (history.moves for history in histories_of(nights))
    assert move.after.time == nights[15].time and move.bundles == ("a" * 64, "b" * 64)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.targets += [str(value) for name, value in attrs if name in ("href", "src") and tag != "link"]
        if found.get("id"):
            self.ids.append(str(found["id"]))


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Night]]:
    """A registry whose name moved to a bundle that is 8 % faster, with every night as evidence."""
    root, parts = tmp_path_factory.mktemp("promoted"), Parts()
    parts.write(root / "a")
    parts.but(files={**parts.files, "kernels/cpu.so": b"\x7fELF another"}).write(root / "b")
    registry = Registry.create(root / "registry")
    first, second = (registry.add(root / name) for name in "ab")
    nights = [night(index, 1.2, incumbent=first) for index in range(12)]
    nights.append(night(12, 1.3, incumbent=first, candidate=second, verdict="promoted"))
    nights += [night(index, 1.3, incumbent=second) for index in range(13, 18)]
    registry.promote(NAME, first, why="the first", evidence=b"written by a person")
    for one in nights:
        evidence = canonical_json(one.model_dump(mode="json"))
        if one.verdict == "promoted":
            registry.promote(NAME, second, why=one.why, evidence=evidence)
        else:
            registry.note(NAME, why=one.why, evidence=evidence)
    return root / "registry", nights


def test_a_name_and_its_page(promoted: tuple[Path, list[Night]], tmp_path: Path) -> None:
    assert_listed("history", {"results", "--registry", "--name", "--html"})
    root, nights = promoted
    told = run("--registry", root, "--name", NAME)
    assert told.exit_code == 0, told.output
    assert all(one.time in told.output for one in nights) and "wrote" not in told.output
    first, second = nights[0].incumbent, nights[-1].incumbent
    assert f"decode moved on {nights[12].time}" in told.output and f"bundle {first[:12]} -> {second[:12]}" in told.output

    page = tmp_path / "nights.html"
    assert run("--registry", root, "--name", NAME, "--html", page).exit_code == 0
    text, links = page.read_text(), Links()
    links.feed(text)
    beside = [target for target in links.targets if not target.startswith("#")]
    assert beside == [f"nights-{first[:12]}-{second[:12]}.html"], "the one move leads to the difference of its bundles"
    held = Registry.open(root)
    expected = render_difference(difference_of(*(Facts.read(held.folder(digest)) for digest in (first, second))))
    assert (tmp_path / beside[0]).read_text() == expected
    assert {target[1:] for target in links.targets if target.startswith("#")} == set(links.ids) != set()
    assert text.count("<circle") == len(nights) and all(one.time in text for one in nights)
    assert "<script" not in text and not re.findall(r"(?:src|href)=\"(?:https?:)?//", text)


def test_results_and_where_their_bundles_lie(promoted: tuple[Path, list[Night]], tmp_path: Path) -> None:
    """The same nights from files: without a registry there is no bundle to compare, and the page says so."""
    root, nights = promoted
    folder, page = saved(nights, tmp_path / "results"), tmp_path / "nights.html"
    assert run(folder, "--html", page).exit_code == 0
    assert "is not in the registry" in page.read_text() and len(list(tmp_path.glob("*.html"))) == 1
    assert run(folder, "--registry", root, "--html", page).exit_code == 0
    assert len(list(tmp_path.glob("*.html"))) == 2
    one = folder / "0" / "result.json"
    assert run(folder, one).output == run(folder).output, "a night that is given twice is one night"


def test_words_of_a_night_are_escaped(tmp_path: Path) -> None:
    nights = [one.model_copy(update={"why": "<b>", "model": "<i>"}) for one in slowed(12, 16, compiler="<u>")]
    page = tmp_path / "nights.html"
    assert run(saved(nights, tmp_path / "results"), "--html", page).exit_code == 0
    text = page.read_text()
    assert not re.search("<[biu]>", text) and all(html.escape(word) in text for word in ("<b>", "<i>", "<u>"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "got neither"),
        (("--name", NAME), "got neither"),
        (("{here}", "--name", NAME), "not both"),
        (("{here}/empty",), "has no night's result"),
        (("{here}/other.json",), "must be the result.json of a night"),
        (("--registry", "{here}", "--name", NAME), "must be a registry"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text("{}")
    told = run(*(argument.format(here=tmp_path) for argument in arguments))
    assert told.exit_code == 1 and message in told.output


def test_without_otava_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "otava.analysis", None)
    told = run(saved(slowed(5, 8), tmp_path))
    assert told.exit_code == 1 and "pip install" in told.output
