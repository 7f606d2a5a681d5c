"""From a bundle on disk to an engine: the same tokens as before it was written, and refusals of what does not fit."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.errors import BundleError, ContentError, DeviceError, HashMismatchError, ManifestError, WeightsError
from artifacts.manifest import Deployment, Kernels, Limits, Manifest, Platform, Precision, Provenance
from artifacts.precision import KvDtype
from artifacts.weights import Array
from artifacts.writer import write_bundle
from kernels import registry
from kernels.cpu.build import build, find_compiler
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library, LibraryRefused
from runtime.decoder import stored_parts
from runtime.engine_core import EngineCore
from runtime.loading import load
from runtime.request import Request, SamplingParams
from runtime.stored_tensors import tensor_shapes
from tests.runtime.conftest import CONFIGS, Tiny, limits

ROOT = Path(__file__).parents[2]
KV_DTYPE: KvDtype = "bf16"
LIMITS = limits(num_kv_blocks=8)
PROMPT = tuple(range(20, 60))


def generate(engine: EngineCore) -> list[object]:
    """Greedy tokens after PROMPT, with their log-probabilities."""
    engine.add(Request("r", PROMPT, SamplingParams(temperature=0, max_tokens=12, logprobs=2)))
    outputs = []
    while engine.has_work():
        outputs += engine.step()
    return [(output.token_id, output.logprobs) for output in outputs]


@dataclass(frozen=True)
class Parts:
    """What a bundle of `model` is written from."""

    model: Tiny
    groups: dict[str, str]
    tensors: dict[str, Array]
    files: dict[str, bytes | Path]
    target: Platform
    kernels: Kernels
    serving: Limits = field(default=LIMITS)

    def write(self, folder: Path, **changes: Any) -> Manifest:
        parts = replace(self, **changes)
        deployment = Deployment(
            name="tiny",
            architecture=parts.model.architecture,
            target=parts.target,
            precision=Precision(groups=parts.groups, kv_cache=KV_DTYPE),
            kernels=(parts.kernels,),
            serving=parts.serving,
            provenance=Provenance(sources={"model": "0" * 64}, tool_version="0", libraries={}, seed=0, study="tiny"),
        )
        return write_bundle(folder, deployment, parts.tensors, parts.files)


@pytest.fixture(scope="module")
def parts(tiny: Callable[[str], Tiny], kernels_path: Path) -> Parts:
    """Windows, biases and a tied table; every kind of weight in one plan."""
    model = tiny("qwen2, tied, window")
    cycle = ("int8", "bf16", "int4-g32-sym", "fp32", "int4-g32-asym-a8", "int8-a8", "int4-g32-asym")
    groups = {group: cycle[i % len(cycle)] for i, group in enumerate(model.architecture.linear_shapes())}
    isa = best_isa(host())
    return Parts(
        model=model,
        groups=groups,
        tensors=model.store.plan_tensors(model.plan(groups)),
        files={
            "tokenizer.json": model.source.tokenizer_json.encode(),
            "generation_config.json": json.dumps({"eos_token_id": 1}).encode(),
            "kernels/cpu.so": kernels_path,
        },
        target=Platform(device="cpu", machine=host().machine, isa=isa.name, cpu_flags=isa.cpu_flags),
        kernels=Kernels(
            symbols=tuple(registry.specs()), backend="cpu", library="kernels/cpu.so", compiler=find_compiler().version
        ),
    )


@pytest.fixture
def expected(parts: Parts, library: Library) -> list[object]:
    """What the runner says without a bundle."""
    return generate(EngineCore(parts.model.runner(library, parts.groups, LIMITS, KV_DTYPE), [1]))


@pytest.mark.parametrize("num_threads", [None, 2])
def test_a_bundle_says_what_the_runner_says(
    parts: Parts, expected: list[object], tmp_path: Path, num_threads: int | None
) -> None:
    manifest = parts.write(tmp_path / "bundle")
    loaded = load(tmp_path / "bundle", num_threads)
    assert generate(loaded.engine) == expected
    assert loaded.manifest == manifest
    assert loaded.generation_config == {"eos_token_id": 1}
    assert loaded.chat_template is None
    assert loaded.tokenizer.to_str() == parts.model.source.tokenizer_json
    stats = loaded.engine.stats()
    assert (stats.num_blocks, loaded.engine.max_model_len, loaded.engine.vocab_size) == (8, 128, 203)


@pytest.mark.parametrize(("cores", "num_threads", "used"), [(1, None, 1), (2, None, 2), (64, None, 3), (1, 2, 2)])
def test_the_bundles_threads_are_an_upper_bound(
    parts: Parts,
    expected: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cores: int,
    num_threads: int | None,
    used: int,
) -> None:
    """Fewer cores than threads: as many threads, one line, the same answers. `serve --num-threads` is taken at its word."""
    parts.write(tmp_path / "bundle", serving=limits(num_kv_blocks=8, num_threads=3))
    monkeypatch.setattr("runtime.threads.host", lambda: replace(host(), num_cores=cores))
    gc.collect()  # engines that are gone take their threads with them
    before = len(os.listdir("/proc/self/task"))
    loaded = load(tmp_path / "bundle", num_threads)
    assert len(os.listdir("/proc/self/task")) - before == used - 1
    assert generate(loaded.engine) == expected
    said = [] if used == 3 or num_threads else [f"num_threads is {used}, not the bundle's 3: no more cores may be used here"]
    assert caplog.messages == said


@pytest.mark.parametrize("eos", [None, 7, [7, 8]])
def test_eos_may_be_none_one_or_several(parts: Parts, tmp_path: Path, expected: list[Any], eos: object) -> None:
    said = [token for token, _ in expected]
    actual = {7: said[2], 8: said[4]}
    config = {"eos_token_id": [actual[e] for e in eos] if isinstance(eos, list) else actual.get(eos)}  # type: ignore[call-overload]
    parts.write(tmp_path / "bundle", files=parts.files | {"generation_config.json": json.dumps(config).encode()})
    assert len(generate(load(tmp_path / "bundle").engine)) == (len(said) if eos is None else said.index(said[2]) + 1)


def test_the_report_is_loaded_as_it_was_verified(parts: Parts, tmp_path: Path) -> None:
    parts.write(tmp_path / "without")
    assert load(tmp_path / "without").report is None
    parts.write(tmp_path / "with", files=parts.files | {"report.html": b"<!DOCTYPE html>"})
    assert load(tmp_path / "with").report == b"<!DOCTYPE html>"


def test_a_bundle_without_kernels_is_served_by_the_references(parts: Parts, expected: list[Any], tmp_path: Path) -> None:
    files = {name: content for name, content in parts.files.items() if name != "kernels/cpu.so"}
    kernels = Kernels(symbols=tuple(registry.specs()), backend="reference")
    parts.write(tmp_path / "bundle", files=files, kernels=kernels, target=Platform(device="cpu"))
    with pytest.warns(UserWarning, match="no compiled kernels"), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not writable")
        outputs = generate(load(tmp_path / "bundle").engine)
    # Close, not equal: int8 activations may round the other way.
    assert outputs[0][1].logprob == pytest.approx(expected[0][1].logprob, abs=0.05)  # type: ignore[index]


def test_a_library_that_was_replaced_is_refused(parts: Parts, tmp_path: Path) -> None:
    parts.write(tmp_path / "bundle")
    path = tmp_path / "bundle" / "kernels" / "cpu.so"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(HashMismatchError, match=r"kernels/cpu\.so: sha256"):
        load(tmp_path / "bundle")


def test_a_kernel_table_that_misses_an_entry_point_is_refused(parts: Parts, tmp_path: Path) -> None:
    kernels = parts.kernels.model_copy(update={"symbols": ("rms_norm",)})
    parts.write(tmp_path / "bundle", kernels=kernels)
    with pytest.raises(ManifestError, match="must serve all that is called"):
        load(tmp_path / "bundle")


def test_a_library_that_is_none_is_refused(parts: Parts, tmp_path: Path) -> None:
    parts.write(tmp_path / "bundle", files=parts.files | {"kernels/cpu.so": b"\x7fELF no real library"})
    with pytest.raises(LibraryRefused, match=r"cpu\.so is not a kernel library"):
        load(tmp_path / "bundle")


def test_a_bundle_for_another_cpu_is_refused(parts: Parts, tmp_path: Path) -> None:
    target = parts.target.model_copy(update={"cpu_flags": ("avx", "made_up_extension")})
    parts.write(tmp_path / "bundle", target=target)
    with pytest.raises(DeviceError, match=r"lacks: .*made_up_extension; build it on this machine"):
        load(tmp_path / "bundle")


def test_a_library_for_another_cpu_is_refused_whatever_the_manifest_says(parts: Parts, tmp_path: Path) -> None:
    isa = best_isa(host())
    foreign = build({}, tmp_path / "foreign.so", replace(isa, cpu_flags=(*isa.cpu_flags, "made_up_extension")))
    parts.write(tmp_path / "bundle", files=parts.files | {"kernels/cpu.so": foreign})
    with pytest.raises(LibraryRefused, match="made_up_extension; build it here"):
        load(tmp_path / "bundle")


@pytest.mark.parametrize("scheme", ["fp32", "bf16", "int8", "int8-a8", "int4-g32-sym", "int4-g32-sym-a8", "int4-g32-asym"])
@pytest.mark.parametrize("name", CONFIGS)
def test_tensor_shapes_are_those_of_what_is_packed(tiny: Callable[[str], Tiny], name: str, scheme: str) -> None:
    model = tiny(name)
    plan = model.plan(scheme)
    packed = {tensor: (str(array.dtype), array.shape) for tensor, array in model.store.plan_tensors(plan).items()}
    assert tensor_shapes(model.architecture, plan, stored_parts) == packed


WRONG: dict[str, tuple[Callable[[dict[str, Array]], dict[str, Array]], str]] = {
    "missing part": (lambda t: {k: v for k, v in t.items() if k != "embed.scales"}, "need a tensor 'embed.scales'"),
    # A bias is looked up where there is one, so that its absence would go unseen.
    "missing bias": (lambda t: {k: v for k, v in t.items() if k != "layers.1.qkv.bias"}, "need a tensor 'layers.1.qkv.bias'"),
    "unknown": (lambda t: t | {"layers.1.o.bias": np.zeros(64, np.float32)}, "no place for the tensor 'layers.1.o.bias'"),
    "shape": (
        lambda t: t | {"layers.0.gate_up.weight": np.zeros((11, 64, 16), np.float32)},
        r"'layers.0.gate_up.weight' must be float32 \[12, 64, 16\] .*, got float32 \[11, 64, 16\]",
    ),
    "gain": (
        lambda t: t | {"final_norm.weight": np.zeros(32, np.float32)},
        r"'final_norm.weight' must be float32 \[64\] by the architecture and the precision plan, got float32 \[32\]",
    ),
    "dtype": (
        lambda t: t | {"final_norm.weight": np.zeros(64, np.uint16)},
        r"'final_norm.weight' must be float32 \[64\] .*, got uint16 \[64\]",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_tensors_that_do_not_suit_the_plan_are_named(parts: Parts, tmp_path: Path, kind: str) -> None:
    change, message = WRONG[kind]
    parts.write(tmp_path / "bundle", tensors=change(dict(parts.tensors)))
    with pytest.raises(WeightsError, match=message + ".*build the bundle again") as caught:
        load(tmp_path / "bundle")
    assert isinstance(caught.value, BundleError)


def test_serving_a_cpu_bundle_imports_no_torch(parts: Parts, expected: list[Any], tmp_path: Path) -> None:
    parts.write(tmp_path / "bundle")
    code = f"""
