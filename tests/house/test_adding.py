"""The recipes of docs/adding.md name files that there are, and README's map says where each starts."""

from __future__ import annotations

import re

import pytest

from tests.house.recipes import RECIPES, TEXT, files_of
from tests.house.test_words import ROOT


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_file_is_like_one_that_is_there(recipe: str) -> None:
    named = files_of(recipe)
    assert named, "a recipe has numbered steps that begin with their files"
    for name in named:
        assert list(ROOT.glob(re.sub("[A-Z]{2,}", "*", name))), f"{name}: there is no such file"


def test_every_other_path_is_there() -> None:
    paths = [path for path in re.findall(r"`((?:\w+/)+[\w.*]+)`", TEXT) if not re.search(r"[A-Z]{2}", path)]
    assert paths and not [path for path in paths if not list(ROOT.glob(path))]


def test_the_map_names_where_each_recipe_starts() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    anchors = {heading.lower().replace(" ", "-") for heading in RECIPES}
    assert set(re.findall(r"\(docs/adding\.md#([\w-]+)\)", readme)) == anchors
    tests = {path.stem for path in (ROOT / "tests" / "house").glob("test_adding_*.py")}
    assert {f"test_adding_{anchor.split('-', 1)[1].replace('-', '_')}" for anchor in anchors} <= tests
