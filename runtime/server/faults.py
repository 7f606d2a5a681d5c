"""Pydantic's faults in this server's words: the field, the rule, the value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from runtime.server.wording import shown, shown_name

#: a fault's type -> what the value must be, with the fault's own numbers
RULES: Mapping[str, str] = {
    **dict.fromkeys(("string_type", "string_unicode"), "a string"),
    "string_too_short": "a string of at least {min_length} character(s)",
    "string_too_long": "a string of at most {max_length} characters",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "an integer"),
    "int_parsing_size": "an integer of at most 4300 digits",
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "an object"),
    "list_type": "a list",
    "too_short": "a list of at least {min_length} item(s)",
    "too_long": "a list of at most {max_length} items",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "greater than or equal to {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "less than or equal to {le}",
    **dict.fromkeys(("literal_error", "enum"), "{expected}"),
    "none_required": "null",
    "recursion_depth_exceeded": "nested less deep",
}


def explain(error: ValidationError, body: object) -> tuple[str, str | None]:
    """One sentence about the first fault of `body`, and the path of the field that has it (None: the body itself).

    Where a field may have one of several forms, each of which failed, the form counts that fits furthest.
    """
    faults = error.errors(include_url=False)
    paths = [_path(fault["loc"], body, fault["type"]) for fault in faults]
    deepest = max((path for path in paths if path[:1] == paths[0][:1]), key=len)
    alike = [fault for fault, path in zip(faults, paths, strict=True) if path == deepest]
    # A value of the right type that breaks another rule is meant to have that form.
    alike = [fault for fault in alike if not fault["type"].endswith("_type")] or alike
    path = ".".join(shown_name(part) for part in deepest)
    return _sentence(path, alike), path or None


def _path(loc: Sequence[int | str], body: object, kind: str) -> tuple[int | str, ...]:
    """`loc` without what pydantic adds for the forms of a field: the parts that lead through `body`."""
    place: Any = body
    parts: list[int | str] = []
    leads_on = False
    for part in loc:
        leads_on = isinstance(part, int) if isinstance(place, list) else isinstance(place, dict) and part in place
        if leads_on:
            place = place[part]
            parts.append(part)
    is_absent = kind == "missing" and not leads_on  # what is null is there
    return (*parts, loc[-1]) if is_absent else tuple(parts)


def _sentence(path: str, faults: Sequence[ErrorDetails]) -> str:
    fault = faults[0]
    subject = path or "the body"
    if fault["type"] == "missing":
        return f"{subject} is required, got nothing; add it to the request"
    if fault["type"] == "value_error":
        message = str(fault["ctx"]["error"])
        return f"{path} {message}" if path else message
    rules = dict.fromkeys(_rule(fault) for fault in faults)
    return f"{subject} must be {' or '.join(rules)}, got {shown(fault['input'])}"


def _rule(fault: ErrorDetails) -> str:
    rule = RULES.get(fault["type"])
    return f"valid ({fault['msg']})" if rule is None else rule.format_map(fault.get("ctx", {}))
