"""No command is left out of the tables that say what options change, and help names the defaults that there are."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.core import UNSET

from tests.options import WALKED_IN, commands

ROOT = Path(__file__).parents[2]


def test_every_command_is_walked() -> None:
    assert commands().keys() == WALKED_IN.keys(), "name the command in tests/options.py, and the file that walks its options"
    for command, file in WALKED_IN.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f'"{command}"' in text and "assert_listed(" in text


@pytest.mark.parametrize("command", WALKED_IN)
def test_help_shows_the_defaults_that_there_are(command: str) -> None:
    told = commands()[command]
    for option in (parameter for parameter in told.params if isinstance(parameter, click.Option)):
        help_text = option.help or ""
        if option.default is UNSET:
            assert not option.show_default
        elif not option.is_flag:
            assert option.show_default, f"{command} {option.opts[-1]}: help must show the default {option.default!r}"
            assert "efault:" not in help_text, f"{command} {option.opts[-1]}: the default is said twice"


def test_a_default_that_help_puts_in_words() -> None:
    from optimizer.tuning.gpu.representative import TOKENS

    (tokens,) = [p for p in commands()["kernels inspect"].params if p.opts[-1] == "--tokens"]
    assert isinstance(tokens, click.Option) and tuple(map(int, re.findall(r"\d+", tokens.help or ""))) == TOKENS
