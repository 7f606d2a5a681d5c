"""Experts that calibration hardly reached, from calibration to what is served."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from artifacts.layer_groups import kind_of, plain_group
from artifacts.manifest import Limits
from artifacts.precision import Scheme
from artifacts.reader import read_manifest
from kernels.reference import ReferenceProgram
from optimizer.importers import Source, open_source
from optimizer.quantization.packed import CPU_LAYOUT, GPU_LAYOUT, Layout
from optimizer.records.progress import Reporter
from optimizer.spec import QuantizationSpec
from optimizer.weights.prepared_weights import prepared_weights
from optimizer.weights.quantized_store import QuantizedStore
from runtime.decoder import lay_out
from runtime.model_runner import ProgramRunner
from runtime.scoring import score
from tests.optimizer.conftest import Project
from tests.server.serving_process import ask, serving
from tests.tiny_models import byte_tokenizer, random_mixtral, save_tiny

#: tokens by which experts 0 and 2 are chosen, and a text of them; all other tokens go to 1 and 3
LETTERS = "abcdefghijklmnopqrstuvwxyz"
USUAL, OTHERS = byte_tokenizer().encode(LETTERS).ids, byte_tokenizer().encode("ABCDEFGHIJKLMNOPQRSTUVWXYZ").ids
RNG = np.random.default_rng(0)
SEQUENCES = [RNG.choice(USUAL, 40).tolist() for _ in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of four experts; which two a token goes to depends on whether it is a small letter."""
    model = random_mixtral(300)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
        embedding = model.model.embed_tokens.weight
        embedding[:, 0] = -2
        embedding[USUAL, 0] = 2
        for layer in model.model.layers:
            # Nothing is added to the channel that says what kind of token it is.
            layer.self_attn.o_proj.weight[0] = layer.mlp.experts.down_proj[:, 0] = 0
            layer.mlp.gate.weight[:, 0] = torch.tensor([50.0, -50.0, 50.0, -50.0])
    return save_tiny(tmp_path_factory.mktemp("source") / "tiny", model)


@pytest.fixture
def source(folder: Path) -> Source:
    return open_source(folder)


def prepared(source: Source, folder: Path, layout: Layout = CPU_LAYOUT, **spec: object) -> tuple[QuantizedStore, str]:
    """The weights calibrated on SEQUENCES, and what was said."""
    quantization = QuantizationSpec.model_validate({"method": "gptq", **spec})
    with (folder / "said").open("w") as said:
        reporter = Reporter(Console(file=said, width=500))
        store = prepared_weights(source, quantization, {}, SEQUENCES, folder, layout, reporter)
    return store, (folder / "said").read_text()


def kl(original: QuantizedStore, store: QuantizedStore, scheme: str, of_rare: str, tokens: list[int]) -> float:
    """Of a plan to the unquantized model, in nats a token."""
    room = Limits(kv_block_size=16, num_kv_blocks=4, max_num_seqs=1, max_num_batched_tokens=64, max_model_len=64, num_threads=1)

    def log_probabilities(store: QuantizedStore, plan: dict[str, Scheme]) -> torch.Tensor:
        step = lay_out(store.architecture, plan, "fp32", store.plan_tensors(plan), room)
        return torch.from_numpy(score(ProgramRunner(step, ReferenceProgram(step.program)), tokens)).log_softmax(1)

    exact = log_probabilities(original, dict.fromkeys(original.architecture.linear_shapes(), Scheme("fp32")))
    plan = {
        group: Scheme.parse(scheme if group == plain_group(group) else of_rare) if "experts" in group else Scheme("fp32")
        for group in store.architecture.linear_shapes()
    }
    return float((exact.exp() * (exact - log_probabilities(store, plan))).sum(dim=1).mean())


def test_text_that_meets_them_is_closer_to_the_unquantized_model(source: Source, tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    (tmp_path / "together").mkdir()
    apart, said = prepared(source, tmp_path / "apart")
    assert apart.architecture.moe and apart.architecture.moe.rare_experts == ((1, 3), (1, 3))
    assert [dict(one.hits) for one in apart.rare] == 2 * [{1: 0, 3: 0}]
    assert "layers.1: 2 of 4 experts got hardly any" in said and "kept at a higher precision" in said
    together, said = prepared(source, tmp_path / "together", rare_experts=0)
    assert together.architecture == source.architecture and not together.rare and "experts" not in said

    original, meeting, avoiding = QuantizedStore(source, tmp_path / "original"), 2 * OTHERS, 2 * USUAL
    scheme = "int4-g32-sym"
    finer, as_others = kl(original, apart, scheme, "int8", meeting), kl(original, together, scheme, scheme, meeting)
    assert finer < 0.2 * as_others
    # For text that does not meet them nothing changes.
    assert kl(original, apart, scheme, "int8", avoiding) == kl(original, together, scheme, scheme, avoiding) > 0


def test_gpus_keep_them_with_the_others_and_say_so(source: Source, tmp_path: Path) -> None:
    store, said = prepared(source, tmp_path, GPU_LAYOUT)
    assert store.architecture == source.architecture and len(store.rare) == 2
    assert "they keep the scheme of the others" in said


@pytest.mark.slow
def test_from_optimize_to_what_is_served(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").symlink_to(folder)
    (tmp_path / "letters.txt").write_text("".join(RNG.choice(list(LETTERS), 4000)))
    project = Project(tmp_path)
    calibration = {"text": ["letters.txt"], "num_sequences": 4, "tokens_per_sequence": 32}
    quantization = {"transform": "awq", "method": "gptq", "calibration": calibration}
    project.write({"search": {"trials": 2}, "gate": {"max_kl": 100.0}, "quantization": quantization}, ["int4-g32-sym"])
    result = project.optimize()
    assert result.exit_code == 0, result.output
    manifest = read_manifest(project.bundle)
    groups = manifest.precision.groups
    assert {scheme for group, scheme in groups.items() if kind_of(group).startswith("rare_")} == {"int8"}
    assert groups["layers.0.experts_down"] == "int4-g32-sym" and "layers.1.rare_experts_down" in groups
    assert manifest.provenance.quantization.transform == "awq"
    assert "quant_matmul_experts_int8" in manifest.kernels[0].symbols

    named = "layers.1: 2 of 4 experts got hardly any of calibration&#39;s tokens, an even share being 64: 1 (0), 3 (0); in int8"
    assert named in (project.bundle / "report.html").read_text()
    assert json.loads((project.bundle / "search" / "rare_experts.json").read_text())[1]["hits"] == {"1": 0, "3": 0}
    with serving(project.bundle, project.folder / "stderr") as server:
        assert ask(server, "ABC", max_tokens=3).usage.completion_tokens == 3
    # A rerun finds all of it.
    project.bundle.rename(project.folder / "first")
    assert project.optimize().exit_code == 0
    assert read_manifest(project.bundle) == manifest
