"""One test per way in which a quantized checkpoint can be wrong: its own error, with file, tensor, rule, value and fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from safetensors.torch import load_file

from optimizer.importers import (
    DamagedFile,
    DamagedTensor,
    MissingTensor,
    QuantizationMismatch,
    ShapeMismatch,
    SourceError,
    UnexpectedTensor,
    UnsupportedDtype,
    UnsupportedQuantization,
    open_source,
)
from tests.importers.prequantized_writing import (
    change_config,
    change_quantization,
    change_tensor,
    write_awq,
    write_compressed_tensors,
    write_fp8,
    write_gptq,
    write_modelopt,
)

O_PROJ = "model.layers.0.self_attn.o_proj"
OURS = "layers.0.o.weight"
INT4 = QuantizationArgs(num_bits=4, strategy="group", group_size=32)
FROM_FLOAT = "quantize the model in another way, or start from the unquantized checkpoint"


@pytest.fixture
def gptq(tmp_path: Path) -> Path:
    return write_gptq(tmp_path).folder


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    return write_compressed_tensors(tmp_path, INT4, dtype=torch.float16).folder


def stored(folder: Path, name: str) -> torch.Tensor:
    return load_file(folder / "model.safetensors")[name]


def refused(folder: Path, kind: type[SourceError], message: str) -> None:
    """At opening, from headers."""
    with pytest.raises(kind, match=message):
        open_source(folder)


def refused_when_read(folder: Path, kind: type[SourceError], message: str) -> None:
    source = open_source(folder)
    with pytest.raises(kind, match=message):
        source.tensor(OURS)


@pytest.mark.parametrize("method", ["bitsandbytes", None, 4])
def test_unknown_method(gptq: Path, method: object) -> None:
    change_quantization(gptq, quant_method=method)
    refused(
        gptq,
        UnsupportedQuantization,
        rf"quantization_config in .*config\.json: quant_method must be one of compressed-tensors, gptq, awq, fp8, modelopt, "
        rf"mxfp4, got {method!r}; {FROM_FLOAT}",
    )


def test_a_quantization_config_that_is_no_object(gptq: Path) -> None:
    change_config(gptq, quantization_config=["gptq"])
    refused(gptq, UnsupportedQuantization, "quant_method must be one of")


def test_codes_without_a_quantization_config(gptq: Path) -> None:
    change_config(gptq, quantization_config=None)
    refused(gptq, UnsupportedDtype, r"has type I32; only F32, F16, BF16 can be imported where neither config\.json .* says how")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 3}, "bits: input should be 4 or 8, got 3"),
        ({"bits": None}, "bits: input should be 4 or 8, got None"),
        ({"group_size": -2}, "group_size: .*greater than or equal to -1, got -2"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format: input should be 'gptq' or 'gptq_v2', got 'marlin'"),
        ({"dynamic": {"+:.*down_proj": {"bits": 8}}}, "dynamic: .*all quantized modules must be quantized alike"),
    ],
)
def test_gptq_configs_that_cannot_be_imported(gptq: Path, changes: dict[str, object], message: str) -> None:
    change_quantization(gptq, **changes)
    refused(gptq, UnsupportedQuantization, rf"quantization_config in .*config\.json cannot be used: {message}.*{FROM_FLOAT}")


@pytest.mark.parametrize("last", ["qzeros", "scales", "qweight"])
def test_missing_gptq_tensor(gptq: Path, last: str) -> None:
    change_tensor(gptq, f"{O_PROJ}.{last}", None)
    refused(gptq, MissingTensor, rf"not there: .*o_proj\.{'weight' if last == 'qweight' else last} in ")


def test_desc_act_without_groups(gptq: Path) -> None:
    change_quantization(gptq, desc_act=True)
    change_tensor(gptq, f"{O_PROJ}.g_idx", None)
    refused(gptq, MissingTensor, r"desc_act and qweight imply a tensor that is not there: .*o_proj\.g_idx in .*; fetch")


def test_gptq_bits_that_are_not_the_configs(gptq: Path) -> None:
    change_quantization(gptq, bits=8)
    refused(gptq, ShapeMismatch, r"q_proj\.scales in .* has shape \[4, 256\], but group_size 32, bits 8 .* make it \[2, 256\]")


def test_gptq_groups_that_are_not_the_configs(gptq: Path) -> None:
    change_quantization(gptq, group_size=64)
    refused(gptq, ShapeMismatch, r"q_proj\.scales in .* has shape \[4, 256\], but group_size 64, .* make it \[2, 256\]")


@pytest.mark.parametrize("value", [-1, 8])
def test_group_out_of_range(gptq: Path, value: int) -> None:
    groups = stored(gptq, f"{O_PROJ}.g_idx")
    groups[5] = value
    change_tensor(gptq, f"{O_PROJ}.g_idx", groups)
    refused_when_read(gptq, DamagedTensor, rf"o_proj\.g_idx in .* must be below the number of groups, 8, .* got .*{value}")


def test_zero_points_of_the_other_version(tmp_path: Path) -> None:
    """As found in the wild: v2's zero points, 8, in a symmetric checkpoint that claims v1, which stores 7."""
    write_gptq(tmp_path, version=2)
    change_quantization(tmp_path, checkpoint_format="gptq")
    refused_when_read(
        tmp_path,
        QuantizationMismatch,
        r'qzeros in .* must hold zero points of 8, .* got 9 to 9; set checkpoint_format to "gptq_v2"',
    )
    write_gptq(tmp_path, version=1)
    change_quantization(tmp_path, checkpoint_format="gptq_v2")
    refused_when_read(tmp_path, QuantizationMismatch, r'got 7 to 7; set checkpoint_format to "gptq"')


