"""What `coldforge export --format onnx` writes comes in again: same architecture, same codes, same values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from optimizer.exporters import export_bundle
from optimizer.exporters.logical import LogicalBundle
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.importers import open_source
from tests.exporters.conftest import MakeBundle, bundle  # noqa: F401 - a fixture
from tests.runtime.conftest import Tiny, one_torch_thread, tiny  # noqa: F401 - fixtures


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("qwen2, tied, window", "bf16"),
        pytest.param("llama", "fp32", marks=pytest.mark.slow),
        pytest.param("qwen3", "int8", marks=pytest.mark.slow),
        ("mistral, tied, yarn", "int4-g32-sym-a8"),
        ("qwen3", "int4-g32-asym"),
    ],
)
def test_an_export_comes_in_again(name: str, scheme: str, bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:  # noqa: F811
    made = bundle(name, scheme)
    export_bundle(made, "onnx", folder := Path(made.with_name("exported")))
    source, logical = open_source(folder), LogicalBundle.open(made)
    assert source.architecture == logical.architecture
    for group in source.architecture.linear_shapes():
        matrix = logical.matrix(group)
        found = source.stored(group, matrix.scheme)
        if matrix.scales is None:
            assert found is None
            weight = source.tensor(f"{group}.weight")
            bits = weight.view(torch.int16) if weight.dtype == torch.bfloat16 else weight
            np.testing.assert_array_equal(bits.numpy().view(matrix.codes.dtype), matrix.codes)
        else:
            assert isinstance(found, QuantizedMatrix), (group, found)
            for part, stored in matrix.parts.items():
                np.testing.assert_array_equal(found.parts[part], stored, f"{group}.{part}")
    for name in source.architecture.float_shapes():
        np.testing.assert_array_equal(source.tensor(name).numpy(), logical.bundle.tensors[name])
