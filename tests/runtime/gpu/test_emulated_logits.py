"""Logits of a GPU's step program, through the references, against transformers: every kind of layer, weight and cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from artifacts.precision import KvDtype, Scheme
from optimizer.quantization import round_to_nearest
from runtime.gpu.emulator import Emulator
from runtime.gpu.weights import refusal
from runtime.models import checkpoint_tensors
from runtime.scoring import score
from tests.runtime.conftest import limits
from tests.runtime.gpu.conftest import CONFIGS, EXPERTS, LATENT, Small

TOLERANCE = 1e-4
TEXT = np.random.default_rng(0).integers(0, 99, 100).tolist()  # longer than the window, and than yarn's origin


def transformers_logits(
    model: PreTrainedModel, token_ids: Sequence[int], cache: DynamicCache | None = None
) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.tensor([token_ids]), past_key_values=cache).logits[0].float().numpy()
    return logits


def our_logits(
    model: Small,
    schemes: str,
    *texts: Sequence[int],
    act: torch.dtype = torch.float32,
    kv_dtype: KvDtype = "bf16",
    chunk: int = 128,
) -> list[NDArray[np.float32]]:
    """Logits of each text, computed `chunk` tokens at a time; in fp32 nothing is rounded that no scheme rounds."""
    room = limits(max_num_seqs=1, max_num_batched_tokens=chunk)
    emulator = Emulator(model.program(schemes, act, room, kv_dtype))
    return [score(emulator, text) for text in texts]


def error_by_token(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    """max over the vocabulary of |a - b|, relative to the largest |b| of all."""
    errors: NDArray[np.float32] = np.abs(ours - theirs).max(axis=1) / np.abs(theirs).max()
    return errors


@pytest.mark.parametrize("name", CONFIGS)
def test_unrounded_logits_are_transformers(small: Callable[[str], Small], name: str) -> None:
    model = small(name)
    theirs = transformers_logits(model.model, TEXT)
    for chunk in (128, 7):
        (ours,) = our_logits(model, "bf16", TEXT, chunk=chunk)
        assert error_by_token(ours, theirs).max() < TOLERANCE


@pytest.mark.parametrize("act", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_rounded_activations_cost_what_they_cost_transformers(
    small: Callable[[str], Small], name: str, act: torch.dtype
) -> None:
    """transformers rounds in other places, about as often. Of all tokens the median: a routed token may go elsewhere."""
    model = small(name)
    exact = transformers_logits(model.model, TEXT)
    theirs = transformers_logits(AutoModelForCausalLM.from_pretrained(model.model.name_or_path, dtype=act), TEXT)
    (ours,) = our_logits(model, "bf16", TEXT, act=act)
    assert np.median(error_by_token(ours, exact)) < 1.5 * np.median(error_by_token(theirs, exact))


def dequantized(model: Small, scheme: Scheme, folder: Path) -> PreTrainedModel:
    """transformers' model with every matrix but the embedding rounded to the grid of `scheme`."""
    shutil.copytree(model.model.name_or_path, folder, dirs_exist_ok=True)
    state = load_file(folder / "model.safetensors")
    parts = checkpoint_tensors(model.architecture)
    for group, chosen in model.plan(scheme.name).items():
        weight = model.source.tensor(f"{group}.weight")
        values = torch.from_numpy(round_to_nearest(group, weight, chosen).dequantize())
        rows = [part.shape[0] for part in parts[f"{group}.weight"]]
        for part, matrix in zip(parts[f"{group}.weight"], values.split(rows), strict=True):
            state[part.name] = matrix.contiguous()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager")


WEIGHT_ONLY = [
    *product(("qwen2", "llama"), ("int8", "int4-g32-sym", "int4-g32-asym", "mxfp4", "nvfp4")),
    *product(("mixtral", "qwen3_moe", "deepseek_v2, lite", "deepseek_v3"), ("int8", "int4-g32-sym", "int4-g32-asym")),
    ("qwen3_moe", "mxfp4"),
    ("deepseek_v3", "nvfp4"),
]


@pytest.mark.parametrize(("name", "scheme"), WEIGHT_ONLY)
def test_weight_only_schemes_change_nothing_but_the_weights(
    small: Callable[[str], Small], tmp_path: Path, name: str, scheme: str
) -> None:
    model = small(name)
    theirs = transformers_logits(dequantized(model, Scheme.parse(scheme), tmp_path), TEXT)
    (ours,) = our_logits(model, scheme, TEXT)
    assert error_by_token(ours, theirs).max() < TOLERANCE


