"""Calls that are JSON objects of a name and arguments, read while they come."""

from __future__ import annotations

import json
from collections.abc import Callable

from runtime.answer.cursor import SPACE, Cursor, Steps
from runtime.tools.events_out import EventsOut

#: keys of a call that hold its arguments
ARGUMENTS = ("arguments", "parameters")
_KEYS = frozenset({"name", "id", "type", *ARGUMENTS})
_LONGEST_NAME = 256
_CONTROLS = {chr(code): f"\\u{code:04x}" for code in range(32)} | {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_CLOSING = {"{": "}", "[": "]"}
_OUTSIDE = frozenset("+-.:,eE0123456789truefalsnTN" + SPACE)


def as_object(name: str, arguments: str, key: str = "arguments") -> str:
    """A call as such an object; `arguments` is JSON."""
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": {arguments}}}'


def read_call(cursor: Cursor, out: EventsOut, accepts: Callable[[str], bool]) -> Steps[bool]:
    """One call: `{"name": ..., "arguments": {...}}`, keys in any order, with or without an id and a type. False if it is none.

    The call begins as soon as its name and the beginning of its arguments are there; `accepts` says which names it may have.
    What follows is the model's, even if the object does not end well.
    """
    name: str | None = None
    arguments: str | None = None
    has_begun = False
    if not (yield from cursor.skips("{")):
        return False
    while True:
        yield from cursor.skip_space()
        if (yield from cursor.skips("}")):
            break
        key = yield from _read_key(cursor)
        if key is None:
            return has_begun
        if key == "name" and name is None:
            name = yield from read_string(cursor, _LONGEST_NAME)
            if name is None or not accepts(name):
                return False
        elif key in ARGUMENTS and not has_begun and arguments is None:
            character = yield from cursor.next()
            if character == "{" and name is not None:
                out.call(name)
                has_begun = True
                if not (yield from stream_value(cursor, lambda piece: _give(cursor, out, piece))):
                    return True
            else:
                arguments = yield from _read_arguments(cursor)
                if arguments is None:
                    return False
        elif key not in _KEYS or not (yield from stream_value(cursor, lambda _: None)):
            return has_begun
        yield from cursor.skip_space()
        yield from cursor.skips(",")
    if has_begun:
        out.end_call()
    elif name is not None:
        out.call(name)
        out.arguments("{}" if arguments is None else arguments)
        out.end_call()
    return name is not None


def _give(cursor: Cursor, out: EventsOut, piece: str) -> None:
    out.arguments(piece)
    cursor.forget()


def _read_key(cursor: Cursor) -> Steps[str | None]:
    key = yield from read_string(cursor, _LONGEST_NAME)
    if key is None:
        return None
    yield from cursor.skip_space()
    if not (yield from cursor.skips(":")):
        return None
    yield from cursor.skip_space()
    return key


def _read_arguments(cursor: Cursor) -> Steps[str | None]:
    """Arguments whole: an object; its text in a string, as some models write it; null, for none. None for all else."""
    pieces: list[str] = []
    if not (yield from stream_value(cursor, pieces.append)):
        return None
    try:
        value = json.loads("".join(pieces))
        if isinstance(value, str):
            pieces = [value]
            value = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if value is None:
        return "{}"
    return "".join(pieces) if isinstance(value, dict) else None


def read_string(cursor: Cursor, longest: int) -> Steps[str | None]:
    """A JSON string's value; None if there is none here, or none that short."""
    if (yield from cursor.next()) != '"':
        return None
    pieces: list[str] = []
    if not (yield from stream_value(cursor, pieces.append, longest)):
        return None
    try:
        value = json.loads("".join(pieces))
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def stream_value(cursor: Cursor, sink: Callable[[str], None], longest: int | None = None) -> Steps[bool]:
    """Give a JSON value to `sink` as it comes. False if it breaks off, or is longer than `longest`: `sink` has the part before.

    It is told by its brackets and strings, not checked further. Line breaks in strings, which JSON forbids and models
    write, are escaped.
    """
    scan = _Scan()
    while True:
        if not (yield from cursor.next()):
            return scan.is_whole_at_end
        piece = scan.read(cursor.rest)
        cursor.take(scan.num_read)
        if piece:
            sink(piece)
        if scan.result is not None:
            return scan.result
        if longest is not None and scan.length > longest:
            return False


class _Scan:
    """Where in a JSON value the text is. `result` is set at the value's end: whether it ended well."""

    def __init__(self) -> None:
        self.result: bool | None = None
        self.num_read = 0
        self.length = 0
        self._closing: list[str] = []
        self._in_string = False
        self._is_escaped = False

    @property
    def is_whole_at_end(self) -> bool:
        """Whether the value is whole if no more text comes: a number or a word is."""
        return self.length > 0 and not self._closing and not self._in_string

    def read(self, text: str) -> str:
        """The part of `text` that belongs to the value, which is `num_read` characters of it."""
        given = []
        self.num_read = 0
        for character in text:
            piece = self._in_string_read(character) if self._in_string else self._outside_read(character)
            if piece is None:
                break
            given.append(piece)
            self.num_read += 1
            if self.result is not None:
                break
        self.length += self.num_read
        return "".join(given)

    def _in_string_read(self, character: str) -> str:
        control = _CONTROLS.get(character)
        if self._is_escaped:
            self._is_escaped = False
            return character if control is None else control[1:]
        if character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._in_string = False
            self._ends_if_closed()
        return control or character

    def _outside_read(self, character: str) -> str | None:
        """None if the value has ended before `character`."""
        if not self._closing and (character in SPACE or character in ",}]"):  # the end of a number or a word
            self.result = self.length + self.num_read > 0
            return None
        if character == '"':
            self._in_string = True
        elif character in _CLOSING:
            self._closing.append(_CLOSING[character])
        elif self._closing and character == self._closing[-1]:
            self._closing.pop()
            self._ends_if_closed()
        elif character not in _OUTSIDE:
            self.result = False
            return None
        return character

    def _ends_if_closed(self) -> None:
        if not self._closing:
            self.result = True
