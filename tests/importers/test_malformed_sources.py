"""One test per way in which a source can be wrong: each its own error, which says where and what to do."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from optimizer.importers import (
    DamagedFile,
    MissingFile,
    MissingTensor,
    MissingTokenizer,
    PickleCheckpoint,
    ShapeMismatch,
    SourceError,
    UnexpectedTensor,
    UnsupportedDtype,
    UnsupportedTokenizer,
    open_source,
)
from optimizer.importers.gguf_file import GgufFile
from optimizer.importers.gguf_tokenizer import special_tokens, tokenizer_json
from runtime.models import UnknownArchitecture
from tests.importers.gguf_writing import TOKENIZER, write_gguf
from tests.importers.random_models import CONFIGS, random_model, save_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(random_model(CONFIGS["llama"]), tmp_path)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save_folder(random_model(CONFIGS["llama"]), tmp_path, max_shard_size="20KB")


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replaces, adds, or (None) removes tensors of the single file; `__` in a name stands for a dot."""
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}  # type: ignore[arg-type]
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / "model.safetensors")


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"a Hugging Face folder, a folder or file of ONNX, or a \.gguf file"):
        open_source(tmp_path / "absent")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"config\.json is not there"):
        open_source(tmp_path)


def test_config_that_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(DamagedFile, match=r"config\.json is not JSON"):
        open_source(folder)


def test_config_that_is_no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    with pytest.raises(DamagedFile, match="must hold a JSON object"):
        open_source(folder)


def test_unknown_architecture(folder: Path) -> None:
    change_config(folder, model_type="gpt_neox")
    with pytest.raises(UnknownArchitecture, match=r"llama, mistral, qwen2, qwen3, .*; the config says 'gpt_neox'"):
        open_source(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingFile, match=r"neither model\.safetensors nor"):
        open_source(folder)


