"""What the binder refuses, and how it says so."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kernels import registry
from kernels.cpu.abi import bind, header
from kernels.spec import Arguments
from tests.kernels.accuracy import make


def arguments() -> Arguments:
    spec = registry.spec("quant_matmul_fp32")
    return make(spec, next(case for case in spec.cases if case.name == "ragged_rows"))


def read_only(shape: tuple[int, ...]) -> Any:
    array = np.zeros(shape, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "x must be a numpy array, got NoneType"),
        ({"x": np.zeros((13, 128))}, r"x must be f32 \(numpy float32\), got float64"),
        ({"x": np.zeros((13, 96), np.float32)}, r"must have shape"),
        ({"x": np.zeros(128, np.float32)}, r"x must have shape \[T, K\]"),
        ({"x": np.zeros((128, 13), np.float32).T}, "x must be contiguous within a row"),
        ({"weight": np.zeros((4, 128, 16), np.float32)}, r"weight must have shape \[N/16, K, 16\]"),
        ({"bias": np.zeros(80, np.float32)}, r"bias must have shape \[N\]"),
        ({"out": read_only((13, 72))}, "out is written but its array is read-only"),
        ({"wieght": 1}, "takes no wieght; it takes"),
    ],
)
def test_bad_argument_is_refused(change: dict[str, Any], message: str) -> None:
    counts = {"T": np.zeros(1, np.int64)}
    bind(registry.spec("quant_matmul_fp32"), arguments(), counts)
    with pytest.raises(ValueError, match=message):
        bind(registry.spec("quant_matmul_fp32"), arguments() | change, counts)


def test_scalars_and_counters_are_checked() -> None:
    spec = registry.spec("rms_norm")
    given, counts = make(spec, spec.cases[0]), {"T": np.zeros(1, np.int64)}
    with pytest.raises(ValueError, match="eps must be a number of kind f64, got None"):
        bind(spec, {name: value for name, value in given.items() if name != "eps"}, counts)
    with pytest.raises(ValueError, match="needs a counter for each variable axis; none for T"):
        bind(spec, given, {})
    with pytest.raises(ValueError, match="no op has the entry point 'rms_nrom'"):
        registry.spec("rms_nrom")


def test_struct_has_a_field_of_the_header_for_every_value_bound() -> None:
    for spec in registry.specs().values():
        bound = bind(spec, make(spec, spec.cases[0]), {axis: np.zeros(1, np.int64) for axis in spec.variable})
        fields = re.findall(r"^    .*;$", header([spec]), re.MULTILINE)
        assert len(fields) == len(bound.struct)


def test_every_axis_of_every_spec_can_be_read_off_its_arrays() -> None:
    for spec in registry.specs().values():
        for case in spec.cases:
            assert {*spec.constant, *spec.variable} <= spec.sizes(make(spec, case)).keys()


def test_every_symbol_has_a_reference() -> None:
    assert all(callable(registry.reference(symbol)) for symbol in registry.specs())


def test_what_was_added_to_an_entry_point_moves_no_field() -> None:
    """Libraries of bundles that were made before read the fields that they knew."""
    spec = registry.spec("quant_matmul_experts_int8")
    before = replace(spec, tensors=tuple(tensor for tensor in spec.tensors if not tensor.is_added))
    given = make(spec, next(case for case in spec.cases if case.name == "decode"))
    counts = {"T": np.zeros(1, np.int64)}
    found, known = bind(spec, given, counts), bind(before, {n: a for n, a in given.items() if n != "bias"}, counts)
    np.testing.assert_array_equal(found.struct[: len(known.struct)], known.struct)
    assert len(found.struct) == len(known.struct) + 1 and found.struct[-1] == np.asarray(given["bias"]).ctypes.data
    assert all(tensor.optional for one in registry.specs().values() for tensor in one.tensors if tensor.is_added)