def test_symmetry_that_is_none(tmp_path: Path) -> None:
    write_gptq(tmp_path, sym=False)
    change_quantization(tmp_path, sym=True)
    refused_when_read(tmp_path, QuantizationMismatch, "got 0 to 15; set sym to false if that is so")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_not_finite(gptq: Path, value: float) -> None:
    scales = stored(gptq, f"{O_PROJ}.scales")
    scales[1, 2] = value
    change_tensor(gptq, f"{O_PROJ}.scales", scales)
    refused_when_read(gptq, DamagedTensor, r"o_proj\.scales in .* must hold finite scales, got 1 that are not of 1024")


def test_scales_of_another_type(gptq: Path) -> None:
    change_tensor(gptq, f"{O_PROJ}.scales", stored(gptq, f"{O_PROJ}.scales").to(torch.int32))
    refused(gptq, QuantizationMismatch, r"o_proj\.scales in .* has type I32, but .* are F32 or F16 or BF16; correct the config")


def test_a_bias_that_is_not_zero(gptq: Path) -> None:
    change_tensor(gptq, f"{O_PROJ}.bias", torch.ones(128))
    refused(gptq, UnexpectedTensor, r"o_proj\.bias")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 3}, "bits: input should be 4, got 3"),
        ({"version": "gemv"}, "version: input should be 'gemm', got 'gemv'"),
        ({"zero_point": False}, "zero_point: input should be True, got False"),
    ],
)
def test_awq_configs_that_cannot_be_imported(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    change_quantization(write_awq(tmp_path).folder, **changes)
    refused(tmp_path, UnsupportedQuantization, message)


def test_awq_with_another_methods_codes(gptq: Path) -> None:
    change_quantization(gptq, quant_method="awq", version="gemm")
    refused(
        gptq, ShapeMismatch, r"q_proj\.scales in .* has shape \[4, 256\], but group_size 32 and qweight make it \[1, 2048\]"
    )


def test_a_module_that_the_config_leaves_out(tmp_path: Path) -> None:
    change_quantization(write_awq(tmp_path).folder, modules_to_not_convert=["o_proj"])
    refused(tmp_path, QuantizationMismatch, r"o_proj\.qweight in .* is quantized, but the config leaves this module out")


def test_another_methods_tensors(gptq: Path) -> None:
    change_quantization(gptq, quant_method="fp8")
    refused(gptq, MissingTensor, r"fp8 codes imply a tensor that is not there: .*q_proj\.weight")


def test_missing_fp8_scale(tmp_path: Path) -> None:
    write_fp8(tmp_path, "tensor")
    change_tensor(tmp_path, f"{O_PROJ}.weight_scale", None)
    refused(tmp_path, MissingTensor, r"o_proj\.weight_scale in .*; fetch the checkpoint again or correct the config")


def test_fp8_blocks_of_another_shape(tmp_path: Path) -> None:
    write_fp8(tmp_path, "block", suffix="weight_scale_inv")
    change_quantization(tmp_path, weight_block_size=[64, 128])
    refused(tmp_path, ShapeMismatch, r"q_proj\.weight_scale_inv in .* has shape \[2, 1\], .* make it \[4, 1\]")
    change_quantization(tmp_path, weight_block_size=[128])
    refused(tmp_path, UnsupportedQuantization, r"weight_block_size: .*at least 2 items")


def test_fp8_codes_that_are_nan(tmp_path: Path) -> None:
    write_fp8(tmp_path, "tensor")
    codes = stored(tmp_path, f"{O_PROJ}.weight").view(torch.uint8)
    codes[3, 4] = 0xFF
    change_tensor(tmp_path, f"{O_PROJ}.weight", codes.view(torch.float8_e4m3fn))
    refused_when_read(tmp_path, DamagedTensor, r"o_proj\.weight in .* must be finite, got 1 NaN; fetch the checkpoint again")


@pytest.mark.parametrize("algorithm", ["NVFP4_AWQ", "MIXED_PRECISION", None])
def test_modelopt_algorithms_that_cannot_be_imported(tmp_path: Path, algorithm: str | None) -> None:
    path = write_modelopt(tmp_path).folder / "hf_quant_config.json"
    path.write_text(json.dumps({"quantization": {"quant_algo": algorithm}}))
    refused(
        tmp_path, UnsupportedQuantization, rf"hf_quant_config\.json cannot be used: quant_algo: .*'FP8'.*, got {algorithm!r}"
    )


def test_a_modelopt_config_without_its_section(tmp_path: Path) -> None:
    (write_modelopt(tmp_path).folder / "hf_quant_config.json").write_text("{}")
    refused(tmp_path, DamagedFile, r"hf_quant_config\.json must have an object quantization, got None; export")


def test_mxfp4_scales_that_are_nan(tmp_path: Path) -> None:
    args = QuantizationArgs(num_bits=4, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8)
    folder = write_compressed_tensors(tmp_path, args).folder
    scales = stored(folder, f"{O_PROJ}.weight_scale")
    scales[0, 0] = 255
    change_tensor(folder, f"{O_PROJ}.weight_scale", scales)
    refused_when_read(folder, DamagedTensor, r"o_proj\.weight_scale in .* must be finite, got a NaN \(255\); fetch")


def test_missing_kv_scales(tmp_path: Path) -> None:
    write_modelopt(tmp_path)
    change_tensor(tmp_path, "model.layers.0.self_attn.v_proj.v_scale", None)
    refused(tmp_path, MissingTensor, r"KV cache has static scales, but model\.layers\.0\.self_attn\.v_scale in .* is not there")


def test_kv_scales_that_compressed_tensors_promises(compressed: Path) -> None:
    scheme = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": True}
    change_quantization(compressed, kv_cache_scheme=scheme)
    open_source(compressed)
    change_quantization(compressed, kv_cache_scheme=scheme | {"dynamic": False})
    refused(compressed, MissingTensor, r"KV cache has static scales, but model\.layers\.0\.self_attn\.k_scale")
    for kind in "kv":
        change_tensor(compressed, f"model.layers.0.self_attn.{kind}_scale", torch.ones(1))
    assert open_source(compressed).checkpoint.notes()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"num_bits": 3}, "got symmetric int of 3 bits by group in format pack-quantized"),
        ({"type": "float"}, "got symmetric float of 4 bits by group in format pack-quantized"),
        ({"strategy": "group", "group_size": None}, "strategy group needs a group_size"),
        ({"strategy": "block", "group_size": None}, "strategy block needs block_structure"),
        ({"strategy": "column"}, "weights.strategy: input should be 'tensor', .*, got 'column'"),
    ],
)
def test_weight_arguments_that_cannot_be_imported(compressed: Path, weights: dict[str, Any], message: str) -> None:
    arguments = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True} | weights
    change_quantization(compressed, config_groups={"group_0": {"targets": ["Linear"], "weights": arguments}})
    refused(compressed, UnsupportedQuantization, rf"quantization_config in .*config_groups\.group_0.*{message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "marlin-24"}, "in format marlin-24"),
        ({"transform_config": {"config_groups": {}}}, "transform_config: input should be None"),
        ({"sparsity_config": {"format": "sparse-bitmask"}}, "sparsity_config: input should be None"),
    ],
)
def test_compressed_tensors_configs_that_cannot_be_imported(compressed: Path, changes: dict[str, Any], message: str) -> None:
    groups = {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 32}}}
    change_quantization(compressed, config_groups=groups, **changes)
    refused(compressed, UnsupportedQuantization, message)


