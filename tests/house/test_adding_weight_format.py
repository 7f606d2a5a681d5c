"""docs/adding.md's recipe for a weight format, followed on a toy; and that nothing but the tables knows formats by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from artifacts.precision import Scheme
from artifacts.weight_formats import WEIGHT_FORMATS, WeightFormat
from kernels.formats import table as kernel_table
from kernels.formats.format import CpuPacking, Decoded, Format, Parts, kept
from kernels.formats.reference import decoded
from kernels.spec import Array
from kernels.spec import Tensor as SpecTensor
from optimizer.exporters.gguf_blocks import block_kind, blocks
from optimizer.formats.codec import Codec, Widened
from optimizer.formats.grid import Grid, Integers
from optimizer.formats.int8 import INT8
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.table import CODECS
from optimizer.quantization import fit_clipped_grid, pack_matrix, round_to_nearest
from optimizer.quantization.gptq import gptq
from optimizer.report.maps import scheme_style
from runtime.decoder import stored_parts
from runtime.gpu.weights import refusal
from runtime.stored_tensors import tensor_shapes
from tests.artifacts.conftest import ARCHITECTURE
from tests.house.recipes import RECIPES
from tests.house.test_imports import MAY_IMPORT, ROOT, modules

RECIPE = RECIPES["A weight format"]


def test_every_name_of_the_recipe_is_in_its_files() -> None:
    names = {name for name in re.findall(r"`([A-Za-z_]\w+)`", RECIPE) if name != "NAME"}
    files = [path for folder in ("artifacts", "kernels", "optimizer") for path in (ROOT / folder).rglob("*.*")]
    text = "".join(path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".h", ".cpp"))
    assert len(names) >= 10
    assert not [name for name in names if not re.search(rf"\b{name}\b", text)]


def test_the_three_tables_have_the_same_formats() -> None:
    assert set(WEIGHT_FORMATS) == set(kernel_table.FORMATS) == set(CODECS)
    for scheme in Scheme.every():
        assert Scheme.parse(scheme.name) == scheme
        assert scheme.variant in kernel_table.cpu_products() or kernel_table.gpu_packing(scheme.variant)
        assert CODECS[scheme.weights].colours[scheme.weight_only.name]
        if scheme.variant in kernel_table.cpu_products():
            packing = kernel_table.cpu_packing(scheme.variant)
            assert packing is kernel_table.cpu_packing(scheme.storage.variant)
            assert packing.bits(scheme.group_size) == scheme.bits_per_weight


def comparisons(path: Path) -> Iterator[str]:
    """Where the kind of a scheme's weights is compared with a name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        asked = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        names = any(isinstance(item, ast.Constant) and isinstance(item.value, str) for item in ast.walk(node))
        if names and any(isinstance(item, ast.Attribute) and item.attr == "weights" for item in asked):
            yield f"{path.relative_to(ROOT)}:{node.lineno} compares weights; look them up in a table of formats"


def test_formats_are_looked_up() -> None:
    found = [line for package in MAY_IMPORT for path in modules(package) for line in comparisons(path)]
    assert not found, "\n".join(found)


def test_a_comparison_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "bad.py").write_text('a = scheme.weights == "int4"\nb = s.weights in ("int8", "int4")\nc = scheme.weights\n')
    assert len(list(comparisons(tmp_path / "bad.py"))) == 2


NUMBERS = Integers(0, 2, 1, torch.uint8)


def decode(parts: Parts) -> Decoded:
    return Decoded(parts["codes"].astype(np.int8) - np.int8(1), row_scales=parts["scales"])


def random(rng: np.random.Generator, values: Array, group_size: int) -> dict[str, Array]:
    return {"codes": rng.integers(0, 3, values.shape, np.uint8), "scales": rng.random(len(values), np.float32)}


def fit(name: str, weight: Tensor, scheme: Scheme, largest: float, shrink: Tensor | float) -> Grid:
    scales = weight.abs().amax(dim=1) * shrink
    return Grid(scheme, NUMBERS, {"scales": scales}, scales[:, None], weight.shape[1])


def as_int8(matrix: QuantizedMatrix) -> QuantizedMatrix:
    codes = matrix.codes.astype(np.int8) - np.int8(1)
    return QuantizedMatrix(Scheme("int8"), {"codes": codes, "scales": matrix.parts["scales"]})


