"""What the sections of model.yaml have in common: unknown keys are refused, and paths are relative to its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True, allow_inf_nan=False)


def _resolved(path: Path, info: ValidationInfo) -> Path:
    assert info.context is not None, "a specification is read by load_spec"
    folder: Path = info.context["folder"]
    return (folder / path.expanduser()).resolve()


def existing(path: Path) -> Path:
    """`path`; ValueError if it is not there."""
    if not path.exists():
        raise ValueError(f"must be a path that exists, got {path}; relative paths start at the folder of this file")
    return path


AnyPath = Annotated[Path, AfterValidator(_resolved)]
ExistingPath = Annotated[AnyPath, AfterValidator(existing)]
