"""examples/nightly: the workflow is one that GitHub takes, its own steps run, and systemd takes the units."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import RawConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from artifacts.registry import Registry
from optimizer.cli import coldforge, optimize
from optimizer.nights.gathering import nights_of_name
from optimizer.nights.night import EXIT_CODES, Verdict
from tests.optimizer.conftest import SCHEMES, Project, save_tiny_llama

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "nightly"
WORKFLOW = FOLDER / "retune.yml"
SCRIPTS = Path(sys.executable).parent
JOB: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["retune"]
ENV: dict[str, str] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["env"]
STEPS: dict[str, dict[str, Any]] = {step.get("id", step.get("name", step.get("uses"))): step for step in JOB["steps"]}
#: exit code of a night -> whether its job is green
GREEN = {EXIT_CODES[verdict]: verdict in ("promoted", "kept", "inconclusive") for verdict in EXIT_CODES} | {130: False}
#: what a path of the examples is on the machine that tests
INSTALLED = "/opt/coldforge/bin/"


def test_github_takes_the_workflow(tmp_path: Path) -> None:
    """By the schema that is published for it, which refuses a key that it does not know."""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOW.read_text(encoding="utf-8").replace("timeout-minutes", "timeout-hours"))
    for file, code in ((WORKFLOW, 0), (wrong, 1)):
        check = [SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(file)]
        assert subprocess.run(check, capture_output=True).returncode == code, file


def test_every_expression_names_what_there_is() -> None:
    """Steps, contexts and variables; a script reads variables, since an expression in it would be pasted as code."""
    for expression in re.findall(r"\$\{\{ (.*?) \}\}", WORKFLOW.read_text(encoding="utf-8")):
        step = re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+)", expression)
        if step:
            assert f'echo "{step[2]}=' in STEPS[step[1]]["run"]
        else:
            assert expression in {"github.run_id", "github.run_attempt", *(f"env.{name}" for name in ENV)}, expression
    for step in STEPS.values():
        assert "${{" not in step.get("run", "")
        own = {*ENV, *step.get("env", {}), "GITHUB_OUTPUT"}
        assert set(re.findall(r"\$([A-Z_]+)", step.get("run", ""))) <= own


def test_what_it_installs_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (wanted,) = re.findall(r"coldforge\[(\w+)\]", STEPS["install"]["run"])
    assert wanted in extras and "apache-otava" in STEPS["install"]["run"] and any("otava" in one for one in extras["history"])


@pytest.mark.parametrize("code", GREEN)
def test_a_night_that_regressed_or_failed_is_red(code: int, tmp_path: Path) -> None:
    told = Steps(tmp_path, {"CODE": str(code), "NAME": "tiny@production"}).run("verdict")
    assert (told.returncode == 0) == GREEN[code] and told.stdout.startswith("::"), told.stdout


def test_what_follows_a_red_night_still_runs() -> None:
    """Nothing but the last step may end the job, and the registry is kept before that."""
    names = list(STEPS)
    assert names.index("retune") < names.index("history") < names.index("Save the registry") < names.index("verdict")
    assert all("always()" in STEPS[name]["if"] for name in names[names.index("Save the registry") :])


@dataclass(frozen=True)
class Steps:
    """The workflow's steps on a runner whose checkout is `folder`, as GitHub runs them."""

    folder: Path
    env: dict[str, str]

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        script = self.folder / f"{name}.sh"
        script.write_text(STEPS[name]["run"])
        github = {"GITHUB_OUTPUT": str(self.folder / "output"), "GITHUB_STEP_SUMMARY": str(self.folder / "summary")}
        env = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}", **ENV, **github, **self.env}
        return subprocess.run(["bash", "-e", script], cwd=self.folder, env=env, capture_output=True, text=True)

    def night(self) -> dict[str, str]:
        """All of a night but what is installed and what GitHub's own actions do; the outputs of its steps."""
        for name in ("first", "retune", "history", "prune"):
            told = self.run(name)
            assert told.returncode == 0, f"{name}: {told.stdout}{told.stderr}"
        return dict(line.split("=") for line in (self.folder / "output").read_text().split())


