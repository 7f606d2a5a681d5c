"""gpt-oss's experts in blocks of mxfp4: the values are transformers', the codes stay those of the checkpoint, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from artifacts.layer_groups import kind_of
from artifacts.precision import Scheme
from kernels.formats.table import cpu_packing, gpu_packing
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import Misfit
from optimizer.importers import (
    DamagedTensor,
    MissingTensor,
    QuantizationMismatch,
    ShapeMismatch,
    SourceError,
    UnsupportedQuantization,
    open_source,
)
from optimizer.targets import offered_schemes, with_own_schemes
from search_spaces.space import device, load_space
from tests.importers.blocks_writing import QUANTIZATION, write_blocks
from tests.importers.prequantized_writing import change_config, change_tensor

DOWN = "model.layers.1.mlp.experts.down_proj"


def test_values_are_those_of_transformers(tmp_path: Path) -> None:
    written = write_blocks(tmp_path)
    source, state = open_source(tmp_path), written.model.state_dict()
    assert not source.checkpoint.notes()
    for layer in range(3):
        experts = f"model.layers.{layer}.mlp.experts"
        gate_up = state[f"{experts}.gate_up_proj"].transpose(1, 2)
        ordered = torch.cat([gate_up[:, ::2], gate_up[:, 1::2]], dim=1).flatten(0, 1)
        assert torch.equal(source.tensor(f"layers.{layer}.experts_gate_up.weight"), ordered)
        down = state[f"{experts}.down_proj"].transpose(1, 2).flatten(0, 1)
        assert torch.equal(source.tensor(f"layers.{layer}.experts_down.weight"), down)


@pytest.mark.parametrize("name", ["mxfp4", "mxfp4-a8"])
def test_codes_and_scales_are_the_checkpoints(tmp_path: Path, name: str) -> None:
    written, scheme = write_blocks(tmp_path), Scheme.parse(name)
    source = open_source(tmp_path)
    for kind, order in (("gate_up", [*range(0, 192, 2), *range(1, 192, 2)]), ("down", list(range(64)))):
        tensor = f"model.layers.1.mlp.experts.{kind}_proj"
        found = source.stored(f"layers.1.experts_{kind}", scheme)
        assert isinstance(found, QuantizedMatrix)
        expected = {
            "codes": written.blocks[tensor][:, order].reshape(len(order) * 4, -1).numpy(),
            "scales": written.scales[tensor][:, order].reshape(len(order) * 4, -1).numpy(),
        }
        on_gpu, (num_rows, num_columns) = gpu_packing("mxfp4"), found.shape
        assert on_gpu is not None
        for parts in (
            found.parts,
            cpu_packing(scheme.variant).unpack(cpu_packing(scheme.variant).pack(found.parts), num_rows),
            on_gpu.unpack(on_gpu.pack(found.parts), num_rows, num_columns),
        ):
            for part, array in expected.items():
                np.testing.assert_array_equal(parts[part], array)
    assert source.stored("layers.1.qkv", scheme) is None
    assert isinstance(source.stored("layers.1.experts_down", Scheme.parse("int4-g32-asym")), Misfit)


def refused(folder: Path, kind: type[SourceError], message: str) -> None:
    with pytest.raises(kind, match=message):
        open_source(folder)


def test_scales_that_are_not_there(tmp_path: Path) -> None:
    write_blocks(tmp_path)
    change_tensor(tmp_path, f"{DOWN}_scales", None)
    refused(tmp_path, MissingTensor, r"mxfp4 codes imply a tensor that is not there: .*down_proj_scales in ")


def test_scales_of_another_shape(tmp_path: Path) -> None:
    scales = write_blocks(tmp_path).scales[DOWN]
    change_tensor(tmp_path, f"{DOWN}_scales", scales[:, :-1].contiguous())
    refused(
        tmp_path,
        ShapeMismatch,
        r"down_proj_scales in .* has shape \[4, 63, 3\], but .* codes make it \[4, 64, 3\]",
    )


def test_blocks_of_another_size(tmp_path: Path) -> None:
    blocks = write_blocks(tmp_path).blocks[DOWN]
    change_tensor(tmp_path, f"{DOWN}_blocks", blocks.reshape(4, 64, 6, 8))
    refused(tmp_path, ShapeMismatch, r"down_proj_blocks in .* has shape \[4, 64, 6, 8\], but .* are \[experts, rows, .*, 16\]")


def test_blocks_of_another_type(tmp_path: Path) -> None:
    blocks = write_blocks(tmp_path).blocks[DOWN]
    change_tensor(tmp_path, f"{DOWN}_blocks", blocks.to(torch.int32))
    refused(tmp_path, QuantizationMismatch, r"down_proj_blocks in .* has type I32, but blocks of mxfp4 codes are U8; correct")


def test_experts_that_are_too_few(tmp_path: Path) -> None:
    written = write_blocks(tmp_path)
    change_tensor(tmp_path, f"{DOWN}_blocks", written.blocks[DOWN][:3])
    change_tensor(tmp_path, f"{DOWN}_scales", written.scales[DOWN][:3])
    refused(tmp_path, ShapeMismatch, r"down_proj in .* has shape \[3, 96, 64\], but .* make it \[4, 96, 64\]")


def test_a_config_that_leaves_the_experts_out(tmp_path: Path) -> None:
    write_blocks(tmp_path)
    change_config(tmp_path, quantization_config=QUANTIZATION | {"modules_to_not_convert": ["model.layers.*.mlp"]})
    refused(tmp_path, QuantizationMismatch, r"gate_up_proj_blocks in .* is quantized, but the config leaves this module out")


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    write_blocks(tmp_path)
    change_config(tmp_path, quantization_config=QUANTIZATION | {"modules_to_not_convert": "lm_head"})
    refused(tmp_path, UnsupportedQuantization, r"modules_to_not_convert: input should be a valid list, got 'lm_head'")


def test_a_scale_that_is_no_number(tmp_path: Path) -> None:
    scales = write_blocks(tmp_path).scales[DOWN].clone()
    scales[2, 5, 1] = 255
    change_tensor(tmp_path, f"{DOWN}_scales", scales)
    with pytest.raises(DamagedTensor, match=r"down_proj_scales in .* must be finite, got a NaN \(255\); fetch"):
        open_source(tmp_path).tensor("layers.1.experts_down.weight")


def test_blocks_that_no_config_speaks_of(tmp_path: Path) -> None:
    write_blocks(tmp_path)
    change_config(tmp_path, quantization_config=None)
    with pytest.raises(SourceError, match=r"has type U8; only"):
        open_source(tmp_path)


def test_floats_are_read_where_the_config_speaks_of_blocks(tmp_path: Path) -> None:
    """A model that was dequantized and saved keeps its config."""
    written = write_blocks(tmp_path)
    values = load_file(tmp_path / "model.safetensors")
    state = written.model.state_dict()
    for name in written.blocks:
        change_tensor(tmp_path, f"{name}_blocks", None)
        change_tensor(tmp_path, f"{name}_scales", None)
        change_tensor(tmp_path, name, state[name])
    assert f"{DOWN}_blocks" in values
    source = open_source(tmp_path)
    down = state["model.layers.0.mlp.experts.down_proj"].transpose(1, 2).flatten(0, 1)
    assert torch.equal(source.tensor("layers.0.experts_down.weight"), down)
    assert source.stored("layers.0.experts_down", Scheme.parse("mxfp4")) is None


@pytest.mark.parametrize(
    ("name", "own"), [("cpu", ("mxfp4", "mxfp4-a8")), ("h100", ("mxfp4",)), ("a100", ("mxfp4",)), ("mi300x", ("mxfp4",))]
)
def test_a_search_offers_experts_what_keeps_their_codes(tmp_path: Path, name: str, own: tuple[str, ...]) -> None:
    write_blocks(tmp_path)
    source, space = open_source(tmp_path), load_space(kind=device(name).kind)
    kinds = dict.fromkeys(map(kind_of, source.architecture.linear_shapes()))
    usual = offered_schemes(space, (name,), kinds, source.architecture)
    keeping = tuple(map(Scheme.parse, own))
    for kind, schemes in with_own_schemes(source, (name,), usual).items():
        assert schemes == ((*keeping, *usual[kind]) if kind.startswith("experts") else usual[kind])
    named = with_own_schemes(source, (name,), usual | {"experts_down": keeping[-1:]})
    assert named["experts_down"] == keeping[-1:]
