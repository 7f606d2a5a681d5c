"""Logits of the step program, compiled and through the references, against transformers in fp32."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from artifacts.layer_groups import is_of_experts, kind_of
from artifacts.precision import Scheme
from kernels.cpu.library import Library
from kernels.reference import ReferenceProgram
from optimizer.importers import open_source
from optimizer.weights.quantized_store import QuantizedStore
from runtime.model_runner import ProgramRunner
from runtime.scoring import score
from tests.importers.prequantized_writing import CONFIG, write_compressed_tensors
from tests.importers.random_models import random_model, save_folder
from tests.rounded_weights import round_weights
from tests.runtime.conftest import CONFIGS, Tiny, limits, moderate

TOLERANCE = 1e-4
#: with integer activations
INTEGER = ["int8-a8", "int4-g32-asym-a8", "int4-twolevel-a8", "int8-a16", "mxfp4-a8"]
TEXT = np.random.default_rng(0).integers(0, 203, 100).tolist()  # longer than every window, and than yarn's and llama3's origin


def relative_error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """max |a - b| / max |b|, over all tokens and the whole vocabulary."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def transformers_logits(model: PreTrainedModel, token_ids: Sequence[int]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.tensor([token_ids])).logits[0].numpy()
    return logits


def our_logits(
    model: Tiny, scheme: str | Mapping[str, str], library: Library | None, chunk: int, *texts: list[int]
) -> list[NDArray[np.float32]]:
    """Logits of each text, computed `chunk` tokens at a time by `library`, or by the references."""
    step = model.step(scheme, limits(max_num_seqs=1, max_num_batched_tokens=chunk))
    executable = library.compile(step.program, 1) if library else ReferenceProgram(step.program)
    runner = ProgramRunner(step, executable)
    return [score(runner, text) for text in texts]


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_transformers(tiny: Callable[[str], Tiny], library: Library, name: str) -> None:
    model = tiny(name)
    theirs = transformers_logits(model.model, TEXT)
    (compiled,) = our_logits(model, "fp32", library, 128, TEXT)
    (reference,) = our_logits(model, "fp32", None, 128, TEXT)
    (chunked,) = our_logits(model, "fp32", library, 7, TEXT)
    assert relative_error(compiled, theirs) < TOLERANCE
    assert relative_error(reference, theirs) < TOLERANCE
    assert chunked.tobytes() == compiled.tobytes()


def dequantized(model: Tiny, scheme: Scheme) -> PreTrainedModel:
    """transformers' model with every matrix rounded to the grid of `scheme`."""
    rounded = copy.deepcopy(model.model)
    round_weights(rounded, model.source, dict.fromkeys(model.architecture.linear_shapes(), scheme))
    return rounded


@pytest.mark.parametrize("scheme", ["bf16", "int8", "int4-g32-sym", "int4-g32-asym", "int4-twolevel", "int3", "mxfp4"])
@pytest.mark.parametrize("name", ["llama, tied, biased, llama3", "qwen2", "mixtral"])
def test_weight_only_schemes_change_nothing_but_the_weights(
    tiny: Callable[[str], Tiny], library: Library, name: str, scheme: str
) -> None:
    model = tiny(name)
    theirs = transformers_logits(dequantized(model, Scheme.parse(scheme)), TEXT)
    for executor in (library, None):
        (ours,) = our_logits(model, scheme, executor, 128, TEXT)
        assert relative_error(ours, theirs) < TOLERANCE


