"""`optimize` with a method that calibrates: what the bundle says of it, and a rerun that calibrates nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from artifacts.manifest import Quantization
from artifacts.precision import Scheme
from artifacts.reader import read_manifest
from optimizer.importers import open_source
from optimizer.quantization import Calibration, gptq_method, pack_matrix
from tests.optimizer.conftest import MakeProject, recorded

SCHEME = "int4-g32-asym-a8"
QUANTIZATION: dict[str, Any] = {
    "method": "gptq",
    "clip": True,
    "calibration": {"num_sequences": 5, "tokens_per_sequence": 32},
}


@pytest.mark.slow
def test_a_bundle_by_gptq(project: MakeProject) -> None:
    made = project(schemes=[SCHEME], quantization=QUANTIZATION, gate={"max_kl": 5}, search={"trials": 2})
    result = made.optimize()
    assert result.exit_code == 0, result.output
    manifest = read_manifest(made.bundle)

    (folder,) = (made.folder / "out.work").glob("tiny-*")
    sequences, sampled = recorded(made, "texts/calibration"), recorded(made, "texts/sampled")
    assert [len(ids) for ids in sequences] == 5 * [32]
    assert not {tuple(ids) for ids in sequences} & {tuple(ids) for ids in sampled}
    calibration = Calibration(open_source(made.folder / "tiny"), sequences, folder / "calibration")
    assert manifest.provenance.quantization == Quantization(method="gptq+clip", calibration=calibration.digest)

    assert manifest.precision.groups["layers.1.down"] == SCHEME
    weight = open_source(made.folder / "tiny").tensor("layers.1.down.weight")
    expected = pack_matrix(gptq_method(calibration, clip=True).quantize("layers.1.down", weight, Scheme.parse(SCHEME)))
    (shard,) = manifest.weight_files
    np.testing.assert_array_equal(load_file(made.bundle / shard)["layers.1.down.codes"], expected["codes"])

    times = {path: path.stat().st_mtime_ns for path in (folder / "calibration").iterdir()}
    made.bundle.rename(made.folder / "first")
    assert made.optimize().exit_code == 0
    assert read_manifest(made.bundle) == manifest
    assert {path: path.stat().st_mtime_ns for path in (folder / "calibration").iterdir()} == times
