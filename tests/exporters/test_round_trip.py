"""Exported and imported again: codes, scales and zero points are the bundle's bit for bit, and so is a bundle forged anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

from artifacts.precision import Scheme
from optimizer.exporters import export_bundle
from optimizer.exporters.logical import LogicalBundle
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.importers import Source, open_source
from optimizer.quantization.packed import CPU_LAYOUT, GPU_LAYOUT, Layout
from optimizer.weights.quantized_store import QuantizedStore
from tests.exporters.conftest import save_bundle, save_gpu_bundle
from tests.exporters.test_gguf import small_tokenizer
from tests.importers.random_models import random_model, save_folder
from tests.runtime.conftest import SIZES, Tiny

#: every size a multiple of every group's; joined matrices end with fp8's blocks of 128 rows
WIDE = LlamaConfig(**SIZES | {"num_hidden_layers": 1, "hidden_size": 256, "intermediate_size": 256, "num_key_value_heads": 2})
CPU_SCHEMES = [
    "fp32",
    "bf16",
    "int8",
    "int8-a8",
    *(f"int4-g{size}-{kind}{a8}" for size in (32, 64, 128) for kind in ("sym", "asym") for a8 in ("", "-a8")),
]
GPU_SCHEMES = ["bf16", "int8", "int8-a8", "fp8", "fp8-block", "int4-g32-sym", "int4-g64-asym", "int4-g128-sym"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    model = random_model(WIDE)
    source = open_source(save_folder(model, tmp_path_factory.mktemp("model")))
    return Tiny(model, source, QuantizedStore(source, tmp_path_factory.mktemp("store")))


def exported(made: Path, form: str) -> Source:
    path = made.with_name("exported.gguf" if form == "gguf" else "exported")
    export_bundle(made, form, path)
    return open_source(path)


def check_codes(source: Source, made: Path) -> None:
    """Of every layer group in a scheme that has any."""
    logical = LogicalBundle.open(made)
    for group in logical.architecture.linear_shapes():
        matrix = logical.matrix(group)
        if matrix.scales is None:
            continue
        found = source.stored(group, matrix.scheme)
        assert isinstance(found, QuantizedMatrix), (group, found)
        for part in ("codes", "scales", "zeros"):
            ours, theirs = getattr(matrix, part), getattr(found, part)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(theirs, ours)


def check_forged_again(source: Source, made: Path, layout: Layout, groups: Mapping[str, Scheme]) -> None:
    """The tensors of a bundle of the same plan, made of the export, are the first bundle's byte for byte."""
    tensors = QuantizedStore(source, made.with_name("again"), layout).plan_tensors(groups)
    stored = LogicalBundle.open(made).bundle.tensors
    for name, array in tensors.items():
        assert array.tobytes() == stored[name].tobytes(), name


def check(made: Path, source: Source, schemes: Mapping[str, str], layout: Layout) -> None:
    check_codes(source, made)
    check_forged_again(source, made, layout, {group: Scheme.parse(name) for group, name in schemes.items()})


@pytest.mark.parametrize("scheme", CPU_SCHEMES)
def test_compressed_tensors(scheme: str, wide: Tiny, tmp_path: Path) -> None:
    schemes = dict.fromkeys(wide.architecture.linear_shapes(), scheme) | {"embed": "fp32"}
    made = save_bundle(tmp_path / "bundle", wide, schemes)
    check(made, exported(made, "compressed-tensors"), schemes, CPU_LAYOUT)


@pytest.mark.parametrize("scheme", GPU_SCHEMES)
def test_compressed_tensors_of_a_gpu_bundle(scheme: str, wide: Tiny, tmp_path: Path) -> None:
    schemes = dict.fromkeys(wide.architecture.linear_shapes(), scheme) | {"embed": "bf16", "head": "bf16"}
    made = save_gpu_bundle(tmp_path / "bundle", wide, schemes)
    check(made, exported(made, "compressed-tensors"), schemes, GPU_LAYOUT)


@pytest.mark.parametrize("scheme", [name for name in CPU_SCHEMES if not name.startswith("int8") and "asym" not in name])
def test_gguf(scheme: str, wide: Tiny, tmp_path: Path) -> None:
    """Blocks of 32 that repeat a scale are the groups of 64 and 128 that they came from, the embedding's too."""
    schemes = dict.fromkeys(wide.architecture.linear_shapes(), scheme)
    made = save_bundle(tmp_path / "bundle", wide, schemes, tokenizer_json=small_tokenizer())
    check(made, exported(made, "gguf"), schemes, CPU_LAYOUT)


def test_gguf_keeps_mxfp4(wide: Tiny, tmp_path: Path) -> None:
    schemes = dict.fromkeys(wide.architecture.linear_shapes(), "mxfp4") | {"embed": "bf16", "head": "bf16"}
    made = save_gpu_bundle(tmp_path / "bundle", wide, schemes, tokenizer_json=small_tokenizer())
    check(made, exported(made, "gguf"), schemes, GPU_LAYOUT)


@pytest.mark.parametrize("scheme", ["int8", "int8-a8"])
def test_gguf_rounds_int8s_scales_to_fp16(scheme: str, wide: Tiny, tmp_path: Path) -> None:
    made = save_bundle(tmp_path / "bundle", wide, scheme, tokenizer_json=small_tokenizer())
    source, logical = exported(made, "gguf"), LogicalBundle.open(made)
    for group in logical.architecture.linear_shapes():
        matrix, found = logical.matrix(group), source.stored(group, Scheme.parse(scheme))
        assert isinstance(found, QuantizedMatrix) and matrix.scales is not None
        np.testing.assert_array_equal(found.codes, matrix.codes)
        np.testing.assert_array_equal(found.scales, matrix.scales.astype(np.float16).astype(np.float32))


def test_a_bundle_of_what_gguf_rounded_is_exported_as_it_is(wide: Tiny, tmp_path: Path) -> None:
    """The second round trip loses nothing: scales are fp16 numbers by then."""
    first = save_bundle(tmp_path / "first" / "bundle", wide, "int8", tokenizer_json=small_tokenizer())
    source = exported(first, "gguf")
    again = Tiny(wide.model, source, QuantizedStore(source, tmp_path / "store"))
    made = save_bundle(tmp_path / "second" / "bundle", again, "int8", tokenizer_json=small_tokenizer())
    check(made, exported(made, "gguf"), dict.fromkeys(wide.architecture.linear_shapes(), "int8"), CPU_LAYOUT)
