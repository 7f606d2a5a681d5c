"""A LoRA merged into its base, against peft's own merge; and the errors of one that cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from artifacts.precision import Scheme
from optimizer.bundle.fingerprint import fingerprint_of
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.importers import (
    AdapterMismatch,
    DamagedFile,
    Misfit,
    MissingFile,
    PickleCheckpoint,
    SourceError,
    UnsupportedAdapter,
    UnsupportedDtype,
    open_source,
)
from optimizer.records.progress import Reporter
from optimizer.spec import load_spec
from optimizer.stages.job import Job
from optimizer.weights.quantized_store import QuantizedStore
from runtime.models import checkpoint_tensors
from tests.importers.gguf_writing import write_gguf
from tests.importers.prequantized_writing import CONFIG, write_fp8
from tests.importers.random_models import CONFIGS, random_model, save_folder

ATTENTION = ["q_proj", "v_proj"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
#: what peft is asked for, of a llama with a head of its own or (tied) of a qwen3 without
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "usual": ("llama", {"r": 4, "lora_alpha": 16, "target_modules": ATTENTION}),
    "rslora": ("llama", {"r": 4, "lora_alpha": 16, "target_modules": LINEAR, "use_rslora": True}),
    "by regex": ("llama", {"r": 2, "target_modules": r".*\.layers\.[02]\.mlp\.(up|down)_proj"}),
    "all-linear": ("llama", {"r": 2, "target_modules": "all-linear"}),
    "some layers": ("llama", {"r": 2, "target_modules": ATTENTION, "layers_to_transform": [1], "layers_pattern": "layers"}),
    "ranks and alphas by module": (
        "llama",
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": LINEAR,
            "rank_pattern": {"down_proj": 2, r"layers\.1\.self_attn\.q_proj": 3},
            "alpha_pattern": {"^model.layers.0.mlp.up_proj": 32, "o_proj": 1},
        },
    ),
    "embedding and head": ("llama", {"r": 3, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "fan_in_fan_out": ("llama", {"r": 4, "target_modules": ATTENTION, "fan_in_fan_out": True}),
    "head saved whole": ("llama", {"r": 4, "target_modules": ATTENTION, "modules_to_save": ["lm_head"]}),
    "norms saved whole": ("qwen3", {"r": 4, "target_modules": ATTENTION, "modules_to_save": ["norm", "q_norm"]}),
    "tied, both saved whole": ("qwen3", {"r": 4, "target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "tied, head saved whole": ("qwen3", {"r": 4, "target_modules": ATTENTION, "modules_to_save": ["lm_head"]}),
}


def adapted(base: PreTrainedModel, folder: Path, **options: Any) -> Path:
    """A trained adapter of `base`: what peft makes, with every parameter of it random."""
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    return dict(model.merge_and_unload().state_dict())


@pytest.mark.parametrize("name", OPTIONS)
def test_every_tensor_is_that_of_peft(name: str, tmp_path: Path) -> None:
    family, options = OPTIONS[name]
    base = save_folder(random_model(CONFIGS[family]), tmp_path / "base")
    adapter = adapted(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", **options)
    source, plain, expected = open_source(base, adapter), open_source(base), merged_by_peft(base, adapter)
    changed = 0
    for parts in checkpoint_tensors(source.architecture).values():
        for part in parts:
            ours, theirs = source.checkpoint.read(part.name), expected[part.name]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=4e-6 * float(theirs.abs().max()), msg=part.name)
            changed += plain.checkpoint.shape(part.name) is None or not torch.equal(ours, plain.checkpoint.read(part.name))
    assert changed >= 1 and source.architecture.tie_embeddings == (family == "qwen3" and not name.startswith("tied"))


def test_in_bf16_the_sum_is_rounded_once(tmp_path: Path) -> None:
    base = save_folder(random_model(CONFIGS["llama"], torch.bfloat16), tmp_path / "base")
    adapter = adapted(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", r=4, target_modules=ATTENTION)
    name, stored = "model.layers.0.self_attn.q_proj", load_file(adapter / "adapter_model.safetensors")
    a, b = (stored[f"base_model.model.{name}.lora_{half}.weight"].double() for half in "AB")
    weight = load_file(base / "model.safetensors")[f"{name}.weight"]
    source = open_source(base, adapter)
    expected = (weight.double() + 8 / 4 * b @ a).float().to(torch.bfloat16)
    assert source.is_bf16 and torch.equal(source.checkpoint.read(f"{name}.weight"), expected)


def test_over_a_gguf_file_and_over_codes(tmp_path: Path) -> None:
    """Names and rows are the base's in any format; codes stay where nothing was merged."""
    model = random_model(CONFIGS["llama"])
    folder = save_folder(model, tmp_path / "base")
    adapter = adapted(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter", r=4, target_modules=ATTENTION)
    gguf = open_source(write_gguf(tmp_path / "base.gguf", model), adapter)
    for group in ("layers.0.qkv.weight", "layers.2.down.weight"):
        torch.testing.assert_close(gguf.tensor(group), open_source(folder, adapter).tensor(group))
    written = write_fp8(tmp_path / "fp8", "channel", config=CONFIG)
    adapter = adapted(random_model(CONFIG), tmp_path / "of fp8", r=4, target_modules=ATTENTION)
    source, scheme = open_source(written.folder, adapter), Scheme.parse("fp8")
    changed, name = source.stored("layers.0.qkv", scheme), "model.layers.0.self_attn.q_proj"
    assert isinstance(changed, Misfit) and changed.reason == "q_proj: an adapter is merged into it"
    assert isinstance(source.stored("layers.0.o", scheme), QuantizedMatrix)
    stored = load_file(adapter / "adapter_model.safetensors")
    a, b = (stored[f"base_model.model.{name}.lora_{half}.weight"].double() for half in "AB")
    assert torch.equal(source.checkpoint.read(f"{name}.weight"), (written.values[name].double() + 2 * b @ a).float())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and its adapter, which tests copy before they change it."""
    folder = tmp_path_factory.mktemp("pair")
    base = save_folder(random_model(CONFIGS["llama"]), folder / "base")
    return base, adapted(AutoModelForCausalLM.from_pretrained(base), folder / "adapter", r=4, target_modules=ATTENTION)


def test_records_fingerprint_and_reference_are_of_the_merged_model(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = pair
    other = shutil.copytree(adapter, tmp_path / "other")
    change_config(other, lora_alpha=7)

    def job(name: str, lines: str) -> Job:
        (tmp_path / name).write_text(f"source: {base}\nname: one\n{lines}")
        return Job.open(load_spec(tmp_path / name), tmp_path / "work", Reporter(Console(quiet=True)))

    jobs = [job("a.yaml", ""), job("b.yaml", f"adapter: {adapter}\n"), job("c.yaml", f"adapter: {other}\n")]
    assert len({one.study_name for one in jobs}) == len({one.request for one in jobs}) == 3
    plain, merged, louder = map(fingerprint_of, jobs)
    assert merged.keys() - plain.keys() == {"checkpoint: adapter_config.json", "checkpoint: adapter_model.safetensors"}
    assert {name for name in merged if merged[name] != louder[name]} == {"checkpoint: adapter_config.json"}
    group = "layers.0.qkv"
    reference = [one.original.plan_tensors({group: Scheme("fp32")})[f"{group}.weight"] for one in jobs]
    assert not np.array_equal(reference[0], reference[1])
    store = QuantizedStore(open_source(base, adapter), tmp_path / "store")
    assert np.array_equal(reference[1], store.plan_tensors({group: Scheme("fp32")})[f"{group}.weight"])
    assert any("is merged into 6 of the matrices" in note for note in jobs[1].source.checkpoint.notes())


def change_config(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


Q = "base_model.model.model.layers.0.self_attn.q_proj"
OPTION = "merge it with peft"
REFUSED: dict[str, tuple[type[SourceError], str, dict[str, object]]] = {
    "dora": (UnsupportedAdapter, f"use_dora: True.*{OPTION}", {"use_dora": True}),
    "biases": (UnsupportedAdapter, f"bias: all.*{OPTION}", {"bias": "all"}),
    "bias of B": (UnsupportedAdapter, f"lora_bias: True.*{OPTION}", {"lora_bias": True}),
    "pissa": (UnsupportedAdapter, f"init_lora_weights: pissa.*{OPTION}", {"init_lora_weights": "pissa"}),
    "parameters": (UnsupportedAdapter, "target_parameters", {"target_parameters": ["experts.gate_up_proj"]}),
    "tokens": (UnsupportedAdapter, "trainable_token_indices", {"trainable_token_indices": [3]}),
    "activated": (UnsupportedAdapter, "alora_invocation_tokens", {"alora_invocation_tokens": [3]}),
    "layers again": (UnsupportedAdapter, "layer_replication", {"layer_replication": [[0, 2], [1, 3]]}),
    "of next year": (UnsupportedAdapter, "use_what_comes: True", {"use_what_comes": True}),
    "another method": (UnsupportedAdapter, "peft_type IA3; only LORA", {"peft_type": "IA3"}),
    "a rank": (DamagedFile, r"adapter_config\.json: r: ", {"r": "many"}),
    "another rank": (AdapterMismatch, "must be of rank 8, as adapter_config.json says", {"r": 8}),
    "another module": (
        AdapterMismatch,
        "factors of .*v_proj, which target_modules in",
        {"target_modules": ["q_proj"]},
    ),
    "a module more": (AdapterMismatch, "no factors of o_proj; is it whole", {"target_modules": [*ATTENTION, "o_proj"]}),
    "a head that is not there": (AdapterMismatch, "lacks lm_head, which modules_to_save", {"modules_to_save": ["lm_head"]}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_config_that_cannot_be_merged(name: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    kind, message, changes = REFUSED[name]
    adapter = shutil.copytree(pair[1], tmp_path / "adapter")
    change_config(adapter, **changes)
    with pytest.raises(kind, match=message) as refused:
        open_source(pair[0], adapter)
    assert "\n" not in str(refused.value)


BROKEN: dict[str, tuple[type[SourceError], str, Callable[[dict[str, torch.Tensor]], object]]] = {
    "one factor": (AdapterMismatch, "one of the two factors of .*q_proj", lambda t: t.pop(f"{Q}.lora_B.weight")),
    "a magnitude": (
        UnsupportedAdapter,
        "lora_magnitude_vector",
        lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(32)}),
    ),
    "a layer more": (
        AdapterMismatch,
        r"changes model\.layers\.7\.self_attn\.q_proj\.weight, which the source does not have; it was made for .*base",
        lambda t: t.update(
            {f"{Q.replace('.0.', '.7.')}.lora_{half}.weight": t[f"{Q}.lora_{half}.weight"].clone() for half in "AB"}
        ),
    ),
    "a larger model": (
        AdapterMismatch,
        r"makes model\.layers\.0\.self_attn\.q_proj\.weight \[32, 40\], and the source has \[32, 32\]; it was made for",
        lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 40)}),
    ),
    "more tokens": (
        AdapterMismatch,
        r"makes lm_head\.weight \[100, 32\], and the source has \[96, 32\]",
        lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(100, 32)}),
    ),
    "a bias": (UnsupportedAdapter, "q_proj.bias", lambda t: t.update({f"{Q}.bias": torch.ones(32)})),
    "codes": (
        UnsupportedDtype,
        "only F32, F16, BF16",
        lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 32, dtype=torch.int8)}),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_tensors_that_cannot_be_merged(name: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    kind, message, change = BROKEN[name]
    adapter = shutil.copytree(pair[1], tmp_path / "adapter")
    change_tensors(adapter, change)
    with pytest.raises(kind, match=message):
        open_source(pair[0], adapter)


def test_missing_and_damaged_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = pair[0], shutil.copytree(pair[1], tmp_path / "adapter")
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match="truncated"):
        open_source(base, adapter)
    weights.rename(adapter / "adapter_model.bin")
    with pytest.raises(PickleCheckpoint, match="save the adapter again"):
        open_source(base, adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(MissingFile, match=r"adapter_model\.safetensors is not there"):
        open_source(base, adapter)
    config.unlink()
    with pytest.raises(MissingFile, match=r"adapter_config\.json is not there"):
        open_source(base, adapter)


def test_what_a_tied_embedding_would_mean_is_not_guessed(tmp_path: Path) -> None:
    base = save_folder(random_model(CONFIGS["qwen3"]), tmp_path / "base")
    adapter = adapted(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", r=2, target_modules=["embed_tokens"])
    with pytest.raises(UnsupportedAdapter, match="an embedding that is also the head"):
        open_source(base, adapter)


def test_a_tokenizer_beside_the_adapter_is_said_not_to_count(pair: tuple[Path, Path], tmp_path: Path) -> None:
    adapter = shutil.copytree(pair[1], tmp_path / "tuned")
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    assert "chat_template.jinja of tuned are not used: those of the source are" in open_source(pair[0], adapter).notes