@pytest.mark.parametrize("act", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("scheme", ["int8", "int4-g32-asym"])
def test_weight_only_schemes_take_either_activations(
    small: Callable[[str], Small], tmp_path: Path, scheme: str, act: torch.dtype
) -> None:
    """Their error is that of activations alone: transformers' over the dequantized weights, and less in f16 than in bf16."""
    model = small("qwen2")
    exact = transformers_logits(dequantized(model, Scheme.parse(scheme), tmp_path), TEXT)
    theirs = transformers_logits(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=act), TEXT)
    (ours,) = our_logits(model, scheme, TEXT, act=act)
    error = np.median(error_by_token(ours, exact))
    assert error < 1.5 * np.median(error_by_token(theirs, exact))
    (wider,) = our_logits(model, scheme, TEXT, act=torch.bfloat16)
    assert act == torch.bfloat16 or error < np.median(error_by_token(wider, exact)) / 3


@pytest.mark.parametrize("scheme", ["int8", "int4-g32-sym", "int4-g32-asym"])
def test_a_rounded_embedding_is_looked_up_and_multiplied(small: Callable[[str], Small], scheme: str) -> None:
    """A tied head reads the same table: its dequantized values, in both places, are all that changes."""
    model = small("llama")
    schemes = dict.fromkeys(model.architecture.linear_shapes(), "bf16") | {"embed": scheme}
    table = round_to_nearest("embed", model.source.tensor("embed.weight"), Scheme.parse(scheme)).dequantize()
    changed = AutoModelForCausalLM.from_pretrained(model.model.name_or_path)
    with torch.no_grad():
        changed.model.embed_tokens.weight.copy_(torch.from_numpy(table))
    emulator = Emulator(model.program(schemes, torch.float32, limits(max_num_seqs=1, max_num_batched_tokens=128)))
    assert error_by_token(score(emulator, TEXT), transformers_logits(changed, TEXT)).max() < TOLERANCE


