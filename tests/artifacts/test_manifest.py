"""The manifest: its bytes, its versions, and the rules between its fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from artifacts import errors
from artifacts.canonical import canonical_json
from artifacts.manifest import Deployment, FileRecord, Manifest, Provenance

FILES = {
    path: FileRecord(sha256=hashlib.sha256(path.encode()).hexdigest(), size=len(path))
    for path in ("kernels/cpu.so", "tokenizer.json", "weights/model.safetensors")
}
GOLDEN_DIGEST = "2c8c7d37efa73e9997eac4fdbdca4e6072d47ab1062f475dbc25c71ac1b7f448"


@pytest.fixture
def content(parts: Any) -> dict[str, Any]:
    _, data = Manifest.seal(parts.deployment, FILES)
    loaded: dict[str, Any] = json.loads(data)
    return loaded


def sealed(content: dict[str, Any]) -> bytes:
    """`content` with the digest that a maker of such a manifest would give it."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return canonical_json({**rest, "digest": hashlib.sha256(canonical_json(rest)).hexdigest()})


def test_golden_bytes(parts: Any) -> None:
    _, data = Manifest.seal(parts.deployment, FILES)
    lines = data.decode("ascii").splitlines(keepends=True)
    assert lines[0] == "{\n" and lines[-1] == "}\n"
    assert '  "format_version": "1.8",\n' in lines
    assert json.loads(data)["digest"] == GOLDEN_DIGEST


def test_a_manifest_of_version_1_0_keeps_its_meaning(parts: Any) -> None:
    manifest, data = Manifest.seal(parts.deployment, FILES)
    content = json.loads(data)
    added = {
        "": ("answers", "evaluated", "purpose"),
        "target": ("archs",),
        "architecture": (
            "moe",
            "mla",
            "activation",
            "post_norms",
            "embedding_scale",
            "query_scalar",
            "attention_softcap",
            "logit_softcap",
            "further_ropes",
            "layer_ropes",
            "branch_scale",
            "logit_divisor",
            "pre_norms",
            "qk_norm_of_all_heads",
            "attention_sinks",
            "layer_shapes",
            "layer_caches",
            "value_norm",
            "per_layer_size",
            "layer_scalars",
            "embedding_factor",
            "activation_limit",
            "activation_slope",
        ),
        "provenance": ("quantization",),
    }
    for section, names in added.items():
        for name in names:
            del (content[section] if section else content)[name]
    for kernels in content["kernels"]:
        del kernels["table"], kernels["activations"]
    old = Manifest.parse(sealed({**content, "format_version": "1.0"}))
    assert old.model_copy(update={"format_version": "1.8", "digest": manifest.digest}) == manifest


def test_parse_is_the_inverse_of_seal(parts: Any) -> None:
    manifest, data = Manifest.seal(parts.deployment, FILES)
    assert Manifest.parse(data) == manifest
    assert Manifest.seal(Deployment.model_validate(manifest.model_dump(include=set(Deployment.model_fields))), FILES) == (
        manifest,
        data,
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.replace(b'"seed": 7', b'"seed":7'),
        lambda data: data.replace(b'"seed": 7', b'"seed": 6,\n    "seed": 7'),
        lambda data: data + b"\n",
        lambda data: data[:-1],
        lambda data: data[:-3],
        lambda data: b"\xff" + data,
        lambda data: b"[]\n",
        lambda data: b"",
        lambda data: b"[" * 100_000,
        lambda data: data.replace(b'"seed": 7', b'"seed": NaN'),
    ],
)
def test_anything_but_canonical_json(parts: Any, spoil: Callable[[bytes], bytes]) -> None:
    _, data = Manifest.seal(parts.deployment, FILES)
    with pytest.raises(errors.ManifestError, match=r"manifest\.json"):
        Manifest.parse(spoil(data))


def test_an_edited_manifest(content: dict[str, Any]) -> None:
    content["serving"]["max_num_seqs"] = 2
    with pytest.raises(errors.ManifestDigestError, match="changed after"):
        Manifest.parse(canonical_json(content))


@pytest.mark.parametrize("version", ["2.0", "0.9", "1", "1.x", "", None, 1.0])
def test_another_major_version(content: dict[str, Any], version: object) -> None:
    with pytest.raises(errors.FormatVersionError, match=r"1\.x"):
        Manifest.parse(sealed({**content, "format_version": version}))


