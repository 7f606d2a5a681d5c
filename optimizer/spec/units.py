"""Durations and fractions as people write them, in model.yaml and on the command line alike."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PositiveFloat

_NUMBER = r"\d+(?:\.\d*)?"
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str) -> float:
    """Seconds in a duration such as `90s`, `8m`, `1h30m` or `90`; ValueError if it is none."""
    if re.fullmatch(_NUMBER, text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        raise ValueError(f"must be a duration such as 90s, 8m or 1h30m, or a number of seconds such as 90, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def _seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _fraction(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(rf"({_NUMBER})(\s*%)?", value)
    if match is None:
        raise ValueError(f"must be a fraction such as 0.01 or a percentage such as 1%, got {value!r}")
    return float(match[1]) / 100 if match[2] else float(match[1])


Seconds = Annotated[PositiveFloat, BeforeValidator(_seconds)]
Fraction = Annotated[float, BeforeValidator(_fraction)]
