from __future__ import annotations

import pytest

from artifacts.architecture import Architecture
from artifacts.layer_groups import kind_of
from artifacts.layer_parts import Moe
from artifacts.precision import Scheme
from optimizer.search.bands import fitting_schemes, make_bands, plan_of
from optimizer.search.sensitivity import Probes, what_is_probed
from runtime.models import checkpoint_tensors
from search_spaces.space import load_space

FP32, INT8, INT4_G64 = Scheme.parse("fp32"), Scheme.parse("int8"), Scheme.parse("int4-g64-sym")
KINDS = ("embed", "qkv", "o", "gate_up", "down", "head")


def architecture(**changes: int) -> Architecture:
    sizes = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_layers": 7, "num_q_heads": 4, "num_kv_heads": 2}
    return Architecture(family="llama", head_dim=16, max_position=64, rms_norm_eps=1e-5, **{**sizes, **changes})


def test_bands_cover_every_group_once_from_robust_to_sensitive() -> None:
    shapes = architecture().linear_shapes()
    sensitivity = {group: float(index) for index, group in enumerate(shapes)}
    bands = make_bands(architecture(), sensitivity, dict.fromkeys(KINDS, (INT8, FP32)))
    assert sorted(group for band in bands for group in band.groups) == sorted(shapes)
    of_qkv = [band for band in bands if kind_of(band.groups[0]) == "qkv"]
    assert [band.name for band in of_qkv] == ["qkv.robust", "qkv.middling", "qkv.sensitive"]
    worst = [max(sensitivity[group] for group in band.groups) for band in of_qkv]
    assert worst == sorted(worst)
    assert [len(band.groups) for band in of_qkv] == [2, 2, 3]
    assert [band.name for band in bands if "." not in band.name] == ["embed", "head"]
    assert plan_of(bands, {band.name: "int8" for band in bands}) == dict.fromkeys(shapes, INT8)


def test_a_scheme_is_offered_only_where_it_fits() -> None:
    fitting = fitting_schemes(architecture().linear_shapes(), dict.fromkeys(KINDS, (INT4_G64, INT8)))
    assert fitting["qkv"] == (INT4_G64, INT8)
    assert fitting["down"] == (INT8,), "96 inputs are not a multiple of 64"


def test_a_kind_that_nothing_fits() -> None:
    with pytest.raises(ValueError, match=r"for 'down' fits its shape \(64, 96\) \(int4-g64-sym: in_features 96"):
        fitting_schemes(architecture().linear_shapes(), dict.fromkeys(KINDS, (INT4_G64,)))


def test_fused_neighbours_are_one_group_so_every_plan_gives_them_one_scheme() -> None:
    parts = {name: [part.name.split(".")[-2] for part in parts] for name, parts in checkpoint_tensors(architecture()).items()}
    assert parts["layers.0.qkv.weight"] == ["q_proj", "k_proj", "v_proj"]
    assert parts["layers.0.gate_up.weight"] == ["gate_proj", "up_proj"]
    assert {"layers.0.qkv", "layers.0.gate_up"} < set(architecture().linear_shapes())


def test_experts_are_groups_of_their_own_and_rare_ones_are_offered_8_bits() -> None:
    moe = Moe(
        num_experts=4,
        num_experts_per_token=2,
        intermediate_size=64,
        shared_intermediate_size=96,
        rare_experts=((1,), (), (0, 3)),
    )
    a = architecture(num_layers=3).model_copy(update={"moe": moe})
    shapes, space = a.linear_shapes(), load_space().precision.groups
    assert shapes["layers.0.experts_down"] == (3 * 64, 64) and shapes["layers.2.rare_experts_gate_up"] == (2 * 128, 64)
    assert "layers.1.rare_experts_down" not in shapes
    offered = fitting_schemes(shapes, {kind: space.of(kind) for kind in map(kind_of, shapes)})
    assert offered["experts_down"] == space.of("down") and offered["gate_up"] == space.of("gate_up")
    assert [s.name for s in offered["rare_experts_down"]] == ["int8-a8", "int8-a16", "int8", "bf16"]
    only_int4 = space.model_copy(update={"down": ("int4-g32-sym",)})
    assert only_int4.of("experts_down") == (Scheme.parse("int4-g32-sym"),) and only_int4.of("rare_experts_down") == (INT8,)

    probed = what_is_probed(offered, shapes)
    assert {group for group, _ in probed} == shapes.keys()
    assert ("layers.1.experts_gate_up", Probes.among(space.of("gate_up")).weights) in probed
    bands = {band.name: band.groups for band in make_bands(a, dict.fromkeys(shapes, 0.0), offered)}
    assert bands["experts_down.robust"] == ("layers.0.experts_down",)
    assert bands["rare_experts_down"] == ("layers.0.rare_experts_down", "layers.2.rare_experts_down")
