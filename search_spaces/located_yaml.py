"""YAML that remembers where each value stands, so that every complaint about it names file, line and the nearest valid key.

YAML 1.2's core types (`yes` is text, `1e-3` is a number), without anchors; duplicate keys and empty documents are errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from artifacts.errors import UserError

Keys = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Place:
    """A line of a file; lines count from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class LocatedError(UserError):
    """A YAML file is not what it must be. Each line of the message is `file:line: key: rule, value, fix`."""

    def __init__(self, faults: Sequence[tuple[Place, str]]) -> None:
        super().__init__("\n".join(f"{place}: {fault}" for place, fault in faults))
        self.place = faults[0][0]


@dataclass(frozen=True)
class Document:
    """Plain values, and the place of each by its keys; the root's keys are ()."""

    value: Any
    places: Mapping[Keys, Place]

    @classmethod
    def parse(cls, text: str, file: str) -> Document:
        """The document in `text`; LocatedError, under the name `file`, if it is not one mapping with text keys."""
        try:
            for event in yaml.parse(text):
                if isinstance(event, yaml.AliasEvent):
                    fault = "aliases are not supported; write the value out"
                    raise LocatedError([(Place(file, getattr(event.start_mark, "line", 0) + 1), fault)])
            root = yaml.compose(text, _CoreLoader)
        except yaml.MarkedYAMLError as error:
            line = getattr(error.problem_mark, "line", 0) + 1
            raise LocatedError([(Place(file, line), f"must be YAML: {error.problem or error.context}")]) from error
        except yaml.YAMLError as error:
            raise LocatedError([(Place(file, 1), f"must be YAML: {error}")]) from error
        if not isinstance(root, yaml.MappingNode):
            found = "an empty document" if root is None else f"a {root.tag.rpartition(':')[2]}"
            raise LocatedError([(Place(file, 1), f"must be a mapping of keys to values, got {found}")])
        places: dict[Keys, Place] = {(): Place(file, 1)}
        return cls(_construct(root, (), file, places), places)

    @classmethod
    def load(cls, path: Path) -> Document:
        """The document in the file at `path`; LocatedError if it cannot be read."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LocatedError([(Place(str(path), 1), f"must be a readable UTF-8 file: {error}")]) from error
        return cls.parse(text, str(path))

    def under(self, *keys: str) -> Document:
        """This document as the value of `keys` in a larger one."""
        value = self.value
        for key in reversed(keys):
            value = {key: value}
        places: dict[Keys, Place] = {keys[:depth]: self.places[()] for depth in range(len(keys))}
        return Document(value, places | {(*keys, *loc): place for loc, place in self.places.items()})

    def merged(self, other: Document) -> Document:
        """Mappings are merged; everything else that `other` gives stands in place of what is here."""
        return Document(_merge(self.value, other.value), {**self.places, **other.places})

    def overridden(self, other: Document) -> Document:
        """`merged`, where `other` may give no key that is not here already: LocatedError."""
        for keys, place in other.places.items():
            if keys not in self.places and isinstance(keys[-1], str):
                known = sorted(str(k[-1]) for k in self.places if k and k[:-1] == keys[:-1])
                raise LocatedError([(place, f"{'.'.join(map(str, keys))}: unknown key; {_nearest(keys[-1], known)}")])
        return self.merged(other)

    def validate(self, model: type[M], context: Mapping[str, Any] | None = None) -> M:
        """The value as a `model`, by strict types; LocatedError with every fault if it is not one."""
        try:
            return model.model_validate_json(json.dumps(self.value), strict=True, context=context)
        except ValidationError as error:
            details = [d for d in error.errors(include_url=False) if d["type"] != "default_factory_not_called"]
            faults = dict.fromkeys(self._fault(model, detail) for detail in details)
            raise LocatedError(sorted(faults, key=lambda fault: fault[0].line)) from error

    def _fault(self, model: type[BaseModel], detail: ErrorDetails) -> tuple[Place, str]:
        # A location may name a branch of a union or "[key]" besides keys of the document: those are skipped.
        keys: Keys = ()
        for part in detail["loc"]:
            if (*keys, part) in self.places:
                keys = (*keys, part)
        name = ".".join(map(str, keys))
        if detail["type"] == "extra_forbidden":
            known = sorted(_keys_at(model, keys[:-1]))
            return self.places[keys], f"{name}: unknown key; {_nearest(str(keys[-1]), known)}"
        if detail["type"] == "missing":
            missing = ".".join(map(str, detail["loc"]))
            return self.places[keys], f"{missing}: this key is required and missing; add it"
        rule = rule_of(detail)
        if detail["type"] in ("value_error", "model_type"):
            return self.places[keys], f"{name}: {rule}" if name else rule
        fault = f"{name}: {rule}, got {detail['input']!r}"
        if detail["type"] == "literal_error" and isinstance(detail["input"], str):
            values = re.findall("'([^']*)'", detail["ctx"]["expected"])
            fault += f"; {_nearest(detail['input'], values)}"
        return self.places[keys], fault


def rule_of(detail: ErrorDetails) -> str:
    """The rule that pydantic found broken, in the words of a YAML file."""
    rule = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return rule.replace("an object", "a mapping").replace("a valid array", "a list")


class _CoreLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's way to start from none


_NULL, _BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
for _tag, _pattern, _first in (
    (_NULL, r"|~|null|Null|NULL", ["", "~", "n", "N"]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (_FLOAT, r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _CoreLoader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def _construct(node: yaml.Node, keys: Keys, file: str, places: dict[Keys, Place]) -> Any:
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = Place(file, key_node.start_mark.line + 1)
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, str):
                raise LocatedError([(place, "a key must be text, not a collection")])
            if key in mapping:
                raise LocatedError([(place, f"{'.'.join(map(str, (*keys, key)))}: this key appears twice; remove one")])
            places[(*keys, key)] = place
            mapping[key] = _construct(value_node, (*keys, key), file, places)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            places[(*keys, index)] = Place(file, item.start_mark.line + 1)
        return [_construct(item, (*keys, index), file, places) for index, item in enumerate(node.value)]
    return _scalar(node.tag, node.value)


def _scalar(tag: str, text: str) -> str | int | float | bool | None:
    if tag == _NULL:
        return None
    if tag == _BOOL:
        return text.lower() == "true"
    if tag == _INT:
        return int(text)
    return float(text) if tag == _FLOAT else text


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merge(old.get(key), value) for key, value in new.items()}}
    return new


def _keys_at(model: type[BaseModel], keys: Keys) -> set[str]:
    """The keys that `model` takes at `keys`."""
    models = [model]
    for key in keys:
        fields = [field for m in models for name, field in m.model_fields.items() if key in (name, field.alias)]
        # A mapping's keys and a list's indices are not fields: the models stay the same there.
        models = [m for field in fields for m in _models_in(field.annotation)] or models
    return {field.alias or name for m in models for name, field in m.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _nearest(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(known)}"
