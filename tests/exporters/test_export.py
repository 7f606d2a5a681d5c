"""The command: what it says, what it refuses, and that nothing is left of an export that failed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optimizer.cli import coldforge
from optimizer.exporters import FORMATS
from tests.exporters.conftest import MakeBundle
from tests.exporters.test_gguf import small_tokenizer
from tests.runtime.conftest import Tiny


def run(bundle: Path, form: str, output: Path, *options: str) -> Result:
    return CliRunner().invoke(coldforge, ["export", str(bundle), "--format", form, "-o", str(output), *options])


@pytest.mark.parametrize("form", FORMATS)
def test_each_format(form: str, bundle: MakeBundle) -> None:
    made = bundle("llama", "int4-g32-sym", tokenizer_json=small_tokenizer())
    output = made.with_name("nested") / "out"
    result = run(made, form, output)
    assert result.exit_code == 0, result.output
    assert output.is_file() if form == "gguf" else (output / "tokenizer.json").is_file()
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    first = "model.embed_tokens.weight: int4-g32-sym became float16 (relative error at most 0.0"
    assert result.output.startswith(first if form == "compressed-tensors" else "every weight is bit for bit the bundle's\n")


@pytest.mark.parametrize("form", FORMATS)
def test_schemes_that_no_format_has(form: str, bundle: MakeBundle, tiny: Callable[[str], Tiny]) -> None:
    plan = dict.fromkeys(tiny("llama").architecture.linear_shapes(), "fp32")
    plan |= {"layers.0.qkv": "int8-a16", "layers.1.down": "int4-twolevel-a8", "layers.1.o": "int3"}
    made = bundle("llama", plan, tokenizer_json=small_tokenizer())
    result = run(made, form, made.with_name("out"))
    assert result.exit_code == 0, result.output
    assert "layers in int8-a16 are written as int8 with float activations" in result.output
    assert "layers in int3 are written as int4-g32-sym of the same values bit for bit" in result.output
    assert "layers in int4-twolevel are written as int8 of the same values bit for bit" in result.output


def test_the_same_bundle_gives_the_same_bytes(bundle: MakeBundle) -> None:
    made = bundle("llama", "int8", tokenizer_json=small_tokenizer())
    for form in FORMATS:
        outputs = [made.with_name(f"{form}-{i}") for i in range(2)]
        for output in outputs:
            assert run(made, form, output).exit_code == 0
        contents = [{p.name: p.read_bytes() for p in ([o] if o.is_file() else o.iterdir())} for o in outputs]
        assert list(contents[0].values()) == list(contents[1].values())


def test_what_is_there_stays(bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    result = run(bundle("llama"), "onnx", tmp_path / "out")
    assert result.exit_code == 1 and "must not exist yet; move it away" in result.output
    assert not list((tmp_path / "out").iterdir())


def test_not_a_bundle(tmp_path: Path) -> None:
    result = run(tmp_path, "onnx", tmp_path / "out")
    assert result.exit_code == 1 and result.output.startswith("Error: ") and "give the path of a bundle" in result.output


def test_damage_is_found_first(bundle: MakeBundle, tmp_path: Path) -> None:
    made = bundle("llama")
    with next((made / "weights").iterdir()).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    result = run(made, "onnx", tmp_path / "out")
    assert result.exit_code == 1 and "sha256 must be" in result.output
    assert not (tmp_path / "out").exists()


def test_a_dtype_without_a_use(bundle: MakeBundle, tmp_path: Path) -> None:
    result = run(bundle("llama"), "gguf", tmp_path / "out", "--dtype", "bfloat16")
    assert result.exit_code == 1 and "gguf has none to choose; leave out --dtype" in result.output


def test_onnx_is_an_extra(bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in [name for name in sys.modules if name.startswith("optimizer.exporters.onnx_")]:
        monkeypatch.delitem(sys.modules, name)
    result = run(bundle("llama"), "onnx", tmp_path / "out")
    assert result.exit_code == 1 and "exporting as onnx needs onnx: pip install 'coldforge[onnx]'" in result.output
