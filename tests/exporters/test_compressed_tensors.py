"""Exported folders through the compressed-tensors library and through transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.pack_quantized import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig, GenerationConfig

from artifacts import weights
from optimizer.exporters import ExportError, export_bundle
from optimizer.exporters import compressed_tensors as exporter
from optimizer.exporters.logical import LogicalBundle
from optimizer.quantization import QuantizedMatrix
from runtime.models import architecture
from tests.exporters.conftest import TEMPLATE, TEXT, MakeBundle, our_logits, relative_error, save_gpu_bundle
from tests.runtime.conftest import CONFIGS, Tiny

EXPORTED_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

MIXED = {
    "layers.0.qkv": "int4-g64-sym",
    "layers.0.o": "int4-g32-asym",
    "layers.0.gate_up": "int8",
    "layers.0.down": "int8-a8",
    "layers.1.qkv": "bf16",
    "layers.1.o": "int4-twolevel-a8",
    "layers.1.gate_up": "int4-twolevel",
    "layers.1.down": "int4-g32-sym-a8",
    "head": "int8-a8",
}
GPU = {
    "layers.0.qkv": "fp8",
    "layers.0.o": "fp8-block",
    "layers.0.gate_up": "nvfp4",
    "layers.0.down": "fp8-block",
    "layers.1.qkv": "fp8-tensor",
    "layers.1.o": "mxfp4",
    "layers.1.gate_up": "int4-g32-asym",
    "layers.1.down": "nvfp4",
}


def export(bundle: Path, **options: Any) -> Path:
    folder = bundle.with_name("exported")
    export_bundle(bundle, "compressed-tensors", folder, **options)
    return folder


def schemes_of(folder: Path) -> tuple[dict[str, QuantizationScheme], QuantizationConfig]:
    """Module -> its scheme, as the library reads the config."""
    config = QuantizationConfig.model_validate(json.loads((folder / "config.json").read_text())["quantization_config"])
    return {target: scheme for scheme in config.config_groups.values() for target in scheme.targets}, config


def check_module(scheme: QuantizationScheme, state: Mapping[str, torch.Tensor], matrix: QuantizedMatrix) -> None:
    assert matrix.scales is not None and scheme.weights is not None
    stored = state["weight_scale"]
    stored = (stored.view(torch.uint8) if stored.dtype == torch.float8_e4m3fn else stored).numpy()
    assert stored.dtype == matrix.scales.dtype
    if matrix.input_scale is not None:
        np.testing.assert_array_equal(state["input_scale"].numpy(), matrix.input_scale)
        np.testing.assert_array_equal(np.broadcast_to(stored, matrix.scales.shape), matrix.scales)
    else:
        np.testing.assert_array_equal(stored.reshape(matrix.scales.shape), matrix.scales)
    offset = {"int4": 8, "int8": 0}.get(matrix.scheme.weights, 0)
    if matrix.scheme.weights in ("mxfp4", "nvfp4"):
        np.testing.assert_array_equal(state["weight_packed"].numpy(), matrix.codes)
    elif "weight_packed" in state:
        codes = unpack_from_int32(state["weight_packed"], scheme.weights.num_bits, torch.Size(state["weight_shape"].tolist()))
        np.testing.assert_array_equal(codes.numpy(), matrix.codes.astype(np.int16) - offset)
    else:
        np.testing.assert_array_equal(state["weight"].view(torch.uint8).numpy(), matrix.codes.view(np.uint8))
    # In fp32: the library multiplies in the dtype of the scale. Codes of 4-bit floats it widens to bf16.
    is_float4 = matrix.scheme.weights in ("mxfp4", "nvfp4")
    wide = state if is_float4 else {**state, "weight_scale": state["weight_scale"].float()}
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    values = compressor.decompress(wide, scheme)["weight"]
    assert values.dtype == (torch.bfloat16 if is_float4 else torch.float32)
    # Which is exact: scales of what was quantized here are powers of two.
    np.testing.assert_array_equal(values.float().numpy(), matrix.dequantize())


def check_folder(folder: Path, bundle: Path) -> None:
    """Every quantized module is the bundle's, code for code; the others are ignored."""
    logical, tensors = LogicalBundle.open(bundle), load_file(folder / "model.safetensors")
    schemes, config = schemes_of(folder)
    for group in logical.architecture.linear_shapes():
        for module, matrix in logical.projections(group):
            if group == "embed":
                continue
            if matrix.scales is None:
                assert module in config.ignore and module not in schemes
                np.testing.assert_array_equal(tensors[f"{module}.weight"].float().numpy(), matrix.dequantize())
                continue
            state = {name.removeprefix(f"{module}."): t for name, t in tensors.items() if name.startswith(f"{module}.")}
            check_module(schemes[module], state, matrix)


