"""ModelOpt's checkpoints, fp8 and nvfp4: as in test_prequantized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from artifacts.layer_groups import kind_of
from optimizer.importers import open_source
from optimizer.targets import offered_schemes, with_own_schemes
from search_spaces.space import load_space
from tests.importers.prequantized_writing import write_modelopt, write_modelopt_nvfp4
from tests.importers.test_prequantized import LINEAR, MODULES, assert_values, joined, kept, misfit


def test_modelopt_nvfp4(tmp_path: Path) -> None:
    written = write_modelopt_nvfp4(tmp_path)
    source = open_source(tmp_path)
    assert_values(source, written)
    for group in LINEAR:
        matrix = kept(source, group, "nvfp4")
        np.testing.assert_array_equal(matrix.codes, joined(written.codes, group))
        np.testing.assert_array_equal(matrix.scales, joined(written.scales, group))
        assert matrix.row_scales is not None and len(set(matrix.row_scales.tolist())) == len(MODULES[group])
    assert misfit(source, "layers.0.o", "fp8") == "codes are e2m1"


def test_modelopt(tmp_path: Path) -> None:
    written = write_modelopt(tmp_path)
    source = open_source(tmp_path)
    assert "hf_quant_config.json" in source.sha256()
    for group, names in MODULES.items():
        assert torch.equal(source.tensor(f"{group}.weight"), torch.cat([written.values[name] for name in names]))
        kept(source, group, "fp8")
        kept(source, group, "fp8-tensor")
    assert source.checkpoint.notes()[0].startswith("9 static scales")


def test_a_search_on_a_gpu_offers_what_keeps_the_codes(tmp_path: Path) -> None:
    write_modelopt_nvfp4(tmp_path)
    source = open_source(tmp_path)
    kinds = dict.fromkeys(map(kind_of, source.architecture.linear_shapes()))
    usual = offered_schemes(load_space(kind="gpu"), ("h100",), kinds, source.architecture)
    offered = with_own_schemes(source, ("h100",), usual)
    new = {kind: [scheme.name for scheme in schemes if scheme not in usual[kind]] for kind, schemes in offered.items()}
    assert new == {kind: [] if kind in ("embed", "head") else ["nvfp4"] for kind in kinds}
