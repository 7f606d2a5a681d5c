"""A scheme that no search space offers by default, from `optimize` to what is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from artifacts.precision import Scheme
from artifacts.reader import verify_bundle
from optimizer.exporters.logical import LogicalBundle
from runtime.gpu.weights import refusal, stored_parts
from runtime.loading import load_runner
from runtime.scoring import score
from tests.artifacts.conftest import ARCHITECTURE
from tests.optimizer.conftest import MakeProject
from tests.server.serving_process import ask, serving


def test_int3_from_optimize_to_logits(project: MakeProject, tiny_llama: Path) -> None:
    """Against transformers with the bundle's own values in place of its weights."""
    made = project(search={"trials": 1}, schemes=["int3"], gate={"max_kl": 100.0})
    result = made.optimize()
    assert result.exit_code == 0, result.output
    assert set(verify_bundle(made.bundle).precision.groups.values()) == {"int3"}

    rounded = AutoModelForCausalLM.from_pretrained(tiny_llama)
    logical = LogicalBundle.open(made.bundle)
    with torch.no_grad():
        for group in logical.architecture.linear_shapes():
            for module, matrix in logical.projections(group):
                rounded.get_submodule(module).weight.copy_(torch.from_numpy(matrix.dequantize()))
        text = np.random.default_rng(0).integers(4, 300, 40).tolist()
        theirs = rounded(torch.tensor([text])).logits[0].numpy()
    ours = score(load_runner(logical.bundle), text)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()

    with serving(made.bundle, made.folder / "stderr") as server:
        assert ask(server, "Hi", max_tokens=3).usage.completion_tokens == 3


def test_gpus_refuse_int3_by_its_name() -> None:
    assert refusal(Scheme.parse("int3"), "qkv", ARCHITECTURE) == "there are no GPU kernels for int3"
    with pytest.raises(ValueError, match="there are no GPU kernels for int3; choose another scheme"):
        stored_parts(Scheme.parse("int3"))
