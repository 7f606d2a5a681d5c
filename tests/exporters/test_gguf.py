"""Exported GGUF files through the gguf package's own reader and dequantization, and through our importer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from optimizer.exporters import ExportError, export_bundle
from optimizer.exporters.gguf_vocabulary import unsaid_ends, vocabulary_metadata
from optimizer.exporters.logical import LogicalBundle
from optimizer.importers import open_source
from optimizer.importers.gguf_tokenizer import special_tokens, tokenizer_json
from tests.exporters.conftest import TEMPLATE, MakeBundle, save_gpu_bundle
from tests.importers.test_gguf_tokenizer import CORPUS, TEXTS
from tests.runtime.conftest import Tiny

#: of a model with 203 rows in its embedding, which the file must not exceed
PIECES = ["<s>", "</s>", *(chr(ord("!") + i) for i in range(93)), "Ġ", "!!"]


def small_tokenizer() -> str:
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(PIECES)}, [("!", "!")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer.to_str()


def export(bundle: Path) -> Path:
    path = bundle.with_name("exported.gguf")
    export_bundle(bundle, "gguf", path)
    return path


def record_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GGUFReader(path).get_field("coldforge.export").contents())
    return found


MODELS: dict[str, str | Mapping[str, str]] = {
    "llama": "int4-g32-sym",
    "llama, linear": "fp32",
    "mistral, tied, yarn": "bf16",
    "mistral": "int8",
    "qwen2": "int4-g32-asym",
    "qwen3": {"layers.0.qkv": "int4-g64-sym", "layers.0.o": "int4-g32-sym-a8", "layers.1.qkv": "int8-a8", "head": "int8"}
    | {"layers.1.down": "int4-twolevel-a8", "layers.1.o": "int3"},
}
EXACT = ("fp32", "bf16", "int4-g32-sym", "int4-g64-sym")


@pytest.mark.parametrize("name", MODELS)
def test_the_importer_reads_back_what_was_exported(name: str, bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    model, schemes = tiny(name), MODELS[name]
    if not isinstance(schemes, str):
        schemes = dict.fromkeys(model.architecture.linear_shapes(), "fp32") | schemes
    made = bundle(name, schemes, tokenizer_json=small_tokenizer())
    path, logical = export(made), LogicalBundle.open(made)
    source = open_source(path)
    assert source.architecture == model.architecture
    for group in model.architecture.linear_shapes():
        found, expected = source.tensor(f"{group}.weight").numpy(), logical.matrix(group).dequantize()
        if logical.scheme(group).storage.name in EXACT:
            np.testing.assert_array_equal(found, expected)
        else:
            assert np.linalg.norm(found - expected) < 2**-11 * np.linalg.norm(expected)
    for tensor in model.architecture.float_shapes():
        np.testing.assert_array_equal(source.tensor(tensor).numpy(), logical.bundle.tensors[tensor])
    changed = {change["stored"] for change in record_of(path)["changes"]}
    assert changed == {s.name for g in logical.manifest.precision.groups if (s := logical.scheme(g)).storage.name not in EXACT}
    assert source.chat_template == TEMPLATE and source.generation_config["eos_token_id"] == 1


def test_four_bit_codes_are_the_bundles(bundle: MakeBundle) -> None:
    """Q4_0 as ggml's structs say: fp16 scale, then value j low and value j + 16 high in byte j. Down has no permuted rows."""
    made = bundle("llama", "int4-g32-sym", tokenizer_json=small_tokenizer())
    matrix = LogicalBundle.open(made).matrix("layers.1.down")
    tensors = {tensor.name: tensor for tensor in GGUFReader(export(made)).tensors}
    stored = tensors["blk.1.ffn_down.weight"]
    assert stored.tensor_type.name == "Q4_0"
    data = np.asarray(stored.data).reshape(*matrix.shape[:1], -1, 18)
    scales, nibbles = data[..., :2].copy().view("<f2")[..., 0], data[..., 2:]
    assert matrix.scales is not None
    np.testing.assert_array_equal(scales, matrix.scales)
    assert scales.min() < 0 < scales.max()
    codes = np.concatenate((nibbles & 15, nibbles >> 4), axis=2).reshape(matrix.shape)
    np.testing.assert_array_equal(codes, matrix.codes)
    np.testing.assert_array_equal(dequantize(np.asarray(stored.data), stored.tensor_type), matrix.dequantize())


