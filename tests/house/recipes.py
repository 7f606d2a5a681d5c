"""docs/adding.md as its tests read it."""

from __future__ import annotations

import re

from tests.house.test_words import ROOT

TEXT = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
#: heading -> text of the recipe
RECIPES: dict[str, str] = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def files_of(recipe: str) -> list[str]:
    """The files that the numbered steps of a recipe name, in order; words in capitals stand for the adder's own."""
    steps = re.findall(r"^\d+\. ((?:`[^`]+`(?:, )?)+)", RECIPES[recipe], re.MULTILINE)
    return [name for step in steps for name in re.findall(r"`([^`]+)`", step)]
