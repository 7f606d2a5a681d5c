"""Methods in a store: what each folder holds, what calibration wins on a small model, which groups are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from artifacts.errors import UserError
from artifacts.precision import Scheme
from benchmarks.degridded import degridded, write_hf_folder
from optimizer.importers import Source, open_source
from optimizer.quantization import (
    ROUND_TO_NEAREST,
    Calibration,
    Method,
    QuantizationError,
    QuantizedMatrix,
    clipped_rounding_method,
    gptq_method,
    pack_matrix,
    round_to_nearest,
    with_static_activations,
)
from optimizer.quantization.static_activations import static_scale
from optimizer.weights.quantized_store import QuantizedStore
from tests.importers.random_models import random_model, save_folder
from tests.optimizer.quantization.test_calibration import CONFIGS, SEQUENCES, moderate
from tests.runtime.conftest import CONFIGS as FAMILIES

SCHEME = Scheme.parse("int4-g32-sym")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(save_folder(moderate(random_model(CONFIGS["llama"])), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def calibration(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    return Calibration(source, SEQUENCES, tmp_path_factory.mktemp("calibration"))


def test_each_method_loses_less_than_the_one_before(source: Source, calibration: Calibration) -> None:
    methods = [ROUND_TO_NEAREST, clipped_rounding_method(calibration), gptq_method(calibration, clip=True)]
    losses = []
    for method in methods:
        loss = 0.0
        for group in source.architecture.linear_shapes():
            if calibration.covers(group):
                weight, statistics = source.tensor(f"{group}.weight"), calibration.statistics(group)
                loss += statistics.loss(torch.from_numpy(method.quantize(group, weight, SCHEME).dequantize()) - weight)
        losses.append(loss)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]


def test_an_embedding_and_float_schemes_are_rounded_to_nearest(source: Source, calibration: Calibration) -> None:
    for method in (clipped_rounding_method(calibration), gptq_method(calibration, clip=True)):
        for group, scheme in (("embed", SCHEME), ("layers.0.o", Scheme.parse("bf16")), ("head", Scheme.parse("fp32"))):
            weight = source.tensor(f"{group}.weight")
            expected = round_to_nearest(group, weight, scheme)
            np.testing.assert_array_equal(method.quantize(group, weight, scheme).codes, expected.codes)


def test_methods_share_a_folder(source: Source, calibration: Calibration, tmp_path: Path) -> None:
    """Float weights are there once; codes of another method, or of another calibration, are never taken for one's own."""
    other = Calibration(source, SEQUENCES[:1], tmp_path / "other")
    methods = [ROUND_TO_NEAREST, gptq_method(calibration), gptq_method(calibration, clip=True), gptq_method(other)]
    assert len({method.key for method in methods}) == len(methods)
    stores = [QuantizedStore(source, tmp_path / "weights", method=method) for method in methods]
    for store in stores:
        store.group_tensors("layers.1.o", Scheme.parse("bf16"))
        tensors = store.group_tensors("layers.1.o", SCHEME)
        weight = source.tensor("layers.1.o.weight")
        expected = pack_matrix(store.method.quantize("layers.1.o", weight, SCHEME))
        np.testing.assert_array_equal(tensors["layers.1.o.codes"], expected["codes"])
    assert len(list((tmp_path / "weights").rglob("bf16/layers.1.o.safetensors"))) == 1
    assert len(list((tmp_path / "weights").rglob("int4-g32-sym/layers.1.o.safetensors"))) == 4


@pytest.mark.parametrize("name", ["rtn", "gptq"])
def test_static_scales_of_activations_are_of_the_largest_input(source: Source, calibration: Calibration, name: str) -> None:
    """Codes are the method's own; schemes without a static scale, and what is looked up, are none the wiser."""
    plain = ROUND_TO_NEAREST if name == "rtn" else gptq_method(calibration)
    method, scheme = with_static_activations(plain, calibration), Scheme.parse("fp8-tensor")
    assert method.key == f"{name}-{calibration.digest[:16]}"
    for group in ("layers.0.qkv", "layers.1.down", "head"):
        weight = source.tensor(f"{group}.weight")
        matrix, expected = method.quantize(group, weight, scheme), plain.quantize(group, weight, scheme)
        np.testing.assert_array_equal(matrix.codes, expected.codes)
        largest = np.float32(calibration.statistics(group).max_abs.max())
        np.testing.assert_array_equal(matrix.input_scale, [largest / np.float32(448)])
        assert method.quantize(group, weight, Scheme.parse("fp8")).input_scale is None
    with pytest.raises(QuantizationError, match="embed cannot take fp8-tensor: it has no inputs to calibrate a scale with"):
        method.quantize("embed", source.tensor("embed.weight"), scheme)


def test_inputs_that_were_all_zero_have_a_scale() -> None:
    assert static_scale(torch.zeros(8)).tolist() == [np.float32(1e-10) / np.float32(448)]


def test_a_run_that_starts_again_quantizes_what_is_missing(source: Source, calibration: Calibration, tmp_path: Path) -> None:
    quantized: list[str] = []
    method = gptq_method(calibration)

    def counted(name: str, weight: torch.Tensor, scheme: Scheme) -> QuantizedMatrix:
        quantized.append(name)
        return method.quantize(name, weight, scheme)

    for groups in (["layers.0.qkv", "layers.0.o"], ["layers.0.qkv", "layers.0.o", "layers.0.down"]):
        store = QuantizedStore(source, tmp_path, method=Method(method.name, counted, method.calibration))
        store.plan_tensors(dict.fromkeys(groups, SCHEME))
    assert quantized == ["layers.0.qkv", "layers.0.o", "layers.0.down"]


def test_the_de_gridded_twin_is_the_same_function(tmp_path: Path) -> None:
    """transformers' logits of the folder that is written, with biases and shared heads of v; weights differ as drawn."""
    from transformers import AutoModelForCausalLM

    for name in ("llama", "qwen2"):
        model = moderate(random_model(CONFIGS[name]))
        folder = save_folder(model, tmp_path / name)
        twin = degridded(open_source(folder), seed=3)
        write_hf_folder(twin, model.config.to_dict(), tmp_path / f"{name} twin")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / f"{name} twin").eval()
        ids = torch.tensor([SEQUENCES[0]])
        with torch.inference_mode():
            before, after = model(ids).logits, loaded(ids).logits
        assert (before - after).abs().max() < 1e-4 * before.abs().max()
        ours = degridded(open_source(folder), seed=3).tensor("layers.1.down.weight")
        assert torch.equal(ours, loaded.state_dict()["model.layers.1.mlp.down_proj.weight"])
        factors = ours / model.state_dict()["model.layers.1.mlp.down_proj.weight"]
        assert 0.3 < float(factors[0].log().std()) < 0.7
        assert not torch.equal(degridded(open_source(folder), seed=4).tensor("layers.1.down.weight"), ours)


def test_a_twin_whose_checkpoint_has_another_form_is_not_written(tmp_path: Path) -> None:
    twin = degridded(open_source(save_folder(random_model(FAMILIES["deepseek_v3"]), tmp_path / "latents")))
    with pytest.raises(UserError, match=r"checkpoints of deepseek_v3 store layers.0.k_up.weight in another form"):
        write_hf_folder(twin, {}, tmp_path / "twin")
    assert not (tmp_path / "twin").exists()
