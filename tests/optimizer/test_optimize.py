"""`optimize` killed, interrupted, refused, without a compiler; and by other rules."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.precision import Plan
from artifacts.reader import verify_bundle
from optimizer.evaluation import Evaluation, Gate, NonFiniteLogitsError
from optimizer.search.accuracy import Judge
from tests.optimizer.conftest import NUM_TRIALS, SCRIPTS, MakeProject, Project, num_sensitivities, num_trials
from tests.server.serving_process import ask, serving
from tests.waiting import wait_for

#: the command, with plans that take a tenth of a second to score, so that it can be hit while it scores them
SLOWED = """
import time
from functools import wraps
from optimizer.cli import optimize
from optimizer.measure import paired_speed
from optimizer.search.accuracy import Judge
from optimizer.measure.timing import interleaved_ms

def slowed(method):
    @wraps(method)
    def wrapper(*arguments):
        time.sleep(0.1)
        return method(*arguments)
    return wrapper

Judge.probe_kl, Judge.scores = slowed(Judge.probe_kl), slowed(Judge.scores)
paired_speed.interleaved_ms = lambda actions, **options: interleaved_ms(actions, **options | {"min_round_ms": 1.0})
optimize()
"""


def hear_ctrl_c() -> None:
    """For a child: whoever runs the tests in the background has it ignore SIGINT, and a child inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(project: Project) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOWED, str(project.spec_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )


def signal_when(process: subprocess.Popen[str], condition: Callable[[], bool], number: signal.Signals) -> tuple[int, str]:
    """Send `number` once `condition` holds; the exit code, and what was said."""

    def is_due() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return condition()

    wait_for(is_due)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


def trial_lines(project: Project) -> list[str]:
    return (project.bundle / "search/trials.jsonl").read_text().splitlines()


def choices(project: Project) -> list[Any]:
    return [json.loads(line)["choice"] for line in trial_lines(project)]


@pytest.mark.slow
def test_kill_9_in_sensitivity_and_in_the_search_loses_only_what_was_running(project: MakeProject) -> None:
    made = project()
    code, _ = signal_when(start(made), lambda: num_sensitivities(made.study_db) >= 3, signal.SIGKILL)
    assert code == -signal.SIGKILL
    probed = num_sensitivities(made.study_db)
    assert 3 <= probed < 16 and not made.bundle.exists()

    code, said = signal_when(start(made), lambda: num_trials(made.study_db) >= 3, signal.SIGKILL)
    assert code == -signal.SIGKILL
    known = num_trials(made.study_db)
    assert 3 <= known < NUM_TRIALS and not made.bundle.exists()
    assert "sampling text" not in said, "what the killed run had measured is known"

    result = made.optimize()
    assert result.exit_code == 0, result.output
    assert f"precision search ({known} known)" in result.output
    verify_bundle(made.bundle)
    assert len(trial_lines(made)) == NUM_TRIALS


@pytest.mark.slow
def test_ctrl_c_ends_the_search_with_what_there_is_and_elsewhere_the_run(project: MakeProject) -> None:
    made = project()
    code, said = signal_when(start(made), lambda: num_sensitivities(made.study_db) >= 3, signal.SIGINT)
    assert code == 130
    assert said.endswith("stopped; run the same command to continue\n")
    assert "Traceback" not in said

    code, said = signal_when(start(made), lambda: num_trials(made.study_db) >= 3, signal.SIGINT)
    assert code == 0, said
    assert "stopping after this trial" in said
    verify_bundle(made.bundle)
    first = choices(made)
    assert 3 <= len(first) < NUM_TRIALS

    result = made.optimize()
    assert result.exit_code == 0, result.output
    assert len(choices(made)) == NUM_TRIALS
    assert choices(made)[: len(first)] == first


