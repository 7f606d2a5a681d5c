"""`optimize` with a transform: what the bundle computes and says of it, and that it is judged against the model as it came."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3Config, Olmo2Config

from artifacts.precision import Plan, Scheme
from artifacts.reader import open_bundle
from kernels.cpu.host import host
from kernels.cpu.library import Library
from optimizer.importers import Source, open_source
from optimizer.measure.workbench import CpuWorkbench
from optimizer.quantization import Calibration, gptq_method, round_to_nearest
from optimizer.quantization.packed import CPU_LAYOUT
from optimizer.records.progress import Reporter
from optimizer.spec import QuantizationSpec
from optimizer.transforms import AWQ, SMOOTHQUANT, Rotation, search_scales, transformed
from optimizer.weights.prepared_weights import prepared_weights, record_sha256, scaled_plan
from optimizer.weights.quantized_store import QuantizedStore
from runtime.loading import load_runner
from runtime.scoring import score
from tests.importers.random_models import SIZES, random_model, save_folder
from tests.optimizer.conftest import MakeProject, Project, recorded
from tests.optimizer.transforms.small_models import LATENT
from tests.runtime.conftest import moderate
from tests.tiny_models import SIZES as WIDE
from tests.tiny_models import save_tiny

INT4, INT8_A8 = "int4-g32-asym", "int8-a8"
CALIBRATION = {"num_sequences": 5, "tokens_per_sequence": 32}
IDS = [0, *range(40, 71)]


def in_bf16(made: Project) -> None:
    """Its model's weights, rounded to bf16: scaled, they are bf16 no more."""
    tiny = (made.folder / "tiny").resolve()
    (made.folder / "tiny").unlink()
    (made.folder / "tiny").mkdir()
    for path in tiny.iterdir():
        if path.suffix != ".safetensors":
            (made.folder / "tiny" / path.name).write_bytes(path.read_bytes())
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(tiny / "model.safetensors").items()}
    save_file(weights, made.folder / "tiny" / "model.safetensors", {"format": "pt"})


def baselines(made: Project) -> dict[str, bytes]:
    """The logits of the unquantized model, which are then taken away."""
    folder = made.folder / "out.work" / "baseline"
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("transform", "method", "scheme"), [("awq", "gptq", INT4), ("smoothquant", "rtn", INT8_A8)])
def test_a_bundle_of_a_transformed_model(project: MakeProject, transform: str, method: str, scheme: str) -> None:
    quantization: dict[str, Any] = {"transform": transform, "method": method, "calibration": CALIBRATION}
    made = project(schemes=[scheme], quantization=quantization, gate={"max_kl": 5}, search={"trials": 2})
    in_bf16(made)
    result = made.optimize()
    assert result.exit_code == 0, result.output
    assert f"weights by {transform}, then {method}" in result.output

    # The same transform and codes, from the parts.
    (folder,) = (made.folder / "out.work").glob("tiny-*")
    source, fresh = open_source(made.folder / "tiny"), made.folder / "fresh"
    sequences = recorded(made, "texts/calibration")
    groups = {group: Scheme.parse(scheme) for group in source.architecture.linear_shapes()}
    before = Calibration(source, sequences, fresh / "before")
    scales = search_scales(source, before, groups, {"awq": AWQ, "smoothquant": SMOOTHQUANT}[transform], fresh / "scales")
    after = transformed(source, scales)
    assert any(float(factors.max()) > 1.2 for factors in scales.factors.values())
    calibrated = {"gptq": gptq_method(Calibration(after, sequences, fresh / "after"))}
    store = QuantizedStore(after, fresh / "weights", **({"method": calibrated[method]} if method in calibrated else {}))
    bundle = open_bundle(made.bundle, machine=host().machine, cpu_flags=host().flags)
    plan: Plan = {group: Scheme.parse(name) for group, name in bundle.manifest.precision.groups.items()}
    (kernels,) = bundle.manifest.kernels
    assert kernels.library is not None
    # int8 activations agree with a reference up to ties of rounding only, so the references run where there are none.
    library = Library(bundle.path(kernels.library)) if Scheme.parse(scheme).int8_activations else None
    expected = CpuWorkbench(source.architecture, store, "fp32", 16, library, 1).score(plan, len(IDS))(IDS)
    logits = score(load_runner(bundle), IDS)
    np.testing.assert_allclose(logits, expected, atol=0 if library else 2e-3 * float(np.abs(expected).max()))

    said = bundle.manifest.provenance.quantization
    record = bundle.read("search/transforms.json")
    assert (said.transform, said.method) == (transform, method)
    assert said.transform_record == hashlib.sha256(record).hexdigest() == record_sha256(after)
    assert json.loads(record)[0]["calibration"] == before.digest
    assert said.transform_record in (made.bundle / "report.html").read_text()

    # Again from the records: nothing is searched or calibrated twice.
    kept = [path for name in ("scales", "calibration", f"{transform}-*") for path in folder.glob(name)]
    assert len(kept) == 3
    times = {path: path.stat().st_mtime_ns for top in kept for path in top.rglob("*.safetensors")}
    made.bundle.rename(made.folder / "first")
    assert made.optimize().exit_code == 0
    assert open_bundle(made.bundle, machine=host().machine, cpu_flags=host().flags).manifest == bundle.manifest
    assert {path: path.stat().st_mtime_ns for top in kept for path in top.rglob("*.safetensors")} == times

    # What plans are compared with is the model as it came.
    before = baselines(made)
    made.write({"gate": {"max_kl": 5}, "search": {"trials": 2}}, [scheme])
    assert made.optimize().exit_code == 0
    assert baselines(made) == before