def test_quantized_where_the_config_ignores(compressed: Path) -> None:
    change_quantization(compressed, ignore=["lm_head", "re:.*o_proj"])
    refused(
        compressed, QuantizationMismatch, r"o_proj\.weight_packed in .* is quantized, but the config leaves this module out"
    )


def test_not_quantized_where_the_config_does_not_ignore(compressed: Path) -> None:
    change_quantization(compressed, ignore=[])
    refused(compressed, QuantizationMismatch, r"lm_head\.weight in .* is stored as F16, but the config quantizes it; name it")


def test_zero_points_that_the_config_has_no_place_for(tmp_path: Path) -> None:
    asymmetric = QuantizationArgs(num_bits=4, strategy="group", group_size=32, symmetric=False)
    folder = write_compressed_tensors(tmp_path, asymmetric, dtype=torch.float16).folder
    groups = {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 32}}}
    change_quantization(folder, config_groups=groups)
    refused(folder, UnexpectedTensor, r"weight_zero_point")


def test_missing_zero_points(compressed: Path) -> None:
    weights = {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}
    change_quantization(compressed, config_groups={"g": {"targets": ["Linear"], "weights": weights}})
    refused(compressed, MissingTensor, r"asymmetric codes and their groups imply .*q_proj\.weight_zero_point")