def test_ctrl_c_while_it_starts(project: MakeProject) -> None:
    command = [SCRIPTS / "optimize", project().spec_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    maps = Path(f"/proc/{process.pid}/maps")
    if not maps.exists():
        pytest.skip("/proc/PID/maps is Linux's")
    code, said = signal_when(process, lambda: "libtorch" in maps.read_text(), signal.SIGINT)
    assert code == 130, said
    assert said == "stopped; run the same command to continue\n"


def test_more_trials_go_on_with_those_there_are(finished: Project, tmp_path: Path) -> None:
    again = Project(tmp_path / "again")
    shutil.copytree(finished.folder, again.folder)
    before = choices(again)
    assert again.optimize("--trials", str(NUM_TRIALS + 3)).exit_code == 0
    assert choices(again)[:NUM_TRIALS] == before
    assert len(choices(again)) == NUM_TRIALS + 3


@pytest.mark.parametrize("rule", ["most_accurate", "smallest"])
def test_another_rule_chooses_from_the_same_trials(finished: Project, tmp_path: Path, rule: str) -> None:
    again = Project(tmp_path / "again")
    shutil.copytree(finished.folder, again.folder)
    spec = json.loads(again.spec_path.read_text())
    again.spec_path.write_text(json.dumps(spec | {"search": spec["search"] | {"choice": rule}}))
    assert again.optimize().exit_code == 0
    assert choices(again) == choices(finished)
    trials = [json.loads(line) for line in trial_lines(again)]
    (chosen,) = [trial for trial in trials if trial["chosen"]]
    if rule == "most_accurate":
        assert chosen["kl"] == min(trial["kl"] for trial in trials)
    else:
        assert set(chosen["choice"].values()) == {"int4-g32-asym-a8"}


def test_a_timeout_ends_the_search(project: MakeProject) -> None:
    made = project(search={"trials": 100_000})
    result = made.optimize("--timeout", "0.5s")
    assert result.exit_code == 0, result.output
    assert 1 <= len(trial_lines(made)) < 200


def test_a_gate_that_nothing_passes(project: MakeProject, finished: Project) -> None:
    made = project(schemes=["int4-g32-asym-a8"], gate={"max_kl": 1e-9})
    shutil.copytree(finished.bundle, made.bundle)
    before = verify_bundle(made.bundle).digest
    result = made.optimize()
    assert result.exit_code == 3, result.output
    last = result.output.splitlines()[-1]
    assert last.startswith("nothing passes the gate, so no bundle was written: none of 1 trials is within the gate; trial 0")
    assert "misses a limit by" in last
    assert verify_bundle(made.bundle).digest == before, "a bundle that was there stays"


def test_every_text_must_pass(project: MakeProject, tmp_path: Path) -> None:
    words = "the quick brown fox jumps over the lazy dog while five wizards vex bold quilts "
    (tmp_path / "prose.txt").write_text(words * 12)
    (tmp_path / "code.txt").write_text("".join(f"def f{i}(x):\n    return x * {i}\n" for i in range(40)))
    evaluation = {"text": ["prose.txt", "code.txt"], "num_sequences": 4, "tokens_per_sequence": 32}
    made = project(evaluation=evaluation, search={"trials": 2})
    result = made.optimize()
    assert result.exit_code == 0, result.output
    record = json.loads((made.bundle / "evaluation.json").read_text())
    assert set(record["sets"]) == {"prose", "code"}
    for name in record["sets"]:
        assert record["sets"][name]["num_sequences"] == 4
        assert record["sets"][name]["kl"]["high"] <= 0.05
        assert name in (made.bundle / "report.html").read_text()


def test_ends_of_sequence_that_do_not_fit_the_template_are_said_and_completed(project: MakeProject, tiny_llama: Path) -> None:
    made = project(search={"trials": 1}, schemes=["int8"])
    (made.folder / "tiny").unlink()
    shutil.copytree(tiny_llama, made.folder / "tiny")
    (made.folder / "tiny" / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    result = made.optimize()
    assert result.exit_code == 0, result.output
    assert (
        "after a reply the chat template writes '</s>', token 1, which is not among the ends of sequence 0, 2" in result.output
    )
    assert json.loads((made.bundle / "generation_config.json").read_text())["eos_token_id"] == [0, 2, 1]


def test_an_arrival_rate_becomes_a_concurrency(project: MakeProject) -> None:
    made = project(workload={"prompt_tokens": 32, "output_tokens": 16, "arrival_rate_rps": 1e6}, search={"trials": 1})
    result = made.optimize()
    assert result.exit_code == 0, result.output
    workload = json.loads((made.bundle / "evaluation.json").read_text())["workload"]
    assert workload == {"prompt_tokens": 32, "output_tokens": 16, "concurrency": 4}, "as many as the space serves at once"


@pytest.mark.slow
def test_without_a_compiler_the_references_make_a_bundle_that_serves(project: MakeProject) -> None:
    made = project(search={"trials": 1}, schemes=["int8"])
    environment = {**os.environ, "CXX": "/nonexistent"}
    done = subprocess.run([SCRIPTS / "optimize", made.spec_path], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler: CXX=/nonexistent does not run" in done.stderr
    assert "need torch to serve" in done.stderr
    manifest = verify_bundle(made.bundle)
    assert [kernels.backend for kernels in manifest.kernels] == ["reference"]
    assert manifest.target.machine is None and not manifest.target.cpu_flags
    with serving(made.bundle, made.folder / "stderr") as server:
        assert ask(server, "Hi", max_tokens=3).usage.completion_tokens == 3
        assert "serve it, slowly, with torch" in server.said()

    assert made.optimize().exit_code == 0
    compiled = verify_bundle(made.bundle)
    assert compiled.kernels[0].backend == "cpu"
    assert compiled.provenance.study != manifest.provenance.study, "the references' times are not the kernels'"


def test_a_trial_without_a_score_does_not_end_the_search(project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, plans = Judge.evaluate_until_hopeless, []

    def broken_once(judge: Judge, plan: Plan, gate: Gate) -> dict[str, Evaluation]:
        plans.append(plan)
        if len(plans) == 1:
            raise NonFiniteLogitsError("candidate logits must be finite, got NaN or infinity")
        return evaluate(judge, plan, gate)

    monkeypatch.setattr(Judge, "evaluate_until_hopeless", broken_once)
    made = project()
    result = made.optimize()
    assert result.exit_code == 0, result.output
    first, *others = map(json.loads, trial_lines(made))
    assert first["failure"] == "candidate logits must be finite, got NaN or infinity" and not first["chosen"]
    assert len(others) == NUM_TRIALS - 1 and not any("failure" in trial for trial in others)
