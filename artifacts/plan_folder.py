"""A folder with a plan for several devices: figures and a page of them. It is no bundle, and no command takes it for one."""

from __future__ import annotations

from pathlib import Path

from artifacts.errors import DestinationError, PlanningOnlyError

PLAN_NAME, PAGE_NAME = "plan.json", "report.html"


def write_plan(folder: Path, plan: bytes, page: bytes) -> None:
    """Both files, which replace those of an earlier plan. DestinationError if `folder` holds anything else."""
    others = sorted({path.name for path in folder.iterdir()} - {PLAN_NAME, PAGE_NAME}) if folder.exists() else []
    if others:
        raise DestinationError(
            f"{folder} must not exist yet or must hold a plan, and holds {others[0]}; move it away or choose another output "
            "with -o",
            folder,
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((PLAN_NAME, plan), (PAGE_NAME, page)):
        written = folder / f"{name}.partial"
        written.write_bytes(content)
        written.replace(folder / name)


def refuse_plan(folder: Path) -> None:
    """PlanningOnlyError if `folder` holds a plan for several devices."""
    if (folder / PLAN_NAME).is_file():
        raise PlanningOnlyError(
            f"{folder} is a plan for several devices and no bundle: nothing here runs a model on more than one, and it cannot "
            f"be served; read {PAGE_NAME}, or build for one device that holds the model",
            folder,
        )