def test_int3_is_int4_of_the_same_values(bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    made = bundle("llama", dict.fromkeys(tiny("llama").architecture.linear_shapes(), "int3") | {"embed": "bf16"})
    check_folder(export(made), made)


def test_codes_and_scales_are_the_bundles(bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    groups = tiny("llama").architecture.linear_shapes()
    made = bundle("llama", dict.fromkeys(groups, "int8") | MIXED)
    folder = export(made)
    check_folder(folder, made)
    schemes, config = schemes_of(folder)
    assert config.format == "mixed-precision"
    assert schemes["model.layers.0.mlp.down_proj"].input_activations.strategy == "token"
    assert schemes["model.layers.1.mlp.down_proj"].input_activations is None
    scales = LogicalBundle.open(made).matrix("layers.0.qkv").scales
    assert scales is not None and scales.min() < 0 < scales.max()


def test_gpu_schemes(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    groups = tiny("llama").architecture.linear_shapes()
    made = save_gpu_bundle(tmp_path / "bundle", tiny("llama"), dict.fromkeys(groups, "bf16") | GPU)
    folder = export(made)
    check_folder(folder, made)
    schemes, _ = schemes_of(folder)
    block = schemes["model.layers.0.self_attn.o_proj"]
    assert block.weights.block_structure == [128, 128] and block.input_activations.group_size == 128
    tensor = schemes["model.layers.1.self_attn.q_proj"]
    assert (tensor.weights.strategy, tensor.input_activations.strategy) == ("tensor", "tensor")
    assert not tensor.input_activations.dynamic
    assert not json.loads((folder / "export.json").read_text())["changes"]


LOADED = {
    "llama": "int4-g32-sym",
    "llama, tied, biased, llama3": "int8",
    "mistral, tied, yarn": "int8",
    "qwen2, tied, window": "int4-g32-sym",
    "qwen3": "int8",
    "llama, linear": "fp32",
    "qwen3, tied, biased, yarn": "bf16",
}


@pytest.mark.parametrize("name", LOADED)
def test_transformers_computes_the_same(name: str, bundle: MakeBundle) -> None:
    made = bundle(name, LOADED[name])
    model = AutoModelForCausalLM.from_pretrained(export(made, dtype="float32"), dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([TEXT])).logits[0].numpy()
    assert relative_error(our_logits(made), logits) < 1e-4


def test_zero_points_through_transformers(bundle: MakeBundle) -> None:
    """Its default way shapes zero points wrongly for every asymmetric checkpoint; `dequantize` loads them, in fp16."""
    made = bundle("qwen3", "int4-g32-asym")
    config = CompressedTensorsConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(export(made, dtype="float32"), dtype=torch.float32, quantization_config=config)
    with torch.inference_mode():
        logits = model(torch.tensor([TEXT])).logits[0].numpy()
    assert relative_error(our_logits(made), logits) < 5e-3


def test_int8_activations_through_transformers(bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    """The library's largest code is 127.5 and ours 127; where one layer has them, that is a small part of the logits."""
    groups = tiny("llama").architecture.linear_shapes()
    made = bundle("llama", dict.fromkeys(groups, "fp32") | {"layers.1.o": "int8-a8"})
    model = AutoModelForCausalLM.from_pretrained(export(made, dtype="float32"), dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([TEXT])).logits[0].numpy()
    assert relative_error(our_logits(made), logits) < 2e-2


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.split(",")[0] in EXPORTED_FAMILIES])
def test_the_config_is_the_architecture(name: str, bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    config = json.loads((export(bundle(name)) / "config.json").read_text())
    del config["quantization_config"]
    assert architecture(config) == tiny(name).architecture


def test_text_files(bundle: MakeBundle) -> None:
    folder = export(bundle("llama"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template) == ("<s>", "</s>", TEMPLATE)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "<|user|>a"
    assert json.loads((folder / "generation_config.json").read_text()) == {"bos_token_id": 0, "eos_token_id": 1}


def test_ends_of_sequence_and_special_tokens_are_those_that_transformers_reads(bundle: MakeBundle) -> None:
    folder = export(bundle("llama", generation_config={"eos_token_id": [1, 5], "pad_token": "<s>", "temperature": 0.5}))
    read = GenerationConfig.from_pretrained(folder)
    assert (read.eos_token_id, read.temperature) == ([1, 5], 0.5)
    assert AutoConfig.from_pretrained(folder).eos_token_id == [1, 5]
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<s>"}
    assert AutoTokenizer.from_pretrained(folder).special_tokens_map == special
    assert "pad_token" not in json.loads((folder / "generation_config.json").read_text())


def test_a_quantized_embedding_is_widened_and_recorded(bundle: MakeBundle) -> None:
    made = bundle("mistral, tied, yarn", "int8-a8")
    folder = export(made)
    record = json.loads((folder / "export.json").read_text())
    (change,) = record["changes"]
    assert (change["tensor"], change["stored"], change["exported"]) == ("model.embed_tokens.weight", "int8-a8", "float16")
    assert 0 < change["relative_error"] < 2**-11
    assert record["notes"] == ["activations: a head that is tied to the embedding meets them unrounded, not in int8"]
    stored = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    expected = LogicalBundle.open(made).matrix("embed").dequantize().astype(np.float16)
    np.testing.assert_array_equal(stored.numpy(), expected)


def test_shards_have_an_index(bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = export(bundle("llama"))
    tensors = load_file(whole / "model.safetensors")
    monkeypatch.setattr(exporter, "SHARD_BYTES", 40_000)
    folder = whole.with_name("sharded")
    export_bundle(whole.with_name("bundle"), "compressed-tensors", folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    names = sorted(set(index.values()))
    assert names == weights.shard_names(len(names)) and len(names) > 2
    assert {path.name for path in folder.glob("*.safetensors")} == set(names)
    for name, shard in index.items():
        assert torch.equal(load_file(folder / shard)[name], tensors[name])


def test_what_float16_cannot_hold(bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle("llama")
    monkeypatch.setattr(QuantizedMatrix, "dequantize", lambda self: np.full(self.shape, 7e4, np.float32))
    with pytest.raises(ExportError, match=r"magnitude of 70000, beyond float16's 65504; export with --dtype bfloat16"):
        export(made)
