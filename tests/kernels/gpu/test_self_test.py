"""The self-test at load, with Triton's interpreter as the runner: it passes where kernels are right and names what is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels import registry
from kernels.gpu import self_test
from kernels.gpu.launch import F32, OpPlan
from kernels.gpu.oracle import Expected
from kernels.gpu.refusals import SelfTestFailed, TableRefused
from kernels.gpu.self_test import Check
from kernels.gpu.target import Target
from kernels.interpreter import Interpreter
from kernels.spec import Case

TARGET = Target.of("sm_90", 132)


def check(name: str = "residual", **sizes: int) -> Check:
    every = {"T": 3, "G": 1, "D": 104, "residual": 1, "spread_thousandths": 3000} | sizes
    return Check("gpu_rms_norm", "f16", Case(name, every), {"num_warps": 1}, seed=7)


CHECKS = (check(), check("heads", G=3, D=24, residual=0), check("no_tokens", T=0))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[self_test.Recorded]:
    folder = tmp_path_factory.mktemp("self_test")
    self_test.write([one.record() for one in CHECKS], folder)
    return self_test.read(folder)


def test_kernels_that_are_right_pass(recorded: list[self_test.Recorded]) -> None:
    self_test.self_test(Interpreter().run, recorded, TARGET, device="cpu")


def test_a_wrong_result_is_named_with_its_error(recorded: list[self_test.Recorded]) -> None:
    def wrong_epsilon(plan: OpPlan, tensors: Mapping[str, torch.Tensor | None]) -> None:
        (launch,) = plan.launches
        wrong = replace(launch, arguments={**launch.arguments, "eps": F32(0.3)})
        Interpreter().run(replace(plan, launches=(wrong,)), tensors)

    with pytest.raises(
        SelfTestFailed, match=r"gpu_rms_norm in f16, residual .*'D': 104.*num_warps.*: out is off by .*, allowed are"
    ) as caught:
        self_test.self_test(wrong_epsilon, recorded, TARGET, device="cpu")
    assert "heads" in str(caught.value)
    assert "no_tokens" not in str(caught.value)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 0.0])
def test_one_bad_element_of_one_output_is_seen(poison: float, recorded: list[self_test.Recorded]) -> None:
    def poisoned(plan: OpPlan, tensors: Mapping[str, torch.Tensor | None]) -> None:
        Interpreter().run(plan, tensors)
        residual = tensors["residual"]
        if residual is not None and residual.numel():
            residual.view(-1)[5] = poison

    with pytest.raises(SelfTestFailed, match="residual is off by") as caught:
        self_test.self_test(poisoned, recorded, TARGET, device="cpu")
    assert str(caught.value).count("is off by") == 1


def test_a_kernel_that_does_nothing_is_seen(recorded: list[self_test.Recorded]) -> None:
    with pytest.raises(SelfTestFailed, match="out is off by"):
        self_test.self_test(lambda plan, tensors: None, recorded, TARGET, device="cpu")


def test_other_inputs_are_told_from_wrong_results(recorded: list[self_test.Recorded]) -> None:
    other = replace(recorded[0], check=replace(recorded[0].check, seed=8))
    with pytest.raises(SelfTestFailed, match=rf"its inputs are not those that were recorded \(numpy is {np.__version__}\)"):
        self_test.self_test(Interpreter().run, [other], TARGET, device="cpu")


def test_records_survive_and_are_the_same_bytes(recorded: list[self_test.Recorded], tmp_path: Path) -> None:
    again = [one.record() for one in CHECKS]
    for one, other in zip(again, recorded, strict=True):
        assert (one.check, one.inputs_sha256) == (other.check, other.inputs_sha256)
        assert one.expected.keys() == other.expected.keys()
        for name, of in one.expected.items():
            assert of.values.equal(other.expected[name].values)
            assert of.allowed == other.expected[name].allowed
    self_test.write(again, tmp_path)
    first = (tmp_path / self_test.FILE).read_bytes()
    self_test.write(again, tmp_path)
    assert (tmp_path / self_test.FILE).read_bytes() == first


def test_a_damaged_record_is_refused(recorded: list[self_test.Recorded], tmp_path: Path) -> None:
    with pytest.raises(TableRefused, match=r"self_test\.npz must hold recorded results"):
        self_test.read(tmp_path)
    self_test.write(recorded, tmp_path)
    path = tmp_path / self_test.FILE
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-30], whole.replace(b"inputs_sha256", b"inputs_sha255")):
        path.write_bytes(damaged)
        with pytest.raises(TableRefused):
            self_test.read(tmp_path)


def test_what_must_be_frozen_for_a_check_is_its_plan() -> None:
    call, plan = CHECKS[1].plan(TARGET)
    assert call["x"].shape == (3, 3, 24)
    assert plan == registry.plan_call(call, TARGET, {"num_warps": 1})
    assert plan.launches[0].constants["X_STRIDE"] == 96


def test_infinities_agree_where_they_are_equal() -> None:
    infinite = Expected(torch.tensor([-torch.inf, 1.0], dtype=torch.float64), 0.5)
    assert infinite.error(torch.tensor([-torch.inf, 1.25])) == 0.25
    assert infinite.error(torch.tensor([0.0, 1.0])) == torch.inf
    assert not infinite.error(torch.tensor([-torch.inf, torch.nan])) <= infinite.allowed
