"""What benchmarks.interchange expects of llama.cpp, against the gguf package's own rounding; and what its plans mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from benchmarks.interchange.block_activations import rounded
from benchmarks.interchange.plans import READINGS, Plan
from tests.runtime.conftest import Tiny, tiny  # noqa: F401 - fixtures


def test_activations_are_rounded_as_q8_0() -> None:
    x = np.random.default_rng(0).standard_normal((5, 96), np.float32)
    x[1] = 0
    expected = dequantize(quantize(x, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(rounded(torch.from_numpy(x)).numpy(), expected)


def test_a_plan_names_a_scheme_for_every_group(tiny: Callable[[str], Tiny]) -> None:  # noqa: F811
    architecture = tiny("llama").architecture
    plan = Plan("int8-a8", embedding="int8", num_layers=2, bf16=("*.down", "layers.2.qkv"))
    schemes = {group: scheme.name for group, scheme in plan.of(architecture).items()}
    assert {group for group, scheme in schemes.items() if scheme == "int8-a8"} == {
        "layers.1.qkv", "layers.1.o", "layers.1.gate_up", "layers.2.o", "layers.2.gate_up",
    }  # fmt: skip
    assert schemes["embed"] == "int8" and schemes["layers.0.qkv"] == schemes["layers.2.down"] == "bf16"
    assert plan.of(architecture, float_activations=True)["layers.1.o"].name == "int8"


def test_every_plan_is_of_a_format_once() -> None:
    for reading in READINGS:
        assert len(set(reading.plans)) == len(reading.plans)
