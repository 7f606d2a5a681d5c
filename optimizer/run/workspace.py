"""The folder beside a bundle where a run keeps its work: one run at a time uses it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artifacts.errors import UserError
from optimizer.records.holder import Holder

_HOLDER = "holder.json"


class WorkspaceHeld(UserError):
    """Another run uses the workspace."""


def workspace_of(output: Path) -> Path:
    """Where the run that makes the bundle at `output` keeps its work."""
    return output.with_name(output.name + ".work")


@contextmanager
def held(workspace: Path, elsewhere: str = "another output with -o") -> Iterator[None]:
    """The workspace, made if there is none, for this process alone. WorkspaceHeld, which says who has it, if another does.

    `elsewhere` is what to choose instead.

    The lock goes with its holder, however that ends, so a run that is killed leaves nothing to clean up.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    with (workspace / _HOLDER).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceHeld(
                f"{workspace} is for one run at a time, and {_described(file.name)} uses it; wait for it to end, stop it, or "
                f"choose {elsewhere}"
            ) from None
        file.truncate(0)
        file.write(json.dumps(Holder.here().plain()) + "\n")
        file.flush()
        yield


def _described(path: str) -> str:
    with suppress(ValueError):
        return str(Holder.read(json.loads(Path(path).read_text())) or "another process")
    return "another process"