def tied(made: Project) -> None:
    """Its model with the embedding for a head."""
    tiny = (made.folder / "tiny").resolve()
    (made.folder / "tiny").unlink()
    shutil.copytree(tiny, made.folder / "tiny")
    config = json.loads((tiny / "config.json").read_text())
    (made.folder / "tiny" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    weights = load_file(tiny / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, made.folder / "tiny" / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("transform", ["rotation", pytest.param(["rotation", "awq"], marks=pytest.mark.slow)])
def test_a_bundle_of_a_rotated_model_whose_head_was_tied(project: MakeProject, transform: str | list[str]) -> None:
    """It has a head of its own, and is compared with the model as it came, which has none."""
    names = [transform] if isinstance(transform, str) else transform
    calibration = {"calibration": CALIBRATION} if "awq" in names else {}
    shared: dict[str, Any] = {"gate": {"max_kl": 5}, "search": {"trials": 1}}
    made = project(schemes=["int8"], quantization={"transform": transform, **calibration}, **shared)
    tied(made)
    result = made.optimize()
    assert result.exit_code == 0, result.output
    assert f"weights by {', then '.join([*names, 'rtn'])}" in result.output
    assert "the head is no longer tied to the embedding: 19,200 more weights" in result.output

    bundle = open_bundle(made.bundle, machine=host().machine, cpu_flags=host().flags)
    assert not bundle.manifest.architecture.tie_embeddings and "head" in bundle.manifest.precision.groups
    said = bundle.manifest.provenance.quantization
    assert (
        said.transform == ", ".join(names)
        and [r["transform"] for r in json.loads(bundle.read("search/transforms.json"))] == names
    )

    source, logits = open_source(made.folder / "tiny"), score(load_runner(bundle), IDS)

    def by_references(source: Source, scheme: str) -> tuple[float, int]:
        """The largest error of the bundle's logits against `source` under `scheme`, as a part of the largest; its bytes."""
        store = QuantizedStore(source, made.folder / "fresh" / scheme)
        plan = dict.fromkeys(source.architecture.linear_shapes(), Scheme.parse(scheme))
        expected = CpuWorkbench(source.architecture, store, "fp32", 16, None, 1).score(plan, len(IDS))(IDS)
        return float(np.abs(logits - expected).max() / np.abs(expected).max()), store.weight_bytes(plan)

    error, num_bytes = by_references(source, "fp32")
    assert error < 0.1, "what int8 loses"
    assert json.loads(bundle.read("evaluation.json"))["baseline"]["weight_bytes"] == num_bytes
    if names == ["rotation"]:
        assert by_references(transformed(source, Rotation.random(source.architecture, seed=0)), "int8")[0] < 2e-3

    before = baselines(made)
    made.write(shared, ["int8"])
    assert made.optimize().exit_code == 0
    assert baselines(made) == before


@pytest.fixture
def source(tiny_llama: Path) -> Source:
    return open_source(tiny_llama)


OFFERED = {
    "embed": ("int4-g32-asym", "int8"),
    "head": ("fp32",),
    "qkv": ("int8-a8", "int4-g32-asym", "int4-g32-sym-a8", "int4-g32-sym", "fp32"),
    "o": ("int8", "bf16"),
    "gate_up": ("int8-a8",),
    "down": ("int8", "int8-a8"),
}


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("awq", {"qkv": "int4-g32-sym", "o": "int8", "gate_up": "int8-a8", "down": "int8"}),
        ("smoothquant", {"qkv": "int4-g32-sym-a8", "gate_up": "int8-a8", "down": "int8-a8"}),
    ],
)
def test_scales_are_searched_under_the_coarsest_scheme(source: Source, transform: str, expected: dict[str, str]) -> None:
    offered = {kind: [Scheme.parse(name) for name in names] for kind, names in OFFERED.items()}
    plan = scaled_plan(transform, source.architecture.linear_shapes(), offered)
    assert {group: scheme.name for group, scheme in plan.items()} == {
        f"layers.{layer}.{kind}": name for layer in range(2) for kind, name in expected.items()
    }


