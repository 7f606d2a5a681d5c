"""What the README and its kin tell a reader to type is there: commands, options, scripts, targets, a request, keys."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from optimizer.cli import coldforge, optimize
from runtime.cli import serve
from runtime.server.protocol_chat import ChatCompletionBody
from search_spaces.located_yaml import Document, LocatedError
from tests.house.test_words import ROOT

DOCS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/adding.md",
    "docs/architecture.md",
    "docs/gpu.md",
    "docs/optimize.md",
    "docs/results.md",
    "benchmarks/README.md",
)
TEXT = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCS}
SCRIPTS: dict[str, click.Command] = {"optimize": optimize, "serve": serve, "coldforge": coldforge}
COMMANDS = [line.partition("#")[0] for text in TEXT.values() for line in re.findall(r"^ +\.venv/bin/(.*)", text, re.MULTILINE)]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_has_these_options(line: str) -> None:
    name, *words = shlex.split(line)
    command, context = SCRIPTS[name], click.Context(SCRIPTS[name])
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command, context = found, click.Context(found)
    values, rest, _ = command.make_parser(context).parse_args(words)
    assert not rest and values


def test_an_option_that_a_comment_names_is_one() -> None:
    (comment,) = re.findall(r"optimize examples/smollm2\.yaml +# (--.*)", TEXT["README.md"])
    known = {name for parameter in optimize.params for name in parameter.opts}
    assert {part.split()[0] for part in comment.split(", ")} <= known
    context = click.Context(optimize)
    timeout = re.search(r"--timeout (\S+)", comment)
    assert timeout and optimize.make_parser(context).parse_args(["--timeout", timeout[1]])


@pytest.mark.parametrize("document", DOCS)
def test_scripts_and_targets_are_there(document: str) -> None:
    text, targets = TEXT[document], (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in re.findall(r"python (benchmarks/\w+\.py)", text):
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"python -m (benchmarks(?:\.\w+)+)", text):
        base = ROOT / module.replace(".", "/")
        assert base.with_suffix(".py").is_file() or (base / "__main__.py").is_file(), module
    for target in re.findall(r"(?:`|^ +)make ([a-z][a-z-]*)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), f"make {target}"


def test_the_request_is_accepted() -> None:
    (body,) = re.findall(r"curl .*?-d '(.*?)'\n", TEXT["README.md"], re.DOTALL)
    asked = ChatCompletionBody.model_validate(json.loads(body))
    assert asked.temperature == 0, "at the default of 1 a model of this size talks nonsense"


@pytest.mark.parametrize("document", ["README.md", "docs/optimize.md"])
def test_the_specification_has_only_known_keys(document: str, tmp_path: Path) -> None:
    """Its files need not be there."""
    from optimizer.spec import ModelSpec
    from optimizer.spec.sets_spec import SetsSpec

    texts = re.findall(r"```yaml\n(.*?)```", TEXT[document], re.DOTALL)
    assert [bool(yaml.safe_load(text).get("source")) for text in texts].count(True) == 1
    for text in texts:
        kind = ModelSpec if "source" in yaml.safe_load(text) else SetsSpec
        try:
            Document.parse(text, document).validate(kind, context={"folder": tmp_path})
        except LocatedError as error:
            faults = str(error).splitlines()
            assert all("must be a path that exists" in fault for fault in faults), faults
