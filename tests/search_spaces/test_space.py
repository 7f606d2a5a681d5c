"""The shipped spaces and devices are valid, agree with the kernels, and can be overridden with care."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from kernels.cpu.isa import ISAS
from kernels.gpu.target import ARCHS
from kernels.registry import tunings
from search_spaces.located_yaml import LocatedError
from search_spaces.schema import Device, Figure
from search_spaces.space import buildable_names, device, device_names, load_space


@pytest.fixture
def override(tmp_path: Path) -> Path:
    return tmp_path / "space.yaml"


def test_every_device_whose_code_can_be_compiled_can_be_built_for() -> None:
    assert {"a100", "b200", "cpu", "h100", "h200", "l40s", "mi300x"} <= set(buildable_names())
    assert all(device(name).arch in ARCHS for name in buildable_names() if name != "cpu")


@pytest.mark.parametrize("name", device_names())
def test_devices(name: str) -> None:
    found = device(name)
    assert found.name == name
    if found.kind == "cpu":
        assert not found.peak_tflops and found.memory_bandwidth_gbps is None
    else:
        assert found.memory_bandwidth_gbps is not None and {"fp32", "bf16", "int8"} <= found.peak_tflops.keys()
        # Decode reads every weight once: a device whose ratio is far from this has a figure in the wrong unit.
        ratio = 1e12 * found.peak_tflops["bf16"].value / (1e9 * found.memory_bandwidth_gbps.value)
        assert 30 < ratio < 1000, f"{ratio:.0f} operations a byte"


def test_an_unknown_device() -> None:
    with pytest.raises(ValueError, match=r"a100, b200, cpu, h100.*got 'h900'"):
        device("h900")


def test_a_figure_needs_its_source() -> None:
    with pytest.raises(ValidationError, match="'sheet' is not"):
        Device(name="x", title="x", kind="gpu", buildable=False, num_sms=Figure(value=1, source="sheet"))
    with pytest.raises(ValidationError, match="'sheet' supports none"):
        Device(name="x", title="x", kind="gpu", buildable=False, sources={"sheet": "a data sheet"})


def test_kernel_spaces_offer_what_the_kernels_take() -> None:
    space = load_space()
    assert space.kernels.keys() == tunings().keys()
    for op, tuning in tunings().items():
        offered = space.kernels[op].constants
        assert offered.keys() == tuning.values.keys()
        for name, values in offered.items():
            assert set(values) <= set(tuning.values[name]), f"{op}: {name}"
        for isa in ISAS:
            legal = [c for c in tuning.candidates(isa) if all(c[name] in offered[name] for name in c)]
            assert legal, f"{op}: nothing offered is legal on {isa.name}"


def test_schemes_are_given_by_kind() -> None:
    assert [scheme.name for scheme in load_space().precision.groups.of("down")][-1] == "bf16"


def test_an_override_replaces_lists_and_keeps_the_rest(override: Path) -> None:
    override.write_text("precision:\n  groups:\n    embed: [int8]\nserving: {kv_block_size: [16]}\n")
    space, shipped = load_space(override), load_space()
    assert space.precision.groups.embed == ("int8",)
    assert space.precision.groups.qkv == shipped.precision.groups.qkv
    assert space.serving.kv_block_size == (16,)
    assert space.kernels == shipped.kernels


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ("precision:\n  group:\n    embed: [int8]\n", 2, "precision.group: unknown key; did you mean 'groups'"),
        ("kernels:\n  quant_matmull:\n    constants: {}\n", 2, "did you mean 'quant_matmul'"),
        (
            "kernels:\n  quant_matmul:\n    constants:\n      QUANT_MATMUL_ROW: [1]\n",
            4,
            "did you mean 'QUANT_MATMUL_ROWS'",
        ),
        ("precision:\n  kv_cache:\n", 2, "must be a list"),
        ("precision:\n  kv_cache: []\n", 2, "must not be empty"),
        (
            "precision:\n  kv_cache: [fp32,\n    fp64]\n",
            3,
            "must be 'fp32', 'bf16', 'fp16', 'int8' or 'fp8', got 'fp64'; did you mean",
        ),
        ("precision:\n  groups:\n    o:\n    - int8\n    - int5\n", 5, "a scheme is .* got 'int5'"),
        ("serving:\n\n  max_num_seqs: [4, 4]\n", 3, "must be distinct, got 4 twice"),
        ("serving:\n  max_num_seqs: [4.5]\n", 2, "valid integer"),
        ("serving:\n  max_num_seqs: [0]\n", 2, "must be greater than 0, got 0"),
        ("serving:\n  kv_block_size: [24]\n", 2, "multiple of 16 tokens, got 24"),
        ("serving: 3\n", 1, "serving: must be a mapping"),
    ],
)
def test_a_bad_override_is_named_by_file_and_line(override: Path, text: str, line: int, fault: str) -> None:
    override.write_text(text)
    with pytest.raises(LocatedError, match=fault) as caught:
        load_space(override)
    assert str(caught.value).startswith(f"{override}:{line}: ")
