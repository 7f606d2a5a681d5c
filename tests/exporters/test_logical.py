"""What is unpacked from a bundle is what was packed into it, on CPUs and GPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from artifacts.precision import Scheme
from optimizer.exporters import ExportError
from optimizer.exporters.logical import LogicalBundle
from optimizer.formats.table import CODECS
from optimizer.quantization import round_to_nearest
from tests.exporters.conftest import MakeBundle, save_gpu_bundle
from tests.runtime.conftest import Tiny

CPU = {
    "embed": "int4-g32-asym",
    "layers.0.qkv": "int4-g64-sym-a8",
    "layers.0.o": "int8-a8",
    "layers.0.gate_up": "fp32",
    "layers.0.down": "int3",
    "layers.1.qkv": "bf16",
    "layers.1.o": "int8-a16",
    "layers.1.gate_up": "int4-twolevel-a8",
    "layers.1.down": "int4-twolevel",
}
GPU = {
    "embed": "int8",
    "layers.0.qkv": "int4-g64-asym",
    "layers.0.o": "fp8",
    "layers.0.gate_up": "bf16",
    "layers.0.down": "fp8-block",
    "layers.1.qkv": "int4-g32-sym",
    "layers.1.o": "int8-a8",
    "layers.1.gate_up": "nvfp4",
    "layers.1.down": "mxfp4",
    "head": "fp8-tensor",
}


def check(model: Tiny, bundle: Path) -> None:
    logical = LogicalBundle.open(bundle)
    for group, scheme in logical.manifest.precision.groups.items():
        expected = round_to_nearest(group, model.source.tensor(f"{group}.weight").float(), Scheme.parse(scheme))
        if widened := CODECS[expected.scheme.weights].widened:
            expected = widened.matrix(expected)
        found = logical.matrix(group)
        assert found.scheme.name == expected.scheme.name.removesuffix("-a16") and found.shape == expected.shape
        for part in ("codes", "scales", "zeros", "row_scales"):
            ours, theirs = getattr(found, part), getattr(expected, part)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)
        assert (found.input_scale is not None) == (scheme == "fp8-tensor")
        rows = np.concatenate([matrix.dequantize() for _, matrix in logical.projections(group)])
        np.testing.assert_array_equal(rows, found.dequantize())


def test_cpu_bundle(bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    groups = tiny("qwen3").architecture.linear_shapes()
    check(tiny("qwen3"), bundle("qwen3", dict.fromkeys(groups, "int8") | CPU))


def test_gpu_bundle(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    groups = tiny("llama").architecture.linear_shapes()
    check(tiny("llama"), save_gpu_bundle(tmp_path / "bundle", tiny("llama"), dict.fromkeys(groups, "bf16") | GPU))


def test_blocks_that_a_projection_ends_in(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    groups = tiny("llama").architecture.linear_shapes()
    logical = LogicalBundle.open(
        save_gpu_bundle(tmp_path / "bundle", tiny("llama"), dict.fromkeys(groups, "bf16") | {"layers.0.qkv": "fp8-block"})
    )
    with pytest.raises(ExportError, match="cut at row 64, within a block of 128 rows"):
        list(logical.projections("layers.0.qkv"))


def test_floats_are_by_their_names(bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    model = tiny("qwen3, tied, biased, yarn")
    state = model.model.state_dict()
    floats = dict(LogicalBundle.open(bundle("qwen3, tied, biased, yarn")).floats())
    assert set(floats) == {name for name, tensor in state.items() if tensor.ndim == 1}
    assert all(torch.equal(torch.from_numpy(values.copy()), state[name]) for name, values in floats.items())