def test_packed_codes_of_another_shape(compressed: Path) -> None:
    change_tensor(compressed, f"{O_PROJ}.weight_shape", torch.tensor([128, 300]))
    refused(compressed, ShapeMismatch, r"o_proj\.weight_packed in .* \[128, 32\], .* 4-bit codes of weight_shape \[128, 300\]")


def test_packed_codes_that_the_architecture_has_no_place_for(compressed: Path) -> None:
    change_config(compressed, intermediate_size=512)
    refused(compressed, ShapeMismatch, r"gate_proj\.weight in .* has shape \[256, 128\], .* make it \[512, 128\]")


def test_bytes_beyond_four_bits(tmp_path: Path) -> None:
    folder = write_compressed_tensors(tmp_path, INT4, form="naive-quantized", dtype=torch.float16).folder
    codes = stored(folder, f"{O_PROJ}.weight")
    codes[0, 0] = 8
    change_tensor(folder, f"{O_PROJ}.weight", codes)
    refused_when_read(folder, DamagedTensor, r"o_proj\.weight in .* must hold 4-bit integers, from -8 to 7, but goes beyond")


def test_nvfp4_without_its_global_scale(tmp_path: Path) -> None:
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    folder = write_compressed_tensors(tmp_path, args).folder
    change_tensor(folder, f"{O_PROJ}.weight_global_scale", torch.zeros(1))
    refused_when_read(folder, DamagedTensor, r"o_proj\.weight_scale in .* its global scale not 0, got 0 NaN and 0\.0")
    change_tensor(folder, f"{O_PROJ}.weight_global_scale", None)
    refused(folder, MissingTensor, r"nvfp4 codes imply .*o_proj\.weight_global_scale")
