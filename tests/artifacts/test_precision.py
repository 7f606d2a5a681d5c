"""Names of schemes, what they store, and which shapes they refuse."""

from __future__ import annotations

import pytest

from artifacts.precision import Scheme

#: name -> bits of a weight with its scales
BITS = {
    "fp32": 32,
    "bf16": 16,
    "int3": 3.5,
    "int8": 8,
    "int8-a8": 8,
    "int8-a16": 8,
    "int4-g32-sym": 4.5,
    "int4-g64-asym": 4.375,
    "int4-g128-asym-a8": 4.1875,
    "int4-twolevel": 4.25,
    "int4-twolevel-a8": 4.25,
    "fp8": 8,
    "fp8-block": 8,
    "fp8-tensor": 8,
    "mxfp4": 4.25,
    "mxfp4-a8": 4.25,
    "nvfp4": 4.5,
}


@pytest.mark.parametrize("name", BITS)
def test_a_name_is_a_scheme_and_back(name: str) -> None:
    scheme = Scheme.parse(name)
    assert scheme.name == name and scheme.bits_per_weight == BITS[name]
    assert scheme.quantized_activations == (name.endswith("a8") or name.startswith("fp8"))
    assert scheme.static_activations == (name == "fp8-tensor")


@pytest.mark.parametrize("name", ["int4", "int4-g16-sym", "fp8-channel", "nvfp4-a8", "fp8-tensor-block", "FP8", ""])
def test_other_names(name: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"int8-a16, fp8, fp8-block, fp8-tensor, mxfp4\[-a8\], nvfp4, "
        r"int4-twolevel\[-a8\] or int4-gG-sym\|asym\[-a8\] with G in 32, 64, 128, 192; got",
    ):
        Scheme.parse(name)


def test_columns_are_whole_groups() -> None:
    assert Scheme.parse("nvfp4").refusal(8, 48) is None
    assert Scheme.parse("nvfp4").refusal(8, 40) == "in_features 40 is not a multiple of group size 16"
    assert Scheme.parse("mxfp4").refusal(8, 48) == "in_features 48 is not a multiple of group size 32"
    assert Scheme.parse("fp8-tensor").refusal(8, 40) is None
    assert Scheme.parse("int3").refusal(8, 48) == "in_features 48 is not a multiple of group size 32"
    assert Scheme.parse("int4-twolevel").refusal(8, 96) is None
    assert Scheme.parse("int4-twolevel").refusal(8, 80) == (
        "in_features 80 is not a multiple of 32: the steps of two groups share a byte"
    )