def rounded(scheme: Scheme, x: torch.Tensor, static: float = 1.0) -> torch.Tensor:
    """x with each token on the grid of `scheme`'s activations, by the textbook; `static` is the scale that it may have."""
    if scheme.weights == "int8":
        scale = x.abs().amax(dim=-1, keepdim=True) / 127
        return (x / scale).round() * scale
    if scheme.static_activations:
        return (x / static).clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) * static
    width = 128 if scheme.granularity == "block" else x.shape[-1]
    blocks = []
    for block in x.split(width, dim=-1):
        scale = (block.abs().amax(dim=-1, keepdim=True) / 448).clamp(min=1e-30)
        blocks.append((block / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale)
    return torch.cat(blocks, dim=-1)


@contextmanager
def rounding_inputs(
    monkeypatch: pytest.MonkeyPatch, model: Small, reference: PreTrainedModel, scheme: Scheme
) -> Iterator[None]:
    """Every matrix product of transformers rounds its input, but for routers and the projection out of latents."""
    a = model.architecture
    exempt = {(a.moe.num_experts, a.hidden_size)} if a.moe else set()
    if a.mla:
        exempt |= {(a.num_q_heads * (a.mla.nope_head_dim + a.mla.v_head_dim), a.mla.kv_lora_rank)}
    product = torch.nn.functional.linear
    scales = {
        weight.data_ptr(): float(model.store.group_tensors(group, scheme)[f"{group}.input_scale"][0])
        for group in (model.architecture.linear_shapes() if scheme.static_activations else ())
        if group != "embed"
        for part in checkpoint_tensors(model.architecture)[f"{group}.weight"]
        for weight in [reference.get_parameter(part.name)]
    }

    def static(weight: torch.Tensor) -> float:
        return scales[weight.data_ptr()] if scheme.static_activations else 1.0

    def rounding(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return product(x if tuple(weight.shape) in exempt else rounded(scheme, x, static(weight)), weight, bias)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", rounding)
        yield


ROUNDED = [
    (name, scheme)
    for name in ("qwen2", "olmo2", "qwen3_moe", "deepseek_v2, lite", "deepseek_v3")
    for scheme in ("int8-a8", "fp8")
]


@pytest.mark.parametrize(
    ("name", "scheme"), [*ROUNDED, ("qwen2", "fp8-block"), ("qwen2", "fp8-tensor"), ("deepseek_v3, wide", "fp8-block")]
)
def test_rounded_activations_are_rounded_inputs(
    small: Callable[[str], Small], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    """A value amid two levels may fall to either, and all later tokens see it: so texts are short, and most agree."""
    model, parsed = small(name), Scheme.parse(scheme)
    texts = [TEXT[start : start + 4] for start in range(0, len(TEXT), 4)]
    reference = dequantized(model, parsed, tmp_path)
    with rounding_inputs(monkeypatch, model, reference, parsed):
        theirs = [transformers_logits(reference, text) for text in texts]
    ours = our_logits(model, scheme, *texts)
    errors = sorted(error_by_token(o, t).max() for o, t in zip(ours, theirs, strict=True))
    assert errors[len(texts) // 2] < TOLERANCE


class RoundedCache(DynamicCache):
    """Keys and values of each token and head on the grid of a cache's dtype, times a scale where that has a `largest` code."""

    def __init__(self, largest: float | None, rounding: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._largest, self._rounding = largest, rounding

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **options: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return super().update(self._rounded(key_states), self._rounded(value_states), *args, **options)

    def _rounded(self, states: torch.Tensor) -> torch.Tensor:
        if self._largest is None:
            return self._rounding(states)
        scale = states.abs().amax(dim=-1, keepdim=True) / self._largest
        return self._rounding(states / scale) * scale


CACHES: dict[KvDtype, tuple[float | None, Callable[[torch.Tensor], torch.Tensor]]] = {
    "int8": (127, torch.round),
    "fp8": (448, lambda states: states.to(torch.float8_e4m3fn).float()),
    "fp16": (None, lambda states: states.half().float()),
}


@pytest.mark.parametrize("kv_dtype", CACHES)
@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_a_rounded_cache_is_a_rounded_cache(small: Callable[[str], Small], name: str, kv_dtype: KvDtype) -> None:
    model = small(name)
    texts = [TEXT[start : start + 10] for start in range(0, len(TEXT), 10)]
    theirs = [transformers_logits(model.model, text, RoundedCache(*CACHES[kv_dtype])) for text in texts]
    ours = our_logits(model, "bf16", *texts, kv_dtype=kv_dtype)
    errors = sorted(error_by_token(o, t).max() for o, t in zip(ours, theirs, strict=True))
    assert errors[len(texts) // 2] < TOLERANCE


def test_latents_are_cached_as_they_are(small: Callable[[str], Small]) -> None:
    with pytest.raises(ValueError, match="the cache of latent attention has kernels for bf16, got fp8"):
        small("deepseek_v3").program("bf16", torch.float16, limits(), "fp8")


def test_a_block_of_weights_is_of_one_expert(small: Callable[[str], Small]) -> None:
    model = small("deepseek_v3")
    with pytest.raises(
        ValueError,
        match=r"layers.1.experts_gate_up cannot take fp8-block: blocks of 128 rows would span two experts, which have 64",
    ):
        model.program("fp8-block", torch.float16, limits())
    odd = model.architecture.model_copy(update={"hidden_size": 72})
    reason = "blocks of 16 rows would span two experts, which have 72"
    assert refusal(Scheme.parse("int4-g32-sym"), "experts_down", odd) == reason
    assert refusal(Scheme.parse("int4-g32-sym"), "experts_gate_up", odd) is None
    assert refusal(Scheme.parse("mxfp4"), "experts_down", odd) == refusal(Scheme.parse("nvfp4"), "experts_down", odd) == reason
    assert refusal(Scheme.parse("int8"), "experts_down", odd) is None


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3"])
def test_static_scales_are_of_dense_decoders(small: Callable[[str], Small], name: str) -> None:
    reason = refusal(Scheme.parse("fp8-tensor"), "o", small(name).architecture)
    assert reason == "static scales are calibrated on dense decoders only"
    assert refusal(Scheme.parse("nvfp4"), "o", small(name).architecture) is None
    assert (
        refusal(Scheme.parse("nvfp4"), "embed", small(name).architecture) == "an embedding has kernels for bf16, int8 and int4"
    )


def test_the_models_here_try_what_they_are_for() -> None:
    assert LATENT["q_lora_rank"] == LATENT["hidden_size"], "rounded queries must be able to overwrite the hidden state"
    assert EXPERTS["num_experts_per_tok"] > 1
