"""Checkpoints quantized elsewhere: values are their writers', codes and scales survive in the schemes that hold them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from safetensors.torch import load_file
from transformers import LlamaConfig

from artifacts.precision import Scheme
from optimizer.importers import DamagedTensor, Misfit, Source, describe_stored_codes, open_source
from optimizer.quantization import QuantizedMatrix
from tests.importers.prequantized_writing import (
    CONFIG,
    Written,
    change_quantization,
    change_tensor,
    linear_shapes,
    write_awq,
    write_compressed_tensors,
    write_fp8,
    write_gptq,
)
from tests.importers.test_hf_folder import anonymous_bytes, assert_tensors_equal, joined_state_dict

LINEAR = ("layers.0.qkv", "layers.0.o", "layers.0.gate_up", "layers.0.down")
#: layer group -> the modules whose rows it joins
MODULES = {
    "layers.0.qkv": [f"model.layers.0.self_attn.{x}_proj" for x in "qkv"],
    "layers.0.o": ["model.layers.0.self_attn.o_proj"],
    "layers.0.gate_up": [f"model.layers.0.mlp.{x}_proj" for x in ("gate", "up")],
    "layers.0.down": ["model.layers.0.mlp.down_proj"],
}
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def kept(source: Source, group: str, scheme: str) -> QuantizedMatrix:
    """The stored codes in `scheme`, whose values must be those of the float tensor bit for bit."""
    parsed = Scheme.parse(scheme)
    found = source.stored(group, parsed)
    assert isinstance(found, QuantizedMatrix) and found.scheme == parsed, found
    matrix = found
    assert matrix.shape == source.architecture.linear_shapes()[group]
    np.testing.assert_array_equal(matrix.dequantize(), source.tensor(f"{group}.weight").numpy())
    return matrix


def misfit(source: Source, group: str, scheme: str) -> str:
    found = source.stored(group, Scheme.parse(scheme))
    assert isinstance(found, Misfit), found
    return found.reason


def joined(of: dict[str, np.ndarray], group: str) -> np.ndarray:
    return np.concatenate([of[name] for name in MODULES[group]])


def assert_values(source: Source, written: Written) -> None:
    assert_tensors_equal(source, joined_state_dict(written.state(), source.architecture))


INT4: dict[str, Any] = {"num_bits": 4, "strategy": "group"}
TOKENS = {"strategy": "token", "dynamic": True}
#: weights, activations, format if not the library's own choice, schemes that hold it, a scheme that does not, and why
COMPRESSED: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str | None, tuple[str, ...], str, str]] = {
    "int4 g32": (
        {**INT4, "group_size": 32}, None, None, ("int4-g32-sym", "int4-g32-asym"), "int4-g64-sym", "a scale is for 32 columns",
    ),
    "int4 g128": (
        {**INT4, "group_size": 128}, None, None, ("int4-g128-sym", "int4-g64-sym", "int4-g32-asym"), "fp8", "codes are uint4",
    ),
    "int4 g64 asymmetric": (
        {**INT4, "group_size": 64, "symmetric": False}, None, None, ("int4-g64-asym", "int4-g32-asym-a8"),
        "int4-g64-sym", "zero points are not all 8",
    ),
    "int4 of channels": (
        {"num_bits": 4, "strategy": "channel"}, None, None, ("int4-g64-sym", "int8"), "mxfp4", "codes are uint4",
    ),
    "int4 in bytes": ({**INT4, "group_size": 32}, None, "naive-quantized", ("int4-g32-sym",), "int8", "for 32 columns"),
    "int8 of groups": ({"num_bits": 8, "strategy": "group", "group_size": 32}, None, None, (), "int8", "not for a whole row"),
    "int8, packed": ({"num_bits": 8, "strategy": "channel"}, None, None, ("int8",), "int4-g32-sym", "codes are uint8"),
    "w8a8": ({"num_bits": 8, "strategy": "channel"}, TOKENS, "int-quantized", ("int8", "int8-a8"), "fp8", "uint8"),
    "w8a8 of tensors": ({"num_bits": 8, "strategy": "tensor"}, TOKENS, "int-quantized", ("int8-a8",), "fp8-block", "uint8"),
    "w8a8 asymmetric": (
        {"num_bits": 8, "strategy": "channel", "symmetric": False}, TOKENS, "int-quantized", (), "int8", "fit into int8",
    ),
    "fp8 of tensors": ({"num_bits": 8, "type": "float", "strategy": "tensor"}, {"num_bits": 8, "type": "float", **TOKENS},
                       "float-quantized", ("fp8", "fp8-block"), "int8", "e4m3"),
    "fp8 of tensors, static": (
        {"num_bits": 8, "type": "float", "strategy": "tensor"},
        {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}, "float-quantized",
        ("fp8-tensor", "fp8", "fp8-block"), "int8", "e4m3",
    ),
    "fp8 of channels": ({"num_bits": 8, "type": "float", "strategy": "channel"}, None, "naive-quantized", ("fp8",),
                        "fp8-block", "a scale is for 1 x 128 weights"),
    "fp8 of blocks": (
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}, None, "float-quantized",
        ("fp8-block",), "int4-g32-sym", "e4m3",
    ),
    "nvfp4": (
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}, None, None, ("nvfp4",), "mxfp4",
        "16 columns",
    ),
    "mxfp4": (
        {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}, None, None,
        ("mxfp4",), "nvfp4", "a scale is for 32 columns, not for 16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", COMPRESSED)
def test_compressed_tensors(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Values are the library's, before it rounds them to the dtype of its scales."""
    weights, activations, form, schemes, refused, reason = COMPRESSED[kind]
    written = write_compressed_tensors(
        tmp_path,
        QuantizationArgs(**weights),
        form=form,
        activations=QuantizationArgs(**activations) if activations else None,
        dtype=dtype,
    )
    source = open_source(tmp_path)
    for group, names in MODULES.items():
        ours, theirs = source.tensor(f"{group}.weight"), torch.cat([written.values[name] for name in names])
        assert ours.dtype == F32
        assert torch.equal(ours.to(theirs.dtype), theirs), group
        if "fp4" in kind:
            assert theirs.dtype == BF16
        elif dtype == F32:
            assert theirs.dtype == F32
    for scheme in schemes:
        if "int4" in scheme and dtype == F32:
            found = source.stored("layers.0.o", Scheme.parse(scheme))
            assert isinstance(found, QuantizedMatrix) and 0 < found.rounding < 2**-11
        else:
            for group in LINEAR:
                kept(source, group, scheme)
    if dtype == BF16 or "int4" not in refused:
        assert reason in misfit(source, "layers.0.gate_up", refused)
    assert source.tensor("head.weight").dtype == source.tensor("embed.weight").dtype == dtype
    assert source.stored("head", Scheme.parse("int8")) is None
    assert source.stored("layers.0.o", Scheme.parse("bf16")) is None