import json, sys
from pathlib import Path
import runtime.server
from runtime.loading import load
from runtime.request import Request, SamplingParams
engine = load(Path({str(tmp_path / "bundle")!r})).engine
engine.add(Request("r", {PROMPT}, SamplingParams(temperature=0, max_tokens=12)))
tokens = []
while engine.has_work():
    tokens += [output.token_id for output in engine.step()]
print(json.dumps([tokens, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    tokens, modules = json.loads(finished.stdout)
    assert tokens == [token for token, _ in expected]
    assert not {"torch", "optuna", "transformers", "safetensors", "optimizer", "search_spaces"} & set(modules)


BAD_FILES: dict[str, tuple[dict[str, bytes], str]] = {
    "eos outside the vocabulary": (
        {"generation_config.json": b'{"eos_token_id": [1, 203]}'},
        "between 0 and 202, .* got 203",
    ),
    "negative eos": ({"generation_config.json": b'{"eos_token_id": -1}'}, "eos_token_id .* got -1"),
    "eos is text": ({"generation_config.json": b'{"eos_token_id": "</s>"}'}, "eos_token_id .* got '</s>'"),
    "eos is true": ({"generation_config.json": b'{"eos_token_id": true}'}, "eos_token_id .* got True"),
    "eos is a table": ({"generation_config.json": b'{"eos_token_id": {"a": 1}}'}, "eos_token_id .* got {'a': 1}"),
    "temperature": ({"generation_config.json": b'{"temperature": -0.5}'}, "temperature must be at least 0, got -0.5"),
    "temperature is infinite": (
        {"generation_config.json": b'{"temperature": Infinity}'},
        "temperature must be a finite number",
    ),
    "top_p": ({"generation_config.json": b'{"top_p": 0}'}, "top_p must be above 0"),
    "top_k": ({"generation_config.json": b'{"top_k": 2.5}'}, "top_k must be an integer"),
    "max_new_tokens": ({"generation_config.json": b'{"max_new_tokens": 0}'}, "max_new_tokens must be an integer of at least 1"),
    "repetition_penalty": ({"generation_config.json": b'{"repetition_penalty": 0}'}, "repetition_penalty must be above 0"),
    "bos_token": ({"generation_config.json": b'{"bos_token": 1}'}, "bos_token must be a string"),
    "a list": ({"generation_config.json": b"[1]"}, "must hold an object"),
    "no JSON": ({"generation_config.json": b"{"}, "generation_config.json must be JSON"),
    "no tokenizer": ({"tokenizer.json": b"{}"}, "tokenizer.json must be a tokenizer"),
    "no text": ({"tokenizer.json": b"\xff"}, "tokenizer.json must be a tokenizer"),
    "template": ({"chat_template.jinja": b"{% if %}"}, r"chat_template.jinja: .* not valid Jinja: line 1"),
    "template in Latin-1": ({"chat_template.jinja": b"\xe9"}, "chat_template.jinja: .*utf-8"),
    "template too deep": ({"chat_template.jinja": b"{{" + b"(" * 3000 + b"1" + b")" * 3000 + b"}}"}, "chat_template.jinja"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_files_that_a_server_could_not_work_with_are_refused_by_name(parts: Parts, tmp_path: Path, kind: str) -> None:
    files, message = BAD_FILES[kind]
    parts.write(tmp_path / "bundle", files={**parts.files, **files})
    with pytest.raises(ContentError, match=message) as caught:
        load(tmp_path / "bundle")
    assert str(caught.value).endswith("build the bundle again") and caught.value.path in files


def test_what_is_null_or_not_read_refuses_no_bundle(parts: Parts, tmp_path: Path) -> None:
    config = {
        "eos_token_id": None,
        "bos_token": None,
        "temperature": None,
        "top_k": -1,
        "do_sample": True,
        "transformers_version": "5",
    }
    parts.write(tmp_path / "bundle", files=parts.files | {"generation_config.json": json.dumps(config).encode()})
    assert load(tmp_path / "bundle").generation_config == config
