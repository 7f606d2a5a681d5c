"""Experts in two layer groups: the same bits under one scheme, each its own under two, whatever else is in a step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from artifacts.precision import Scheme
from kernels.cpu.library import Library
from kernels.reference import ReferenceProgram
from runtime.gpu.decoder import lay_out_gpu
from runtime.model_runner import ProgramRunner
from runtime.models import UnsupportedModel
from runtime.scoring import score
from tests.rounded_weights import round_weights
from tests.runtime.conftest import RARE, Tiny, limits
from tests.runtime.test_logits import TEXT, TOLERANCE, our_logits, relative_error, transformers_logits

#: softmax and sigmoid, groups of experts of which some are chosen, shared experts, a layer without any, biases of experts
NAMES = ["mixtral", "qwen3_moe, normalized", "deepseek_v2", "deepseek_v3", "gpt_oss"]


@pytest.mark.parametrize("scheme", ["fp32", "int8-a8", "int8-a16", "int4-g32-asym-a8"])
@pytest.mark.parametrize("name", NAMES)
def test_to_stand_apart_changes_no_bit(tiny: Callable[[str], Tiny], library: Library, name: str, scheme: str) -> None:
    room = limits(num_threads=2)
    together, apart = (score(tiny(each).runner(library, scheme, room), TEXT) for each in (name, name + RARE))
    assert together.tobytes() == apart.tobytes()


@pytest.mark.parametrize("chunk", [7, 128])
@pytest.mark.parametrize(
    ("name", "scheme", "of_rare"),
    [("gemma4, experts", "int4-g32-sym", "int8"), ("mixtral", "int4-g32-sym", "int8"), ("gpt_oss", "int8", "fp32")],
)
def test_each_expert_has_the_weights_of_its_scheme(
    tiny: Callable[[str], Tiny], library: Library, name: str, scheme: str, of_rare: str, chunk: int
) -> None:
    """Of rounded weights with float activations, against transformers on the same values."""
    model = tiny(name + RARE)
    named = f"{scheme}, rare {of_rare}"
    rounded = copy.deepcopy(model.model)
    round_weights(rounded, model.source, model.plan(named))
    theirs = transformers_logits(rounded, TEXT)
    (ours,) = our_logits(model, named, library, chunk, TEXT)
    assert relative_error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(
    ("scheme", "of_rare"),
    [("int4-g32-asym-a8", "int8"), ("int4-g32-asym-a8", "int8-a16"), ("int8", "int8-a8"), ("int4-g32-sym-a8", "int8-a8")],
)
@pytest.mark.parametrize(
    "name", [pytest.param("gemma4, experts", marks=pytest.mark.slow), "qwen3_moe, normalized", "deepseek_v3", "gpt_oss"]
)
def test_a_pairs_row_is_that_of_its_expert_under_the_experts_own_scheme(
    tiny: Callable[[str], Tiny], library: Library, name: str, scheme: str, of_rare: str
) -> None:
    """Two plans that differ in the rare experts give their rows other bits, and every other row the same; each those that a
    plan of its own scheme alone gives."""
    model, plain, tokens = tiny(name + RARE), tiny(name), TEXT[:24]
    last = model.architecture.num_layers - 1
    group = f"layers.{last}.experts_down"
    rare = model.architecture.rare_experts(last)

    def pairs(one: Tiny, schemes: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """What the last layer's experts give, and the expert of each row: everything else is in fp32."""
        plan = dict.fromkeys(one.architecture.linear_shapes(), "fp32") | dict(schemes)
        runner = one.runner(library, plan, limits(max_num_batched_tokens=32, max_model_len=32))
        score(runner, tokens)
        calls = runner.step.program.calls
        product = next(call for call in calls if call.label == group and "offsets" in call.arguments)
        route = next(call for call in calls if call.symbol.startswith("moe_route") and call.label == f"layers.{last}.router")
        places = next(call for call in calls if call.symbol.startswith("moe_sort") and call.label == f"layers.{last}.router")
        ids, where = (np.asarray(call.arguments[n])[: len(tokens)] for call, n in ((route, "topk_ids"), (places, "places")))
        return np.asarray(product.arguments["out"])[where.ravel()], ids.ravel()

    def under(scheme: str) -> dict[str, str]:
        return {f"layers.{last}.{kind}": scheme for kind in ("experts_gate_up", "experts_down")}

    apart = {f"layers.{last}.rare_{kind}": of_rare for kind in ("experts_gate_up", "experts_down")}
    found, ids = pairs(model, under(scheme) | apart)
    of_others, same = pairs(plain, under(scheme))
    of_those, _ = pairs(plain, under(of_rare))
    is_rare = np.isin(ids, rare)
    assert (ids == same).all() and is_rare.any() and not is_rare.all()
    assert found[~is_rare].tobytes() == of_others[~is_rare].tobytes()
    assert found[is_rare].tobytes() == of_those[is_rare].tobytes() != of_others[is_rare].tobytes()


def test_references_agree(tiny: Callable[[str], Tiny], library: Library) -> None:
    model, tokens = tiny("mixtral" + RARE), TEXT[:20]
    room = limits(max_num_batched_tokens=32, max_model_len=32)
    step = model.step("int4-g32-sym, rare int8-a8", room)
    expected = score(ProgramRunner(step, ReferenceProgram(step.program)), tokens)
    found = score(model.runner(library, "int4-g32-sym, rare int8-a8", room), tokens)
    assert relative_error(found, expected) < TOLERANCE


def test_gpus_refuse_them(tiny: Callable[[str], Tiny]) -> None:
    model = tiny("mixtral" + RARE)
    plan = dict.fromkeys(model.architecture.linear_shapes(), Scheme("bf16"))
    with pytest.raises(UnsupportedModel, match="one scheme for all experts"):
        lay_out_gpu(model.architecture, plan, "bf16", {}, limits(), torch.bfloat16, torch.device("cpu"))
