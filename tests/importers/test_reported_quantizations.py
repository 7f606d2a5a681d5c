"""Quantized checkpoints that other engines load, of public reports: which keys of their configs change no weight.

The oracle is what a checkpoint's writer says that it holds.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs

from optimizer.importers import QuantizationMismatch, Source, UnsupportedQuantization, open_source
from tests.importers.prequantized_writing import (
    Written,
    change_config,
    change_quantization,
    change_tensor,
    write_awq,
    write_compressed_tensors,
    write_fp8,
    write_gptq,
    write_modelopt,
)

INT4 = QuantizationArgs(num_bits=4, strategy="group", group_size=32)


@pytest.fixture(scope="module")
def _int4(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_compressed_tensors(tmp_path_factory.mktemp("int4"), INT4)


@pytest.fixture
def int4(_int4: Written, tmp_path: Path) -> Written:
    shutil.copytree(_int4.folder, tmp_path, dirs_exist_ok=True)
    return replace(_int4, folder=tmp_path)


def values_are_kept(written: Written) -> Source:
    source = open_source(written.folder)
    for name, expected in written.values.items():
        torch.testing.assert_close(source.checkpoint.read(f"{name}.weight"), expected.float(), rtol=0, atol=0)
    return source


# https://github.com/huggingface/transformers/pull/47152, https://github.com/vllm-project/compressed-tensors/issues/378
@pytest.mark.parametrize("status", ["frozen", "initialized", "calibration", "compressed", None])
def test_how_a_matrix_is_stored_decides_not_the_status(status: str | None, int4: Written) -> None:
    change_quantization(int4.folder, quantization_status=status)
    values_are_kept(int4)


# https://github.com/huggingface/transformers/pull/47152: floats beside the scales that would round them
def test_floats_that_are_yet_to_be_compressed_are_refused(int4: Written) -> None:
    module = "model.layers.0.self_attn.o_proj"
    for last in ("weight_packed", "weight_shape"):
        change_tensor(int4.folder, f"{module}.{last}", None)
    change_tensor(int4.folder, f"{module}.weight", int4.values[module])
    change_quantization(int4.folder, quantization_status="frozen")
    with pytest.raises(QuantizationMismatch, match=r"o_proj\.weight in .* before it was compressed: save it again"):
        open_source(int4.folder)


def test_fp8_that_is_called_frozen(tmp_path: Path) -> None:
    written = write_compressed_tensors(tmp_path, QuantizationArgs(num_bits=8, type="float", strategy="channel"))
    change_quantization(tmp_path, quantization_status="frozen")
    values_are_kept(written)


#: keys of compressed-tensors configs, each of which leaves the weights as they are
COMPRESSED: dict[str, dict[str, object]] = {
    # https://github.com/vllm-project/compressed-tensors/pull/169
    "a dense sparsity": {"sparsity_config": {"format": "dense", "sparsity_structure": "unstructured", "global_sparsity": 0.1}},
    "no sparsity": {"sparsity_config": {}},
    "no sparsity at all": {"sparsity_config": None},
    "figures": {"global_compression_ratio": 1.9, "version": "0.9.1", "moe_sparsity_config": None, "run_compressed": True},
    # https://github.com/vllm-project/compressed-tensors/pull/73
    "no KV scheme": {"kv_cache_scheme": None},
    "no transform": {"transform_config": {}},
    "a method's other spelling": {"quant_method": "compressed_tensors"},
    "patterns": {"ignore": ["lm_head", "re:.*vision.*", "re:visual"]},
}
WEIGHTS: dict[str, dict[str, object]] = {
    "its observer": {"observer": "mse", "observer_kwargs": {"averaging_constant": 0.1}},
    "its order": {"actorder": "weight"},
    "an old order": {"actorder": "static"},
    "types": {"scale_dtype": "torch.float16", "zp_dtype": None, "dynamic": False},
    "capitals": {"type": "INT", "strategy": "GROUP"},
    "a structure that is not used": {"block_structure": "2x4"},
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_compressed_tensors_keys_that_change_no_weight(kind: str, int4: Written) -> None:
    change_quantization(int4.folder, **COMPRESSED[kind])
    assert not values_are_kept(int4).checkpoint.notes()


@pytest.mark.parametrize("kind", WEIGHTS)
def test_arguments_of_weights_that_change_none(kind: str, int4: Written) -> None:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True} | WEIGHTS[kind]
    change_quantization(int4.folder, config_groups={"g": {"targets": ["Linear"], "weights": weights}})
    values_are_kept(int4)


def test_blocks_that_are_written_as_a_word(tmp_path: Path) -> None:
    args = QuantizationArgs(num_bits=8, type="float", strategy="block", block_structure=[128, 128])
    written = write_compressed_tensors(tmp_path, args)
    weights = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": "128x128"}
    change_quantization(tmp_path, config_groups={"g": {"targets": ["Linear"], "weights": weights}})
    values_are_kept(written)


def test_activations_and_caches_that_the_config_quantizes_are_told(tmp_path: Path) -> None:
    activations = QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
    written = write_compressed_tensors(tmp_path, QuantizationArgs(num_bits=8, strategy="channel"), activations=activations)
    (note,) = values_are_kept(written).checkpoint.notes()
    assert "input_activations have no effect" in note
    change_quantization(tmp_path, kv_cache_scheme={"num_bits": 8, "type": "float", "dynamic": True})
    (note,) = open_source(tmp_path).checkpoint.notes()
    assert "input_activations and kv_cache_scheme have no effect" in note


# https://github.com/vllm-project/compressed-tensors/pull/73: what the section was called before
def test_a_compression_config(int4: Written) -> None:
    config = json.loads((int4.folder / "config.json").read_text())
    config["compression_config"] = config.pop("quantization_config")
    (int4.folder / "config.json").write_text(json.dumps(config))
    values_are_kept(int4)


#: keys of GPTQ configs
GPTQ: dict[str, dict[str, object]] = {
    "of its calibration": {
        "damp_percent": 0.01,
        "static_groups": False,
        "true_sequential": True,
        "dataset": "c4",
        "batch_size": 1,
    },
    "of kernels": {"use_exllama": True, "exllama_config": {"version": 2}, "backend": "auto", "max_input_length": None},
    "of its writer": {"meta": {"quantizer": ["gptqmodel:5.0"]}, "pack_dtype": "int32", "lm_head": False, "model_seqlen": 2048},
    "no overrides": {"dynamic": {}},
    "modules that are not quantized": {"dynamic": {"-:.*visual.*": {}}},
    "an override that is none": {"dynamic": {"+:.*down_proj": {"bits": 4, "group_size": 32}}},
}


@pytest.mark.parametrize("kind", GPTQ)
def test_gptq_keys_that_change_no_weight(kind: str, tmp_path: Path) -> None:
    written = write_gptq(tmp_path)
    change_quantization(tmp_path, **GPTQ[kind])
    values_are_kept(written)


# https://github.com/vllm-project/vllm/pull/26092: read as v1, every weight would be off by a step
def test_gptq_v2_by_the_keys_newer_name(tmp_path: Path) -> None:
    written = write_gptq(tmp_path, version=2, sym=False)
    change_quantization(tmp_path, checkpoint_format="gptq_v2", format="gptq_v2")
    values_are_kept(written)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]["checkpoint_format"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    values_are_kept(written)
    change_quantization(tmp_path, format="marlin")
    with pytest.raises(UnsupportedQuantization, match="got 'marlin'"):
        open_source(tmp_path)


# https://github.com/vllm-project/vllm/issues/1419: configs in files of their own
def test_old_gptq_and_awq_configs_in_files_of_their_own(tmp_path: Path) -> None:
    for name, written, content in (
        ("quantize_config.json", write_gptq(tmp_path / "gptq"), {"bits": 4, "group_size": 32, "desc_act": False, "sym": True}),
        (
            "quant_config.json",
            write_awq(tmp_path / "awq"),
            {"w_bit": 4, "q_group_size": 32, "zero_point": True, "version": "GEMM"},
        ),
    ):
        change_config(written.folder, quantization_config=None)
        (written.folder / name).write_text(json.dumps(content))
        assert name in values_are_kept(written).sha256()


@pytest.mark.parametrize(
    "changes",
    [
        {"modules_to_not_convert": None},
        {"backend": "autoawq", "do_fuse": False, "fuse_max_seq_len": 512, "modules_to_fuse": None, "exllama_config": None},
        {"version": "GEMM", "format": "gemm"},
    ],
)
def test_awq_keys_that_change_no_weight(changes: dict[str, object], tmp_path: Path) -> None:
    written = write_awq(tmp_path)
    change_quantization(tmp_path, **changes)
    values_are_kept(written)


@pytest.mark.parametrize("changes", [{"fmt": "e4m3"}, {"scale_fmt": "ue8m0"}, {"dequantize": True, "ignored_layers": None}])
def test_fp8_keys_that_change_no_weight(changes: dict[str, object], tmp_path: Path) -> None:
    written = write_fp8(tmp_path, "channel")
    change_quantization(tmp_path, **changes)
    values_are_kept(written)


def test_modelopt_in_the_config(tmp_path: Path) -> None:
    written = write_modelopt(tmp_path)
    (tmp_path / "hf_quant_config.json").unlink()
    section = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": None, "producer": {"name": "modelopt"}}
    change_config(tmp_path, quantization_config=section)
    values_are_kept(written)