def test_a_newer_minor_version_that_says_nothing_new_is_read(content: dict[str, Any]) -> None:
    assert Manifest.parse(sealed({**content, "format_version": "1.9"})).format_version == "1.9"


def test_a_newer_minor_version_with_a_new_field(content: dict[str, Any]) -> None:
    with pytest.raises(errors.FormatVersionError, match=r"'target\.gpu'.*update"):
        content["target"]["gpu"] = True
        Manifest.parse(sealed({**content, "format_version": "1.9"}))


def test_our_version_with_an_unknown_field(content: dict[str, Any]) -> None:
    content["target"]["gpu"] = True
    with pytest.raises(errors.ManifestError, match=r"target\.gpu"):
        Manifest.parse(sealed(content))


@pytest.mark.parametrize("path", ["../x", "/x", "a\\x", "weights/../x", "weights//x", ".x"])
def test_a_listed_path_that_could_escape(content: dict[str, Any], path: str) -> None:
    content["files"][path] = {"sha256": 64 * "0", "size": 0}
    with pytest.raises(errors.PathRuleError) as caught:
        Manifest.parse(sealed(content))
    assert caught.value.path == path


def _set(*keys: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *inner, last = keys
        for key in inner:
            content = content[key]  # type: ignore[index]
        if value is None:
            del content[last]  # type: ignore[arg-type]
        else:
            content[last] = value  # type: ignore[index]

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_set("precision", "groups", "layers.0.o", value=None), r"missing layers\.0\.o"),
        (_set("precision", "groups", "layers.9.o", value="int8"), r"layers\.9\.o, which the architecture does not have"),
        (_set("precision", "groups", "layers.0.o", value="int2"), "int2"),
        (_set("precision", "groups", "layers.0.down", value="int4-g128-sym"), "96 is not a multiple of group size 128"),
        (_set("precision", "kv_cache", value="fp64"), "kv_cache"),
        (_set("kernels", 1, "symbols", value=["rms_norm"]), "served twice: rms_norm"),
        (_set("kernels", 0, "library", value=None), "needs a library and a compiler"),
        (_set("kernels", 0, "compiler", value=None), "needs a library and a compiler"),
        (_set("kernels", 1, "library", value="kernels/cpu.so"), "'reference' none of them"),
        (_set("kernels", value=[]), "kernels"),
        (_set("target", "machine", value=None), r"target\.machine"),
        (_set("serving", "kv_block_size", value=24), "multiple of 16, got 24"),
        (_set("serving", "num_kv_blocks", value=2), r"2 \* 16"),
        (_set("serving", "max_num_batched_tokens", value=3), "at least max_num_seqs"),
        (_set("serving", "max_model_len", value=256), "max_position"),
        (_set("serving", "max_num_seqs", value="4"), "max_num_seqs"),
        (_set("serving", "max_num_seqs", value=0), "max_num_seqs"),
        (_set("provenance", "sources", value={"/home/me/model.gguf": 64 * "0"}), "sources"),
        (_set("name", value=None), "name"),
        (_set("files", "tokenizer.json", value=None), r"must list tokenizer\.json"),
        (_set("files", "kernels/cpu.so", value=None), r"must list kernels/cpu\.so"),
        (_set("files", "weights/model.safetensors", value=None), "at least one weights"),
        (_set("files", "manifest.json", value={"sha256": 64 * "0", "size": 0}), "its own digest"),
        (_set("files", "tokenizer.json", "sha256", value=64 * "G"), "sha256"),
        (_set("files", "tokenizer.json", "size", value=-1), "size"),
    ],
)
def test_a_rule_broken(content: dict[str, Any], change: Callable[[dict[str, Any]], None], fault: str) -> None:
    change(content)
    with pytest.raises(errors.ManifestError, match=fault):
        Manifest.parse(sealed(content))


def test_a_deployment_is_checked_when_it_is_made(parts: Any) -> None:
    with pytest.raises(ValidationError, match="sources"):
        Provenance(sources={"a/b": 64 * "0"}, tool_version="1", libraries={}, seed=0, study="s")


def test_nothing_of_the_place_or_time_is_in_the_manifest(content: dict[str, Any]) -> None:
    assert set(content["provenance"]) == {"sources", "tool_version", "libraries", "seed", "study", "quantization"}
    assert b"/home/" not in canonical_json(content)