def test_codes_of_other_types_are_the_bundles(bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    groups = dict.fromkeys(tiny("qwen2").architecture.linear_shapes(), "int8") | {"layers.0.o": "int4-g64-asym"}
    made = bundle("qwen2", groups, tokenizer_json=small_tokenizer())
    tensors = {tensor.name: tensor for tensor in GGUFReader(export(made)).tensors}
    logical = LogicalBundle.open(made)
    for group, name, kind, size in (("layers.0.down", "ffn_down", "Q8_0", 34), ("layers.0.o", "attn_output", "Q4_1", 20)):
        stored, matrix = tensors[f"blk.0.{name}.weight"], logical.matrix(group)
        assert stored.tensor_type.name == kind
        data = np.asarray(stored.data).reshape(matrix.shape[0], -1, size)
        heads, scales = data[..., :4].copy().view("<f2"), matrix.scales
        assert scales is not None
        if kind == "Q8_0":
            np.testing.assert_array_equal(heads[..., 0], np.broadcast_to(scales.astype(np.float16)[:, None], data.shape[:2]))
            np.testing.assert_array_equal(data[..., 2:].view(np.int8).reshape(matrix.shape), matrix.codes)
        else:
            nibbles = data[..., 4:]
            np.testing.assert_array_equal(heads[..., 0], np.repeat(scales, 2, axis=1))  # bit for bit
            minima = -scales.astype(np.float32) * matrix.zeros
            np.testing.assert_array_equal(heads[..., 1], np.repeat(minima.astype(np.float16), 2, axis=1))
            np.testing.assert_array_equal(np.concatenate((nibbles & 15, nibbles >> 4), 2).reshape(matrix.shape), matrix.codes)


def test_llama3_factors_are_transformers(bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    """What llama.cpp divides frequencies by. (The importer knows those of published models only.)"""
    name = "llama, tied, biased, llama3"
    tensors = {t.name: t.data for t in GGUFReader(export(bundle(name, tokenizer_json=small_tokenizer()))).tensors}
    scaled = tiny(name).model.model.rotary_emb.inv_freq.numpy()
    plain = 1 / 1e4 ** (np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(tensors["rope_freqs.weight"], plain / scaled, rtol=1e-5)


def test_fp8_is_widened_and_recorded(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    groups = dict.fromkeys(tiny("llama").architecture.linear_shapes(), "bf16") | {"layers.0.o": "fp8"}
    made = save_gpu_bundle(tmp_path / "bundle", tiny("llama"), groups, tokenizer_json=small_tokenizer())
    (change,) = record_of(export(made))["changes"]
    assert (change["tensor"], change["stored"], change["exported"]) == ("blk.0.attn_output.weight", "fp8", "F16")
    assert change["relative_error"] < 2**-11


def test_mxfp4_is_ggmls_and_nvfp4_is_widened(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    groups = dict.fromkeys(tiny("llama").architecture.linear_shapes(), "bf16")
    groups |= {"layers.0.o": "mxfp4", "layers.0.down": "nvfp4"}
    made = save_gpu_bundle(tmp_path / "bundle", tiny("llama"), groups, tokenizer_json=small_tokenizer())
    folder = export(made)
    tensors = {tensor.name: tensor for tensor in GGUFReader(folder).tensors}
    for name, group, kind in (
        ("attn_output", "layers.0.o", GGMLQuantizationType.MXFP4),
        ("ffn_down", "layers.0.down", GGMLQuantizationType.F16),
    ):
        stored = tensors[f"blk.0.{name}.weight"]
        assert stored.tensor_type == kind
        values = LogicalBundle.open(made).matrix(group).dequantize()
        np.testing.assert_array_equal(dequantize(stored.data, kind), values)
    assert not record_of(folder)["changes"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen2, tied, window", "cannot express in which layers a qwen2 model has a sliding window; export it as onnx"),
        ("qwen3, tied, biased, yarn", "qwen3 has no biases"),
    ],
)
def test_what_gguf_cannot_say(name: str, message: str, bundle: MakeBundle) -> None:
    made = bundle(name, tokenizer_json=small_tokenizer())
    with pytest.raises(ExportError, match=message):
        export(made)
    assert {path.name for path in made.parent.iterdir()} == {"bundle"}


def written_and_read(tokenizer: Tokenizer, vocab_size: int = 0, **generation_config: object) -> Tokenizer:
    size = vocab_size or tokenizer.get_vocab_size()
    return Tokenizer.from_str(tokenizer_json(vocabulary_metadata(tokenizer.to_str(), size, generation_config, None)))


def check_alike(ours: Tokenizer, theirs: Tokenizer) -> None:
    for text in [*TEXTS, *CORPUS[:3], "<|begin|>x<think>y<|end|>"]:
        assert ours.encode(text).ids == theirs.encode(text).ids, text
        ids = theirs.encode(text).ids
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids, skip_special_tokens=False)


def test_byte_level_vocabulary() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", begin)])
    read = written_and_read(tokenizer, tokenizer.get_vocab_size() + 5, bos_token_id=begin, eos_token_id=[begin + 1, begin])
    check_alike(read, tokenizer)
    assert read.get_vocab_size() == tokenizer.get_vocab_size() + 5  # rows of the embedding that no token has


def test_sentencepiece_vocabulary() -> None:
    """Merges become scores and are rebuilt from them."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *model["vocab"]]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    check_alike(written_and_read(tokenizer, bos_token_id=1, eos_token_id=2), tokenizer)


def test_a_way_to_split_that_has_no_name() -> None:
    tokenizer = Tokenizer.from_str(small_tokenizer())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(False)])
    with pytest.raises(ExportError, match="splits text before merging in a way that is none of gpt-2, default, smollm"):
        written_and_read(tokenizer)


def test_a_normalizer_that_would_be_lost() -> None:
    tokenizer = Tokenizer.from_str(small_tokenizer())
    tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ExportError, match="the tokenizer cannot be written as GGUF"):
        written_and_read(tokenizer)


def test_pieces_that_scores_cannot_order() -> None:
    """Two that no merge makes: a reader of scores makes both, and cannot know which first."""
    vocab = {"<unk>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "bc": 5, "▁": 6}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    with pytest.raises(ExportError, match=r"whose readers would say: .* 'ab' and 'bc' both have"):
        written_and_read(tokenizer)


def test_more_tokens_than_rows() -> None:
    with pytest.raises(ExportError, match="has a token 96, and the embedding 96 rows"):
        written_and_read(Tokenizer.from_str(small_tokenizer()), 96)


@pytest.mark.parametrize(
    ("ends", "keys", "num_unsaid"),
    [
        ([], {}, 0),
        (["</s>"], {"eos": "</s>"}, 0),
        (["</s>", "<|im_end|>"], {"eos": "</s>", "eot": "<|im_end|>"}, 0),
        (["</s>", "<|eom_id|>", "<|eot_id|>"], {"eos": "</s>", "eot": "<|eot_id|>", "eom": "<|eom_id|>"}, 0),
        (["<|eot_id|>", "<|eom_id|>"], {"eos": "<|eot_id|>", "eom": "<|eom_id|>"}, 0),
        (["</s>", "<|im_end|>", "<|eot_id|>", "<a>"], {"eos": "</s>", "eot": "<|im_end|>", "eom": "<|eot_id|>"}, 1),
    ],
)
def test_every_end_of_sequence_has_a_key_while_there_are_some(ends: list[str], keys: dict[str, str], num_unsaid: int) -> None:
    tokenizer = Tokenizer.from_str(small_tokenizer())
    tokenizer.add_special_tokens(["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<a>"])
    ids = [tokenizer.token_to_id(end) for end in ends]
    config = {"eos_token_id": ids[0] if len(ids) == 1 else ids}
    metadata = vocabulary_metadata(tokenizer.to_str(), tokenizer.get_vocab_size(), config, None)
    written = {key: metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")}
    assert {key: token for key, token in written.items() if token is not None} == {
        key: tokenizer.token_to_id(text) for key, text in keys.items()
    }
    assert unsaid_ends(metadata, config) == ids[len(ids) - num_unsaid :]
    read = special_tokens(metadata).get("eos_token_id", [])
    assert {*(read if isinstance(read, list) else [read])} == {*ids[: len(ids) - num_unsaid]}  # type: ignore[misc]


def test_ends_that_have_no_key_are_recorded(bundle: MakeBundle) -> None:
    made = bundle("llama", "fp32", tokenizer_json=small_tokenizer(), generation_config={"eos_token_id": [1, 5, 6, 7]})
    assert any(
        "llama.cpp ends replies at 7 only where it knows their names" in note for note in record_of(export(made))["notes"]
    )
