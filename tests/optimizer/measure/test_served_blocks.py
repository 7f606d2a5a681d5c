"""Blocks of two bundles in processes of their own, and the steps that are measured there."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import UserError
from artifacts.manifest import Limits
from optimizer.importers import open_source
from optimizer.measure.served_blocks import OF, measure_block
from optimizer.measure.served_steps import num_seqs_at_once, served_batches
from optimizer.measure.workload import Workload
from tests.optimizer.conftest import save_tiny_llama
from tests.small_bundle import write_small_bundle

LIMITS = Limits(kv_block_size=16, num_kv_blocks=16, max_num_seqs=4, max_num_batched_tokens=32, max_model_len=128, num_threads=1)


def test_a_prompt_is_measured_in_the_chunks_that_serve_it() -> None:
    steps = served_batches(LIMITS, Workload(80, 20, 1))["prefill"]
    assert [step.token_ids.size for step in steps] == [32, 32, 16]
    assert [step.logit_rows.size for step in steps] == [0, 0, 1], "its last token alone is sampled"
    assert np.concatenate([step.positions for step in steps]).tolist() == list(range(80))


@pytest.mark.parametrize(
    ("workload", "num_seqs", "context"),
    [
        (Workload(40, 20, 1), 1, 51),
        (Workload(40, 20, 8), 4, 51),
        (Workload(90, 20, 8), 2, 101),
        (Workload(4000, 20, 1), 1, 128),
    ],
    ids=["alone", "as many as are allowed", "as many as the cache holds", "as far as it reaches"],
)
def test_a_decode_step_is_one_that_the_bundle_can_serve(workload: Workload, num_seqs: int, context: int) -> None:
    (step,) = served_batches(LIMITS, workload)["decode"]
    assert num_seqs_at_once(LIMITS, workload) == step.token_ids.size == num_seqs
    assert set(step.seq_lens) == {context}
    slots = set(step.slot_mapping)
    assert len(slots) == num_seqs and max(slots) < LIMITS.num_kv_blocks * LIMITS.kv_block_size


@pytest.fixture(scope="module")
def bundle(kernels_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    return write_small_bundle(folder / "bundle", open_source(save_tiny_llama(folder / "tiny")), folder / "store", kernels_path)


def test_a_block_of_a_bundle_and_itself(bundle: Path) -> None:
    block = measure_block(bundle, bundle, Workload(24, 8, 2), random.Random(0))
    for side in (block.other, block.this):
        assert set(side) == set(OF) and all(ms > 0 for ms in side.values())
        assert side["workload"] == pytest.approx(side["decode"] + side["prefill"] / 8)
    assert abs(block.log_ratio("decode")) < 3, "two processes of one bundle"


def test_a_bundle_that_does_not_load_is_a_users_error(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="damaged could not be measured"):
        measure_block(bundle, tmp_path / "damaged", Workload(24, 8, 2), random.Random(0))