@pytest.fixture
def ternary(monkeypatch: pytest.MonkeyPatch) -> Scheme:
    """Codes 0, 1, 2 for -1, 0, 1 times a scale of the row, a byte each: the three rows of the recipe."""
    monkeypatch.setitem(WEIGHT_FORMATS, "ternary", WeightFormat("ternary", 8))  # type: ignore[arg-type]
    tensors = SpecTensor("codes", "u8", ("N", "K")), SpecTensor("scales", "f32", ("N",))
    packing = CpuPacking("ternary", ("ternary",), tensors, kept, kept, random)
    monkeypatch.setitem(kernel_table.FORMATS, "ternary", Format("ternary", decode, (packing,)))
    widened = Widened(lambda scheme: Scheme("int8"), as_int8, "size: layers in ternary are written as int8")
    codec = Codec("ternary", {"ternary": "#123456"}, INT8.compressed_tensors, gguf="Q8_0", fit=fit, widened=widened)
    monkeypatch.setitem(CODECS, "ternary", codec)
    return Scheme.parse("ternary")


def test_a_toy_is_found_everywhere_by_look_up(ternary: Scheme) -> None:
    assert (ternary.name, ternary.bits_per_weight, ternary.storage) == ("ternary", 8, ternary)
    weight = torch.randn(21, 64, generator=torch.Generator().manual_seed(0))
    matrix = round_to_nearest("w", weight, ternary)
    scales = weight.abs().amax(dim=1, keepdim=True)
    expected = ((weight / scales).round() * scales).numpy()
    np.testing.assert_array_equal(matrix.dequantize(), expected)

    packed = pack_matrix(matrix)
    assert {name: part.shape for name, part in packed.items()} == {"codes": (2, 64, 16), "scales": (2, 16)}
    parts = kernel_table.cpu_packing("ternary").unpack(packed, 21)
    for name, part in matrix.parts.items():
        np.testing.assert_array_equal(parts[name], part)
    tiles = {name: torch.from_numpy(part) for name, part in packed.items()}
    weights = decoded("ternary", tiles, 21)
    np.testing.assert_array_equal(weights.rounded_once(torch.float32) * weights.row_scales[:, None], expected)
    row = decoded("ternary", tiles, rows=torch.tensor([20]))
    np.testing.assert_array_equal(row.units, weights.units[20:])


def test_a_toy_is_served_exported_or_refused_by_its_rows(ternary: Scheme) -> None:
    shapes = tensor_shapes(ARCHITECTURE, dict.fromkeys(ARCHITECTURE.linear_shapes(), ternary), stored_parts)
    rows, columns = ARCHITECTURE.linear_shapes()["layers.0.o"]
    assert shapes["layers.0.o.codes"] == ("uint8", (-(-rows // 16), columns, 16))
    assert refusal(ternary, "qkv", ARCHITECTURE) == "there are no GPU kernels for ternary"
    assert scheme_style("ternary") == "background:#123456"
    matrix = round_to_nearest("w", torch.randn(4, 64), ternary)
    widened = CODECS["ternary"].widened
    assert widened is not None
    exported = widened.matrix(matrix)
    np.testing.assert_array_equal(exported.dequantize(), matrix.dequantize())
    kind = block_kind(widened.scheme(ternary), 64)
    assert kind.name == "Q8_0" and blocks("w", exported, kind).shape == (4, 2 * 34)
    assert CODECS["int8"].compressed_tensors.group(exported.scheme)["format"] == "pack-quantized"


def test_methods_take_a_toy(ternary: Scheme) -> None:
    """GPTQ and clipping ask the grid alone."""
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    inputs = torch.randn(100, 64, generator=torch.Generator().manual_seed(2))
    plain = round_to_nearest("w", weight, ternary)
    clipped = round_to_nearest("w", weight, ternary, fit_clipped_grid)
    assert clipped.error(weight).rms < plain.error(weight).rms
    found = gptq("w", weight, ternary, inputs.T @ inputs / 100, fit_clipped_grid)
    assert set(np.unique(found.codes)) <= {0, 1, 2}