@pytest.mark.parametrize("transform", ["awq", "smoothquant"])
def test_what_is_offered_must_have_use_for_it(source: Source, transform: str) -> None:
    useless = (Scheme.parse({"awq": "fp32", "smoothquant": "int8"}[transform]),)
    offered = dict.fromkeys(("head", "qkv", "o", "gate_up", "down"), useless)
    with pytest.raises(ValueError, match=f"transform: {transform} needs a scheme that quantizes"):
        scaled_plan(transform, source.architecture.linear_shapes(), offered)


def test_weights_of_two_transforms_never_mix(source: Source, tmp_path: Path) -> None:
    """Gains and codes are those of the transformed model, also where a folder holds what came of another."""
    plan = dict.fromkeys(source.architecture.linear_shapes(), Scheme.parse("int8-a8"))

    def stored(transform: str) -> QuantizedStore:
        ids = [[0, *range(5, 30)]] * 2
        spec = QuantizationSpec.model_validate({"transform": transform})
        return prepared_weights(source, spec, plan, ids, tmp_path, CPU_LAYOUT, Reporter())

    stores = [stored(transform) for transform in ("none", "awq", "smoothquant")]
    gains = [store.float_tensors()["layers.0.attn_norm.weight"] for store in stores]
    assert not np.array_equal(gains[0], gains[1]) and not np.array_equal(gains[1], gains[2])
    for store, gain in zip(stores, gains, strict=True):
        np.testing.assert_array_equal(gain, store.source.tensor("layers.0.attn_norm.weight").float())
        weight = store.source.tensor("layers.0.qkv.weight").float()
        expected = CPU_LAYOUT.pack(round_to_nearest("layers.0.qkv", weight, plan["layers.0.qkv"]))
        codes = store.group_tensors("layers.0.qkv", plan["layers.0.qkv"])["layers.0.qkv.codes"]
        np.testing.assert_array_equal(codes, expected["codes"])


def test_norms_behind_branches_are_refused_before_anything_is_measured(project: MakeProject) -> None:
    made = project(quantization={"transform": "awq"}, source="behind", schemes=["int8", "fp32"])
    save_folder(random_model(Olmo2Config(**SIZES)), made.folder / "behind")
    result = made.optimize()
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "this olmo2 model has no norms before its branches: quantize it without transforms" in said
    assert not list(made.folder.glob("out.work/behind-*"))


@pytest.mark.slow
def test_a_bundle_of_latents_and_experts_under_scales(project: MakeProject) -> None:
    """What it computes is what references do with the parts, queries and their latent, values and experts scaled."""
    quantization: dict[str, Any] = {"transform": "awq", "calibration": CALIBRATION}
    made = project(schemes=[INT4], source="latents", quantization=quantization, gate={"max_kl": 100}, search={"trials": 1})
    model = random_model(DeepseekV3Config(vocab_size=300, **WIDE | LATENT, n_group=4, topk_group=2))
    save_tiny(made.folder / "latents", moderate(model))
    result = made.optimize()
    assert result.exit_code == 0, result.output
    assert "weights by awq, then rtn" in result.output

    source, fresh = open_source(made.folder / "latents"), made.folder / "fresh"
    groups = dict.fromkeys(source.architecture.linear_shapes(), Scheme.parse(INT4))
    before = Calibration(source, recorded(made, "texts/calibration"), fresh / "before")
    scales = search_scales(source, before, groups, AWQ, fresh / "scales")
    for kind in ("q_a", "q_b", "o"):
        assert float(scales.factors[f"layers.1.{kind}"].max()) > 1.05, kind
    after = transformed(source, scales)
    bundle = open_bundle(made.bundle, machine=host().machine, cpu_flags=host().flags)
    assert bundle.manifest.provenance.quantization.transform_record == record_sha256(after)

    plan: Plan = {group: Scheme.parse(name) for group, name in bundle.manifest.precision.groups.items()}
    assert set(plan) == set(groups)
    store = QuantizedStore(after, fresh / "weights")
    expected = CpuWorkbench(source.architecture, store, "fp32", 16, None, 1).score(plan, len(IDS))(IDS)
    np.testing.assert_allclose(score(load_runner(bundle), IDS), expected, atol=2e-3 * float(np.abs(expected).max()))