@pytest.mark.slow
def test_two_nights_by_the_workflows_own_steps(tmp_path: Path) -> None:
    """On a tiny model: the second runner has a fresh checkout, and of the first night the registry alone."""
    pytest.importorskip("otava", reason="`make setup` installs it")
    source = save_tiny_llama(tmp_path / "tiny")
    found = []
    for number in (1, 2):
        runner = tmp_path / f"runner-{number}"
        runner.mkdir()
        (runner / "tiny").symlink_to(source)
        checkout = Project(runner)
        checkout.write({"search": {"choice": "most_accurate"}}, SCHEMES)
        checkout.spec_path.rename(runner / ENV["REFERENCE_MODEL"])
        checkout.write({}, SCHEMES)
        checkout.spec_path.rename(runner / ENV["MODEL"])
        registry = runner / ENV["COLDFORGE_REGISTRY"]
        if number == 2:
            shutil.copytree(tmp_path / "runner-1" / registry.name, registry)
        found.append(Steps(runner, {}).night())
        assert (runner / "summary").read_text().startswith("## ")
        page = (runner / "pages" / "nights.html").read_text()
        nights = nights_of_name(Registry.open(registry), ENV["NAME"])
        assert len(nights) == number and all(night.time in page for night in nights)
    assert [one["code"] for one in found] == [str(EXIT_CODES[night.verdict]) for night in nights]
    assert all(GREEN[int(one["code"])] for one in found), found
    assert len(Registry.open(registry).verify()) >= 2


def units() -> list[Path]:
    return sorted([*FOLDER.glob("*.service"), *FOLDER.glob("*.timer")])


def read_unit(path: Path) -> dict[str, list[str]]:
    """Key -> its values, of all sections."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    for path in units():
        text = path.read_text(encoding="utf-8").replace(INSTALLED, f"{SCRIPTS}/")
        (tmp_path / path.name).write_text(text)
    names = [path.name for path in units()]
    told = subprocess.run([analyze, "verify", *names], cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0 and not told.stderr, told.stderr
    wrong = tmp_path / names[0]
    wrong.write_text(wrong.read_text() + "[Service]\nKillSignal=SIGNOTHING\n")
    assert subprocess.run([analyze, "verify", wrong.name], cwd=tmp_path, capture_output=True, text=True).stderr


def test_a_unit_is_sections_of_keys() -> None:
    service, timer = (set(_sections(FOLDER / f"coldforge-retune.{kind}")) for kind in ("service", "timer"))
    assert service == {"Unit", "Service"}, "a service that a timer starts is installed by the timer alone"
    assert timer == {"Unit", "Timer", "Install"}


def _sections(path: Path) -> list[str]:
    parser = RawConfigParser(strict=False)
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser.sections()


def test_exit_codes_are_those_of_the_command() -> None:
    (status,) = read_unit(FOLDER / "coldforge-retune.service")["SuccessExitStatus"]
    assert {0, *map(int, status.split())} == {code for code, is_green in GREEN.items() if is_green}
    said: dict[str, Verdict] = {verdict: verdict for verdict in EXIT_CODES}
    case = STEPS["verdict"]["run"]
    told = {word: int(code) for code, word in re.findall(r"(\d)\) echo \"::\w+::(\w+):", case)}
    assert told == {verdict: EXIT_CODES[verdict] for verdict in said if verdict != "failed"}


@pytest.mark.parametrize("line", [
    *re.findall(r"^ *((?:coldforge|optimize) .*?)(?: \|\| .*)?$", "\n".join(s.get("run", "") for s in STEPS.values()), re.M),
    *(value.removeprefix("-").removeprefix(INSTALLED)
      for key, values in read_unit(FOLDER / "coldforge-retune.service").items() if key.startswith("Exec") for value in values),
])  # fmt: skip
def test_its_options_are_the_commands(line: str) -> None:
    name, *words = re.sub(r"\"\$\w+\"", "model.yaml", line).replace('"the first night"', "first").split()
    command: click.Command = {"coldforge": coldforge, "optimize": optimize}[name]
    context = click.Context(command)
    while isinstance(command, click.Group):
        _, rest, _ = command.make_parser(context).parse_args(words)
        found = command.get_command(context, rest[0])
        assert found is not None, line
        command, words, context = found, rest[1:], click.Context(found)
    _, rest, _ = command.make_parser(context).parse_args(words)
    assert not rest