def test_pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PickleCheckpoint, match=r"pytorch_model\.bin.*save_pretrained"):
        open_source(folder)


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model_q4.onnx"])
def test_onnx_only(folder: Path, name: str) -> None:
    """Where optimum writes it, and where models of the hub have it."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(DamagedFile, match=rf"{name} is truncated or not ONNX"):
        open_source(folder)


def test_missing_tensor(folder: Path) -> None:
    change_tensors(folder, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(MissingTensor, match=r"model\.layers\.1\.mlp\.up_proj\.weight in .*"):
        open_source(folder)


def test_missing_head_of_an_untied_model(folder: Path) -> None:
    change_tensors(folder, lm_head__weight=None)
    with pytest.raises(MissingTensor, match=r"lm_head\.weight"):
        open_source(folder)


def test_tensor_that_the_config_has_no_place_for(folder: Path) -> None:
    change_tensors(folder, model__layers__0__self_attn__q_proj__bias=torch.zeros(32))
    with pytest.raises(UnexpectedTensor, match=r"self_attn\.q_proj\.bias"):
        open_source(folder)


def test_shape_that_disagrees_with_the_config(folder: Path) -> None:
    change_config(folder, intermediate_size=48)
    with pytest.raises(
        ShapeMismatch,
        match=r"gate_proj\.weight in .* has shape \[64, 32\], .* intermediate_size, hidden_size make it \[48, 32\]",
    ):
        open_source(folder)


def test_unsupported_dtype(folder: Path) -> None:
    change_tensors(folder, model__norm__weight=torch.zeros(32, dtype=torch.int8))
    with pytest.raises(UnsupportedDtype, match=r"model\.norm\.weight in .* has type I8; only F32, F16, BF16"):
        open_source(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -8])
def test_truncated_safetensors(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedFile, match=r"model\.safetensors is truncated"):
        open_source(folder)


def test_missing_shard(sharded: Path) -> None:
    next(sharded.glob("model-00002-*")).unlink()
    with pytest.raises(MissingFile, match=r"model-00002-of-.* is not there; the index lists it"):
        open_source(sharded)


def test_tensor_that_is_not_in_its_shard(sharded: Path) -> None:
    weight_map = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    shard = sharded / weight_map["model.norm.weight"]
    save_file({k: v for k, v in load_file(shard).items() if k != "model.norm.weight"}, shard)
    with pytest.raises(MissingTensor, match=rf"model\.norm\.weight in .*{shard.name}"):
        open_source(sharded)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../b.safetensors"}}'])
def test_bad_index(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DamagedFile, match=r"index\.json must"):
        open_source(sharded)


def test_missing_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MissingTokenizer, match=r"tokenizer\.json is not there.*save_pretrained"):
        open_source(folder)


def test_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(DamagedFile, match=r"tokenizer\.json is not a tokenizer"):
        open_source(folder)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "model.gguf", random_model(CONFIGS["llama"]))


def rewritten(tmp_path: Path, **options: object) -> Path:
    return write_gguf(tmp_path / "model.gguf", random_model(CONFIGS["llama"]), **options)  # type: ignore[arg-type]


def test_not_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DamagedFile, match="must start with GGUF"):
        open_source(path)


def test_gguf_of_another_version(gguf: Path) -> None:
    data = bytearray(gguf.read_bytes())
    data[4:8] = struct.pack("<I", 9)
    gguf.write_bytes(data)
    with pytest.raises(DamagedFile, match=r"version 2 or 3.* 9"):
        open_source(gguf)


@pytest.mark.parametrize("part", ["nothing", "magic", "header", "data"])
def test_truncated_gguf(gguf: Path, part: str) -> None:
    data = gguf.read_bytes()
    keep = {"nothing": 0, "magic": 6, "header": 600, "data": len(data) - 64}[part]
    gguf.write_bytes(data[:keep])
    with pytest.raises(DamagedFile, match=r"truncated|empty"):
        open_source(gguf)


def test_gguf_of_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(UnknownArchitecture, match=r"one of llama, qwen2, qwen3, .*; .* says 'orion'"):
        open_source(rewritten(tmp_path, metadata={"general.architecture": "orion"}))


def test_gguf_without_a_needed_key(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"lacks the metadata llama\.block_count"):
        open_source(rewritten(tmp_path, metadata={"llama.block_count": None}))


@pytest.mark.parametrize("depth", [(1 << 31) - 1, "three"])
def test_gguf_of_a_depth_that_it_cannot_have(depth: object, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"llama\.block_count must be at most the number of tensors, 30, got"):
        open_source(rewritten(tmp_path, metadata={"llama.block_count": depth}))


def test_gguf_without_a_tensor(tmp_path: Path) -> None:
    with pytest.raises(MissingTensor, match=r"blk\.1\.ffn_up\.weight in .*model\.gguf"):
        open_source(rewritten(tmp_path, drop="model.layers.1.mlp.up_proj.weight"))


def test_gguf_with_a_tensor_too_many(tmp_path: Path) -> None:
    with pytest.raises(UnexpectedTensor, match=r"blk\.0\.attn_sub_norm\.weight"):
        open_source(rewritten(tmp_path, extra={"blk.0.attn_sub_norm.weight": np.zeros(32, np.float32)}))


def test_gguf_of_another_shape(tmp_path: Path) -> None:
    with pytest.raises(ShapeMismatch, match=r"ffn_gate\.weight in .* has shape \[64, 32\].* make it \[48, 32\]"):
        open_source(rewritten(tmp_path, metadata={"llama.feed_forward_length": 48}))


@pytest.mark.parametrize(("kind", "message"), [(26, "stored as I32"), (250, "GGML type 250")])
def test_unsupported_gguf_type(gguf: Path, kind: int, message: str) -> None:
    data = gguf.read_bytes()
    name = b"output_norm.weight"  # followed by one dimension's count and extent, then the type
    at = data.index(name) + len(name) + 4 + 8
    gguf.write_bytes(data[:at] + struct.pack("<I", kind) + data[at + 4 :])
    with pytest.raises(UnsupportedDtype, match=rf"output_norm\.weight in .*{message}"):
        open_source(gguf)


def test_gguf_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(MissingTokenizer, match="holds no tokenizer"):
        open_source(rewritten(tmp_path, tokenizer={}))


def test_gguf_with_half_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(MissingTokenizer, match=r"lacks 'tokenizer\.ggml\.merges'"):
        open_source(rewritten(tmp_path, tokenizer={k: v for k, v in TOKENIZER.items() if k != "merges"}))


@pytest.mark.parametrize(("key", "value"), [("model", "bert"), ("pre", "sarvam-moe")])
def test_unsupported_gguf_tokenizer(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(UnsupportedTokenizer, match=f"got '{value}'"):
        open_source(rewritten(tmp_path, tokenizer=TOKENIZER | {key: value}))


def test_gguf_merges_outside_the_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="do not fit together"):
        open_source(rewritten(tmp_path, tokenizer=TOKENIZER | {"merges": ["x yz"]}))


def test_gguf_special_token_outside_the_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"eos_token_id must be below the number of tokens, 96, got 96"):
        open_source(rewritten(tmp_path, tokenizer=TOKENIZER | {"eos_token_id": 96}))


def test_gguf_token_types_that_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"token_type must have an entry per token, 96, got 2"):
        open_source(rewritten(tmp_path, tokenizer=TOKENIZER | {"token_type": [3, 3]}))


def test_a_flipped_bit_in_a_gguf_header_gives_a_typed_error_or_nothing(gguf: Path) -> None:
    data = gguf.read_bytes()
    header_bytes = min(tensor.offset for tensor in GgufFile.open(gguf).tensors.values())
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[random.integers(header_bytes)] ^= 1 << random.integers(8)
        gguf.write_bytes(damaged)
        try:
            metadata = GgufFile.open(gguf).metadata
            tokenizer_json(metadata)
            special_tokens(metadata)
        except SourceError:
            pass
