"""Folders that transformers saved, opened by us: every canonical tensor is the state dict's, joined."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from artifacts.architecture import Architecture
from optimizer.importers import Source, open_source
from tests.importers.random_models import CONFIGS, random_model, save_folder, tokenizer


def joined_state_dict(state: dict[str, torch.Tensor], architecture: Architecture) -> dict[str, torch.Tensor]:
    """Canonical tensors of a Hugging Face state dict, by docs/architecture.md."""
    tensors = {"embed.weight": state["model.embed_tokens.weight"], "final_norm.weight": state["model.norm.weight"]}
    if not architecture.tie_embeddings:
        tensors["head.weight"] = state["lm_head.weight"]
    for i in range(architecture.num_layers):
        layer = {k.split(f"layers.{i}.")[1]: v for k, v in state.items() if f".layers.{i}." in k}
        ours = {
            "attn_norm.weight": layer["input_layernorm.weight"],
            "mlp_norm.weight": layer["post_attention_layernorm.weight"],
            "qkv.weight": torch.cat([layer[f"self_attn.{x}_proj.weight"] for x in "qkv"]),
            "o.weight": layer["self_attn.o_proj.weight"],
            "gate_up.weight": torch.cat([layer["mlp.gate_proj.weight"], layer["mlp.up_proj.weight"]]),
            "down.weight": layer["mlp.down_proj.weight"],
        }
        if "self_attn.q_proj.bias" in layer:
            ours["qkv.bias"] = torch.cat([layer[f"self_attn.{x}_proj.bias"] for x in "qkv"])
        if "self_attn.o_proj.bias" in layer:
            ours["o.bias"] = layer["self_attn.o_proj.bias"]
        if "self_attn.q_norm.weight" in layer:
            ours |= {f"{x}_norm.weight": layer[f"self_attn.{x}_norm.weight"] for x in "qk"}
        tensors |= {f"layers.{i}.{name}": tensor for name, tensor in ours.items()}
    return tensors


def assert_tensors_equal(source: Source, expected: dict[str, torch.Tensor]) -> None:
    architecture = source.architecture
    shapes = {f"{group}.weight": shape for group, shape in architecture.linear_shapes().items()}
    shapes |= architecture.float_shapes()
    assert set(shapes) == set(expected)
    for name, tensor in expected.items():
        found = source.tensor(name)
        assert found.dtype == tensor.dtype, name
        assert tuple(found.shape) == shapes[name], name
        assert torch.equal(found, tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_is_the_state_dicts(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = random_model(CONFIGS[name], dtype)
    source = open_source(save_folder(model, tmp_path))
    assert_tensors_equal(source, joined_state_dict(model.state_dict(), source.architecture))


@pytest.mark.parametrize("name", CONFIGS)
def test_sharded(name: str, tmp_path: Path) -> None:
    model = random_model(CONFIGS[name])
    source = open_source(save_folder(model, tmp_path, max_shard_size="20KB"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert_tensors_equal(source, joined_state_dict(model.state_dict(), source.architecture))


@pytest.mark.parametrize("name", CONFIGS)
def test_architecture(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    found = open_source(save_folder(random_model(config), tmp_path)).architecture
    assert found.family == config.model_type
    for ours, theirs in {
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_q_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "max_position": "max_position_embeddings",
        "rms_norm_eps": "rms_norm_eps",
        "tie_embeddings": "tie_word_embeddings",
    }.items():
        assert getattr(found, ours) == getattr(config, theirs)
    assert found.head_dim == (getattr(config, "head_dim", None) or 8)
    assert found.rope.theta == config.rope_parameters["rope_theta"]


def test_a_tied_head_may_be_stored_again(tmp_path: Path) -> None:
    folder = save_folder(random_model(CONFIGS["qwen3"]), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, folder / "model.safetensors")
    assert open_source(folder).architecture.tie_embeddings


def test_digests_are_of_every_file_used(tmp_path: Path) -> None:
    folder = save_folder(random_model(CONFIGS["llama"]), tmp_path, max_shard_size="20KB")
    digests = open_source(folder).sha256()
    assert {"config.json", "tokenizer.json", "generation_config.json", "model.safetensors.index.json"} < set(digests)
    assert digests == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in digests}
    assert set(digests) == {path.name for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(random_model(CONFIGS["llama"]), tmp_path)


@pytest.mark.parametrize(
    ("stored", "template"),
    [
        ("{{ bos_token }}", "{{ bos_token }}"),
        ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        (None, None),
    ],
)
def test_chat_template_in_the_tokenizer_config(folder: Path, stored: object, template: str | None) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": stored}))
    assert open_source(folder).chat_template == template


def test_a_chat_template_file_comes_first(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    (folder / "chat_template.jinja").write_text("new {{ messages }}")
    assert open_source(folder).chat_template == "new {{ messages }}"


def test_generation_config_is_completed_from_config_and_tokenizer(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "eos_token_id": [1, 5]}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>"}))
    expected = {"bos_token": "<s>", "bos_token_id": 0, "eos_token": "</s>", "eos_token_id": [1, 5], "temperature": 0.6}
    assert open_source(folder).generation_config == expected


def test_the_tokenizer_is_kept_but_for_truncation_and_padding(folder: Path) -> None:
    cutting = tokenizer()
    cutting.enable_truncation(4)
    cutting.enable_padding(length=8)
    cutting.save(str(folder / "tokenizer.json"))
    assert json.loads(open_source(folder).tokenizer_json) == json.loads(tokenizer().to_str())


def anonymous_bytes() -> int:
    """Memory of this process that is not backed by a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's process status")
def test_memory_stays_near_one_tensor(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=8192, hidden_size=512, intermediate_size=2048, num_hidden_layers=6, num_attention_heads=8)
    path = save_folder(random_model(config), tmp_path)
    source = open_source(path)
    names = [f"{group}.weight" for group in source.architecture.linear_shapes()]
    largest = max(source.tensor(name).nbytes for name in names)
    assert (path / "model.safetensors").stat().st_size > 8 * largest

    peak = before = anonymous_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for name in names:
        source.tensor(name)
    done.set()
    watcher.join()
    assert peak - before < 2 * largest + 4e6