@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_codes_are_the_librarys(symmetric: bool, tmp_path: Path) -> None:
    args = QuantizationArgs(num_bits=4, strategy="group", group_size=32, symmetric=symmetric)
    write_compressed_tensors(tmp_path, args, dtype=F16)
    source, stored = open_source(tmp_path), load_file(tmp_path / "model.safetensors")
    for group, names in MODULES.items():
        matrix = kept(source, group, "int4-g32-sym" if symmetric else "int4-g32-asym")
        shapes = [tuple(stored[f"{name}.weight_shape"].tolist()) for name in names]
        unpacked = [unpack_from_int32(stored[f"{n}.weight_packed"], 4, s) for n, s in zip(names, shapes, strict=True)]
        np.testing.assert_array_equal(matrix.codes, torch.cat(unpacked).numpy() + 8)
        np.testing.assert_array_equal(matrix.scales, torch.cat([stored[f"{name}.weight_scale"] for name in names]).numpy())
        if not symmetric:
            zeros = [
                unpack_from_int32(stored[f"{n}.weight_zero_point"], 4, (s[0], s[1] // 32), packed_dim=0)
                for n, s in zip(names, shapes, strict=True)
            ]
            np.testing.assert_array_equal(matrix.zeros, torch.cat(zeros).numpy() + 8)


def test_the_lowest_int8_code_is_kept(tmp_path: Path) -> None:
    """The library quantizes symmetrically to -128 .. 127; we round to -127 .. 127, but hold what is stored."""
    args = QuantizationArgs(num_bits=8, strategy="channel")
    write_compressed_tensors(tmp_path, args, form="int-quantized", dtype=BF16)
    stored = load_file(tmp_path / "model.safetensors")
    matrix = kept(open_source(tmp_path), "layers.0.down", "int8")
    np.testing.assert_array_equal(matrix.codes, stored["model.layers.0.mlp.down_proj.weight"].numpy())
    np.testing.assert_array_equal(matrix.scales, stored["model.layers.0.mlp.down_proj.weight_scale"].float().numpy()[:, 0])
    assert matrix.codes.min() == -128


def test_other_formats_in_one_checkpoint(tmp_path: Path) -> None:
    """A group of modules each: names, patterns and classes as targets, with what is ignored left in float."""
    config = {"num_bits": 4, "strategy": "group", "group_size": 32}
    written = write_compressed_tensors(
        tmp_path, QuantizationArgs(**config), dtype=BF16, ignore=("lm_head", "re:.*k_proj", "model.layers.0.mlp.up_proj")
    )
    source = open_source(tmp_path)
    assert torch.equal(source.tensor("layers.0.o.weight").to(BF16), written.values["model.layers.0.self_attn.o_proj"])
    assert misfit(source, "layers.0.qkv", "int4-g32-sym") == "k_proj is not quantized"
    assert misfit(source, "layers.0.gate_up", "int4-g32-sym") == "up_proj is not quantized"
    change_quantization(
        tmp_path,
        format="mixed-precision",
        config_groups={
            "none": {"targets": ["lm_head"], "weights": None},
            "down": {"targets": ["re:.*down_proj$"], "weights": config, "format": "pack-quantized"},
            "others": {"targets": ["Linear"], "weights": config, "format": "pack-quantized"},
        },
    )
    kept(open_source(tmp_path), "layers.0.down", "int4-g32-sym")


@pytest.mark.parametrize("desc_act", [False, True], ids=["", "desc_act"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("bits", "group_size", "sym"), [(4, 32, True), (4, 64, False), (4, -1, False), (8, 32, False)])
def test_gptq(bits: int, group_size: int, sym: bool, version: int, desc_act: bool, tmp_path: Path) -> None:
    written = write_gptq(tmp_path, bits=bits, group_size=group_size, sym=sym, version=version, desc_act=desc_act)
    source = open_source(tmp_path)
    assert_values(source, written)
    name = f"int4-g{32 if group_size == -1 else group_size}-{'sym' if sym else 'asym'}"
    if bits == 8:
        assert "uint8" in misfit(source, "layers.0.qkv", name) or desc_act
    elif desc_act and group_size != -1:
        assert misfit(source, "layers.0.qkv", name) == "q_proj: neighbouring columns are of different groups (desc_act)"
    else:
        for group in LINEAR:
            matrix = kept(source, group, name)
            np.testing.assert_array_equal(matrix.codes, joined(written.codes, group))
            if group_size != -1:
                np.testing.assert_array_equal(matrix.scales, joined(written.scales, group))
                assert sym or np.array_equal(matrix.zeros, joined(written.zeros, group))


def test_gptq_with_what_its_writers_leave_out_or_add(tmp_path: Path) -> None:
    written = write_gptq(tmp_path, version=2)
    for name, (n, _) in linear_shapes().items():
        change_tensor(tmp_path, f"{name}.g_idx", None)
        change_tensor(tmp_path, f"{name}.bias", torch.zeros(n, dtype=F16))
    source = open_source(tmp_path)
    assert torch.equal(source.tensor("layers.0.o.weight"), written.values["model.layers.0.self_attn.o_proj"])


@pytest.mark.parametrize("group_size", [32, 128])
def test_awq(group_size: int, tmp_path: Path) -> None:
    written = write_awq(tmp_path, group_size=group_size)
    source = open_source(tmp_path)
    assert_values(source, written)
    for group in LINEAR:
        matrix = kept(source, group, f"int4-g{group_size}-asym")
        for ours, theirs in ((matrix.codes, written.codes), (matrix.scales, written.scales), (matrix.zeros, written.zeros)):
            np.testing.assert_array_equal(ours, joined(theirs, group))
    assert misfit(source, "layers.0.o", "int4-g32-sym") == "zero points are not all 8"


@pytest.mark.parametrize(
    ("granularity", "suffix", "schemes"),
    [
        ("tensor", "weight_scale", ("fp8", "fp8-block", "fp8-tensor")),
        ("tensor", "weight_scale_inv", ("fp8",)),
        ("channel", "weight_scale", ("fp8",)),
        ("block", "weight_scale_inv", ("fp8-block",)),
    ],
)
def test_fp8(granularity: str, suffix: str, schemes: tuple[str, ...], tmp_path: Path) -> None:
    written = write_fp8(tmp_path, granularity, suffix=suffix)
    source = open_source(tmp_path)
    assert_values(source, written)
    for scheme in schemes:
        for group in LINEAR:
            np.testing.assert_array_equal(kept(source, group, scheme).codes, joined(written.codes, group))
    if granularity == "block":
        np.testing.assert_array_equal(kept(source, "layers.0.qkv", "fp8-block").scales, joined(written.scales, "layers.0.qkv"))
        assert "a scale is for 128 x 128 weights" in misfit(source, "layers.0.o", "fp8")
    if granularity != "tensor":
        assert "a scale is for" in misfit(source, "layers.0.down", "fp8-tensor")
    (note,) = source.checkpoint.notes()
    assert note.startswith("7 static scales of activations and KV caches (such as model.layers.0.") and "run time" in note


def test_blocks_that_cross_joined_matrices_are_not_kept(tmp_path: Path) -> None:
    config = LlamaConfig(**{**CONFIG.to_dict(), "head_dim": 96})
    written = write_fp8(tmp_path, "block", suffix="weight_scale_inv", config=config)
    source = open_source(tmp_path)
    assert_values(source, written)
    assert misfit(source, "layers.0.qkv", "fp8-block") == "blocks of 128 rows cross from one joined matrix into the next"
    kept(source, "layers.0.o", "fp8-block")


def test_a_static_scale_is_that_of_all_that_is_joined(tmp_path: Path) -> None:
    """Scales of rows stay those of their tensors; activations, which are shared, take the largest scale, as in vLLM."""
    written = write_fp8(tmp_path, "tensor")
    names = MODULES["layers.0.qkv"]
    for name, scale in zip(names, (0.25, 0.75, 0.5), strict=True):
        change_tensor(tmp_path, f"{name}.input_scale", torch.tensor(scale))
    matrix = kept(open_source(tmp_path), "layers.0.qkv", "fp8-tensor")
    np.testing.assert_array_equal(matrix.input_scale, np.float32([0.75]))
    rows = [len(written.codes[name]) for name in names]
    np.testing.assert_array_equal(matrix.scales, np.repeat([written.scales[name] for name in names], rows))
    change_tensor(tmp_path, f"{names[1]}.input_scale", None)
    assert misfit(open_source(tmp_path), "layers.0.qkv", "fp8-tensor") == "k_proj: activations have no static scale"
    change_tensor(tmp_path, f"{names[1]}.input_scale", torch.tensor(0.0))
    with pytest.raises(DamagedTensor, match=r"k_proj\.input_scale in .* must be positive, got 0"):
        open_source(tmp_path).tensor("layers.0.qkv.weight")


def test_nvfp4_codes_and_scales_are_the_librarys(tmp_path: Path) -> None:
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    write_compressed_tensors(tmp_path, args, dtype=BF16)
    source, stored = open_source(tmp_path), load_file(tmp_path / "model.safetensors")
    for group, names in MODULES.items():
        matrix = kept(source, group, "nvfp4")
        np.testing.assert_array_equal(matrix.codes, torch.cat([stored[f"{n}.weight_packed"] for n in names]).numpy())
        scales = torch.cat([stored[f"{n}.weight_scale"].view(torch.uint8) for n in names])
        np.testing.assert_array_equal(matrix.scales, scales.numpy())
        rows = [(1 / stored[f"{n}.weight_global_scale"]).expand(len(stored[f"{n}.weight_packed"])) for n in names]
        np.testing.assert_array_equal(matrix.row_scales, torch.cat(rows).numpy())


def test_what_became_of_the_codes_is_told(tmp_path: Path) -> None:
    write_gptq(tmp_path, group_size=64)
    source = open_source(tmp_path)
    plan = {
        "embed": "int8",
        "layers.0.qkv": "int4-g64-sym",
        "layers.0.o": "int8",
        "layers.0.gate_up": "int4-g32-sym",
        "layers.0.down": "bf16",
    }
    assert describe_stored_codes(source, {group: Scheme.parse(name) for group, name in plan.items()}) == [
        "codes and scales kept as in the checkpoint: layers.0.qkv, layers.0.gate_up",
        "quantized again to int8: a scale is for 64 columns, not for a whole row: layers.0.o",
    ]


def test_memory_stays_near_one_tensor(tmp_path: Path) -> None:
    """numpy's and torch's allocations while a joined tensor is read: its values, its parts, one part's codes."""
    config = LlamaConfig(**{**CONFIG.to_dict(), "hidden_size": 512, "intermediate_size": 2048})
    write_gptq(tmp_path, config=config)
    source = open_source(tmp_path)
    largest = source.tensor("layers.0.gate_up.weight").nbytes
    assert largest == 4096 * 512 * 4
    before = peak = anonymous_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.0005):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    source.tensor("layers.0.gate_up.weight")
    source.stored("layers.0.gate_up", Scheme.parse("int4-g32-sym"))
    done.set()
    watcher.join()
    assert peak - before < 2 * largest + 4e6