def with_integer_inputs(model: PreTrainedModel, largest: int = 127) -> PreTrainedModel:
    """`model`, in which every linear layer rounds each token of its input to levels from -`largest` to `largest`."""

    def rounded(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        scale = inputs[0].abs().amax(dim=-1, keepdim=True) / largest
        return (inputs[0] / scale).round() * scale

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(rounded)
    return model


@pytest.mark.parametrize("scheme", [*INTEGER, "int4-g32-sym-a8"])
@pytest.mark.parametrize("name", ["llama, tied, biased, llama3", "qwen2"])
def test_integer_activations_are_rounded_inputs(tiny: Callable[[str], Tiny], library: Library, name: str, scheme: str) -> None:
    """A value amid two levels may fall to either, and all later tokens see it: so texts are short, and most agree."""
    model = tiny(name)
    rounded = with_integer_inputs(dequantized(model, Scheme.parse(scheme)), 127 * 256 if scheme.endswith("a16") else 127)
    texts = [TEXT[start : start + 4] for start in range(0, len(TEXT), 4)]
    theirs = [transformers_logits(rounded, text) for text in texts]
    for executor in (library, None):
        ours = our_logits(model, scheme, executor, 4, *texts)
        errors = sorted(map(relative_error, ours, theirs))
        assert errors[len(texts) // 2] < TOLERANCE
        assert errors[-1] < (1e-3 if scheme.endswith("a16") else 0.1)


@pytest.mark.parametrize("scheme", INTEGER)
def test_experts_of_integer_activations_are_the_references(tiny: Callable[[str], Tiny], library: Library, scheme: str) -> None:
    """transformers multiplies experts without modules that could round; a rounded input may choose another one at a tie."""
    model = tiny("qwen3_moe, normalized")
    plan = {group: scheme if is_of_experts(group) else "fp32" for group in model.architecture.linear_shapes()}
    texts = [TEXT[start : start + 4] for start in range(0, len(TEXT), 4)]
    errors = sorted(map(relative_error, our_logits(model, plan, library, 4, *texts), our_logits(model, plan, None, 4, *texts)))
    assert errors[len(texts) // 2] < TOLERANCE
    exact = our_logits(model, "fp32", library, 4, *texts)
    far = sorted(map(relative_error, our_logits(model, plan, library, 4, *texts), exact))
    # Numbers of e2m1 are up to 2 of 6 apart, those of the others at most 1 of 7.
    assert TOLERANCE < far[len(texts) // 2] < (0.4 if scheme == "mxfp4-a8" else 0.3)


@pytest.mark.parametrize(("of_queries", "of_latents"), [("int8", "int8-a8"), ("int8-a8", "int8"), ("int8-a16", "int8-a8")])
def test_readers_of_one_norm_have_schemes_of_their_own(
    tiny: Callable[[str], Tiny], library: Library, of_queries: str, of_latents: str
) -> None:
    model = tiny("deepseek_v3")
    schemes = {"q_a": of_queries, "kv_a": of_latents}
    plan = {group: schemes.get(kind_of(group), "fp32") for group in model.architecture.linear_shapes()}
    (ours,), (theirs,), (exact,) = (
        our_logits(model, schemes, executor, 4, TEXT[:4])
        for schemes, executor in ((plan, library), (plan, None), ("fp32", library))
    )
    # Another expert may be chosen than in fp32.
    assert relative_error(ours, theirs) < 0.02 and 1e-3 < relative_error(ours, exact) < 0.5


@pytest.mark.parametrize("scheme", ["int8", "int8-a8", "int8-a16"])
def test_stored_int8_codes_down_to_the_lowest(library: Library, scheme: str, tmp_path: Path) -> None:
    """A checkpoint of compressed-tensors has codes of -128, which our own rounding never makes."""
    channels = QuantizationArgs(num_bits=8, strategy="channel")
    written = write_compressed_tensors(tmp_path / "model", channels, form="int-quantized")
    source = open_source(written.folder)
    unquantized = {"embed": "fp32", "head": "fp32"}
    plan = {group: unquantized.get(group, scheme) for group in source.architecture.linear_shapes()}
    model = random_model(CONFIG)
    model.load_state_dict({f"{name}.weight": values for name, values in written.values.items()}, strict=False)
    if scheme == "int8-a8":
        with_integer_inputs(model.model)
    tiny = Tiny(model, source, QuantizedStore(source, tmp_path / "store"))
    assert all(tiny.store.relative_error(group, Scheme.parse(scheme)) == 0 for group in plan if group not in unquantized)
    token_ids = [5, 90, 17]
    theirs = transformers_logits(tiny.model, token_ids)
    for executor in (library, None):
        (ours,) = our_logits(tiny, plan, executor, 4, token_ids)
        assert relative_error(ours, theirs) < {"int8": TOLERANCE, "int8-a8": 0.02, "int8-a16": 5e-4}[scheme]


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    """The real model, in both hands; its packed weights take half a gigabyte, so they do not outlive the tests."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name))
    loaded = load_gguf_checkpoint(str(smollm2_gguf), return_tensors=True, model_to_load=model)["tensors"]
    keys = model.load_state_dict({name: torch.as_tensor(tensor) for name, tensor in loaded.items()}, strict=False)
    assert keys.missing_keys == ["lm_head.weight"] and not keys.unexpected_keys, "the head is tied"
    folder = tmp_path_factory.mktemp("smollm2")
    source = open_source(smollm2_gguf)
    yield Tiny(model.eval(), source, QuantizedStore(source, folder))
    shutil.rmtree(folder)


def test_an_int8_cache_keeps_what_all_keys_have_in_common_where_scores_are_capped(tmp_path: Path) -> None:
    """Elsewhere it is left out: it moves all scores of a query alike."""
    model = moderate(random_model(CONFIGS["gemma2, untied"]))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_proj.bias.fill_(2.0)
    source = open_source(save_folder(model, tmp_path / "model"))
    made = Tiny(model, source, QuantizedStore(source, tmp_path / "store"))
    step = made.step("fp32", limits(max_num_batched_tokens=128), "int8")
    ours = score(ProgramRunner(step, ReferenceProgram(step.program)), TEXT)
    assert relative_error(ours, transformers_logits(model, TEXT)) < 0.02


@pytest.mark.slow
def test_smollm2_logits_are_transformers(smollm2: Tiny, library: Library) -> None:
    text = "The capital of France is Paris. In 1969, the first people walked on the Moon; naïve 😀 def f(x):\n    return x"
    ids = Tokenizer.from_str(smollm2.source.tokenizer_json).encode(text).ids
    theirs = transformers_logits(smollm2.model, ids)
    step = smollm2.step("fp32", limits(max_num_seqs=1, max_num_batched_tokens=64))
    for executable in (library.compile(step.program, 2), ReferenceProgram(step.program)):
        ours = score(ProgramRunner(step, executable), ids)
        assert relative_error(ours, theirs) < TOLERANCE
        assert ours.argmax(axis=1).tolist() == theirs.argmax(axis=1).tolist()


def test_an_int8_cache_takes_nothing_off_keys_that_sinks_are_weighed_against(library: Library, tmp_path: Path) -> None:
    """What all keys have in common changes no softmax, but how much a sink weighs in it."""
    model = moderate(random_model(CONFIGS["gpt_oss"]))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_proj.bias.mul_(4)
    source = open_source(save_folder(model, tmp_path / "model"))
    tiny, room = Tiny(model, source, QuantizedStore(source, tmp_path / "store")), limits(max_num_seqs=1)
    exact, rounded = (score(tiny.runner(library, "fp32", room, kv_dtype), TEXT) for kv_dtype in ("fp32", "int8"))
    assert np.median(np.abs(rounded - exact).max(axis=1)) < 0.05 * np.abs(exact).max()
