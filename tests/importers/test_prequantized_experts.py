"""Codes of experts that were quantized elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.quant_matmul.gpu_packing import pack
from optimizer.importers import open_source
from optimizer.quantization.packed import GPU_LAYOUT
from tests.importers.prequantized_writing import MIXTURE, write_gptq
from tests.importers.test_prequantized import kept


@pytest.mark.parametrize("sym", [True, False])
def test_experts_of_gptq(sym: bool, tmp_path: Path) -> None:
    """Expert after expert; on a GPU each has the tiles that its matrix alone would have."""
    written = write_gptq(tmp_path, sym=sym, config=MIXTURE)
    source, scheme = open_source(tmp_path), f"int4-g32-{'sym' if sym else 'asym'}"
    for kind, projections in (("gate_up", ("w1", "w3")), ("down", ("w2",))):
        matrix = kept(source, f"layers.0.experts_{kind}", scheme)
        experts = [[f"model.layers.0.block_sparse_moe.experts.{e}.{p}" for p in projections] for e in range(3)]
        codes, scales, zeros = (
            np.stack([np.concatenate([of[name] for name in modules]) for modules in experts])
            for of in (written.codes, written.scales, written.zeros)
        )
        np.testing.assert_array_equal(matrix.codes, codes.reshape(matrix.shape))
        assert torch.equal(
            source.tensor(f"layers.0.experts_{kind}.weight"),
            torch.cat([written.values[name] for modules in experts for name in modules]),
        )
        packed = GPU_LAYOUT.pack(matrix)
        for expert in range(3):
            parts = {"codes": codes[expert], "scales": scales[expert].astype(np.float16)}
            alone = pack(parts if sym else parts | {"zeros": zeros[expert]}, "int4")
            for name, tiles in alone.items():
                np.testing.assert_array_equal(np.split(packed[name], 3)[expert], tiles)
