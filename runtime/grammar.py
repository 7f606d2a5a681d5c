"""The texts that an answer may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grammar:
    """A context-free grammar in llguidance's dialect of Lark; `start` is the whole answer.

    `%json {...}` in it stands for the texts that a JSON schema allows, `<name>` for a special token of the tokenizer.
    """

    lark: str
