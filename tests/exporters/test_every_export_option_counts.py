"""Every option of `coldforge export` changes what is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from optimizer.cli import coldforge
from tests.exporters.conftest import MakeBundle
from tests.options import assert_listed

#: two command lines that differ in the option alone
EXPORT = {
    "--format": ("--format compressed-tensors -o out", "--format onnx -o out"),
    "--output": ("--format onnx -o out", "--format onnx -o elsewhere"),
    "--dtype": ("--format compressed-tensors -o out", "--format compressed-tensors --dtype float32 -o out"),
}


def test_every_option_is_listed() -> None:
    assert_listed("export", {"bundle", *EXPORT})


def written(bundle: Path, folder: Path, line: str) -> dict[str, bytes]:
    folder.mkdir()
    *options, output = line.split()
    result = CliRunner().invoke(coldforge, ["export", str(bundle), *options, str(folder / output)])
    assert result.exit_code == 0, result.output
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", EXPORT)
def test_an_option_of_export(option: str, bundle: MakeBundle, tmp_path: Path) -> None:
    made = bundle("llama")
    one, other = (written(made, tmp_path / str(number), line) for number, line in enumerate(EXPORT[option]))
    assert one and other and one != other, f"{option} changes nothing"
