"""GGUF files as llama.cpp's converter writes them, opened by us, against the transformers model they were made from."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from transformers import LlamaConfig, MistralConfig, PreTrainedModel

from artifacts.architecture import Architecture
from artifacts.layer_parts import Rope
from optimizer.formats.stored_matrix import Misfit, StoredMatrix
from optimizer.importers import open_source
from optimizer.importers.gguf_file import GgufFile
from runtime.models import UnsupportedModel, architecture
from tests.importers.gguf_writing import write_gguf
from tests.importers.random_models import CONFIGS, SIZES, random_model
from tests.importers.test_hf_folder import assert_tensors_equal, joined_state_dict

F32, F16, BF16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16
Q4_0, Q4_1, Q8_0 = GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0
MXFP4 = GGMLQuantizationType.MXFP4

WITHOUT_WINDOW = {
    **{name: CONFIGS[name] for name in ("llama", "llama-biased", "qwen3", "qwen3-biased")},
    "mistral": MistralConfig(**SIZES, head_dim=16, sliding_window=None),
    "qwen2": CONFIGS["qwen2"].__class__(**SIZES),
}


def stored_state(model: PreTrainedModel, kind: GGMLQuantizationType) -> dict[str, torch.Tensor]:
    """The state dict with every matrix rounded to `kind` and back. Rows are rounded alone, so their order is no matter."""
    state = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        state[name] = torch.from_numpy(dequantize(quantize(array, kind), kind) if array.ndim > 1 else array)
    return state


@pytest.mark.parametrize("kind", [F32, F16, BF16, Q8_0, Q4_0, Q4_1, MXFP4], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", WITHOUT_WINDOW)
def test_every_tensor_is_the_models(name: str, kind: GGMLQuantizationType, tmp_path: Path) -> None:
    model = random_model(WITHOUT_WINDOW[name])
    source = open_source(write_gguf(tmp_path / "model.gguf", model, kind))
    assert_tensors_equal(source, joined_state_dict(stored_state(model, kind), source.architecture))


@pytest.mark.parametrize("kind", [Q8_0, Q4_0, MXFP4], ids=lambda kind: kind.name)
def test_codes_have_the_values_of_the_gguf_package(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    """The least and the largest exponents of MXFP4, too."""
    model = random_model(CONFIGS["llama"])
    if kind == MXFP4:
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight[0] *= 1e-37
            model.model.layers[0].mlp.down_proj.weight[1] *= 1e37
    checkpoint = open_source(write_gguf(tmp_path / "model.gguf", model, kind)).checkpoint
    for name in ("layers.0.mlp.down_proj", "layers.1.self_attn.q_proj", "layers.2.self_attn.k_proj"):
        stored = checkpoint.stored(f"model.{name}.weight")
        assert isinstance(stored, StoredMatrix)
        np.testing.assert_array_equal(stored.dequantize(), checkpoint.read(f"model.{name}.weight").numpy())


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_q_k_and_v_in_one_tensor(name: str, tmp_path: Path) -> None:
    """Rows of q and k of a llama in its order, the biases of a qwen2, codes."""
    model = random_model(WITHOUT_WINDOW[name])
    apart, joined = (
        open_source(write_gguf(tmp_path / f"{joins}.gguf", model, Q8_0, joins_qkv=joins)) for joins in (False, True)
    )
    assert "blk.0.attn_qkv.weight" in joined.checkpoint.where("model.layers.0.self_attn.k_proj.weight")
    assert_tensors_equal(
        joined, {name: apart.tensor(name) for name in joined_state_dict(model.state_dict(), apart.architecture)}
    )
    for projection in "qkv":
        found, expected = (
            source.checkpoint.stored(f"model.layers.1.self_attn.{projection}_proj.weight") for source in (joined, apart)
        )
        assert isinstance(found, StoredMatrix) and isinstance(expected, StoredMatrix)
        np.testing.assert_array_equal(found.codes, expected.codes)
        np.testing.assert_array_equal(found.scales, expected.scales)


def test_a_scale_of_mxfp4_that_is_no_number(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", random_model(CONFIGS["llama"]), MXFP4)
    offset = GgufFile.open(path).tensors["blk.0.ffn_down.weight"].offset
    data = bytearray(path.read_bytes())
    data[offset] = 255
    path.write_bytes(data)
    assert open_source(path).checkpoint.stored("model.layers.0.mlp.down_proj.weight") == Misfit("a scale is no number")


@pytest.mark.parametrize("name", WITHOUT_WINDOW)
def test_architecture_is_the_configs(name: str, tmp_path: Path) -> None:
    config = WITHOUT_WINDOW[name]
    found = open_source(write_gguf(tmp_path / "model.gguf", random_model(config))).architecture
    expected = architecture(config.to_dict())
    if name == "mistral":  # converted to llama, which without a window is the same
        expected = expected.model_copy(update={"family": "llama"})
    assert found == expected


def llama_with(tmp_path: Path, **options: object) -> Architecture:
    model = random_model(CONFIGS["llama"])
    return open_source(write_gguf(tmp_path / "model.gguf", model, **options)).architecture  # type: ignore[arg-type]


def test_a_window_makes_it_mistral(tmp_path: Path) -> None:
    found = llama_with(tmp_path, metadata={"llama.attention.sliding_window": 24})
    assert (found.family, found.layer_windows) == ("mistral", (24, 24, 24))


def test_yarn(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_context_length": 32, "yarn_beta_fast": 16.0}
    found = llama_with(tmp_path, metadata={f"llama.rope.scaling.{key}": value for key, value in scaling.items()})
    assert found.rope == Rope(theta=1e4, scaling="yarn", factor=4.0, original_max_position=32, beta_fast=16.0)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered_from_its_factors(factor: float, tmp_path: Path) -> None:
    """The factors by Llama 3.1's rule, in fp64, as the converter computes them."""
    config = LlamaConfig(**SIZES | {"hidden_size": 256}, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    wavelengths = 2 * np.pi * 5e5 ** (np.arange(0, 64, 2) / 64)
    smooth = np.clip((8192 / wavelengths - 1) / 3, 0, 1)
    factors = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    path = write_gguf(tmp_path / "model.gguf", random_model(config), extra={"rope_freqs.weight": factors})
    rope = open_source(path).architecture.rope
    assert rope == Rope(theta=5e5, scaling="llama3", factor=factor, original_max_position=8192)


def test_other_frequency_factors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="not llama3's"):
        llama_with(tmp_path, extra={"rope_freqs.weight": np.array([1, 2, 3, 4], dtype=np.float32)})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.rope.scaling.attn_factor": 1.2}, "attn_factor"),
        ({"llama.rope.scaling.type": "longrope"}, "rope_type 'longrope' needs short_factor, long_factor"),
        ({"llama.rope.dimension_count": 4}, "partial_rotary_factor"),
        ({"llama.attention.value_length": 4}, "different sizes"),
    ],
)
def test_what_the_decoder_does_not_do_is_refused(metadata: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        llama_with(tmp_path, metadata=metadata)


@pytest.mark.parametrize(
    ("name", "metadata"),
    [
        ("llama", {"llama.rope.scale_linear": 1.0}),
        # llama.cpp takes a factor of 0 for one that is not given
        ("llama", {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 0.0}),
        ("llama", {"llama.rope.scaling.attn_factor": 1.0, "llama.rope.scaling.finetuned": True}),
        ("llama", {"llama.attention.sliding_window": 128, "llama.expert_count": 0}),
        ("qwen3", {"qwen3.attention.sliding_window": 4096}),
    ],
)
def test_keys_that_change_no_number(name: str, metadata: dict[str, object], tmp_path: Path) -> None:
    model = random_model(CONFIGS[name])
    plain = open_source(write_gguf(tmp_path / "plain.gguf", model)).architecture
    assert open_source(write_gguf(tmp_path / "keys.gguf", model, metadata=metadata)).architecture == plain


def test_memory_stays_near_one_tensor(tmp_path: Path) -> None:
    """numpy's allocations while a tensor is read: its fp32 values, and little beside them."""
    config = LlamaConfig(**SIZES | {"vocab_size": 16384, "hidden_size": 256, "num_hidden_layers": 1})
    tokenizer = {"model": "gpt2", "tokens": ["a", "b", "ab"], "token_type": [1, 1, 1], "merges": ["a b"]}
    path = write_gguf(tmp_path / "model.gguf", random_model(config), Q4_1, tokenizer=tokenizer)
    source = open_source(path)
    tracemalloc.start()
    size = source.tensor("embed.weight").nbytes
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 16384 * 256 * 4
    assert peak < 1.3 * size
