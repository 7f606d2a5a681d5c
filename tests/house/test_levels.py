"""The folders of the optimizer stand in levels: each imports those below it, none imports upward."""

from __future__ import annotations

from tests.house.test_imports import ROOT, imports, modules

#: from the ground up; a folder may import those in the lines before its own
LEVELS = (
    {"records", "spec", "formats", "nights"},
    {"importers", "evaluation"},
    {"quantization", "report"},
    {"transforms", "exporters"},
    {"weights"},
    {"measure"},
    {"cost"},
    {"tuning", "parallel"},
    {"targets", "search"},
    {"stages"},
    {"bundle", "difference", "assessment"},
    {"run", "history"},
    {"retune"},
    {"cli"},
)


def upward(folders: set[str], levels: tuple[set[str], ...]) -> list[str]:
    """Imports that leave a folder for one that is not below it, and folders without a level."""
    level = {folder: index for index, own in enumerate(levels) for folder in own}
    found = [f"optimizer/{folder}: give it a level" for folder in sorted(folders - level.keys())]
    for path in modules("optimizer"):
        own = path.relative_to(ROOT).parts[1]
        for item in imports(path):
            package, _, rest = item.module.partition(".")
            other = rest.partition(".")[0]
            if package == "optimizer" and own in level and other != own and not level.get(other, len(levels)) < level[own]:
                found.append(f"{path.relative_to(ROOT)}:{item.line} imports {item.module}, which is not below it")
    return found


def test_no_import_runs_upward() -> None:
    folders = {path.relative_to(ROOT).parts[1] for path in modules("optimizer")} - {"__init__.py"}
    assert not (found := upward(folders, LEVELS)), "\n".join(found)


def test_an_upward_import_is_seen() -> None:
    """With the levels turned around nearly every import runs upward."""
    found = upward({"spec", "new"}, LEVELS[::-1])
    assert found[0] == "optimizer/new: give it a level"
    assert any("optimizer/run/command.py" in line and "optimizer.spec" in line for line in found)
