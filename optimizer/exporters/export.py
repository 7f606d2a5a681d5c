"""From a bundle to a folder or file in another runtime's format: whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from optimizer.exporters.compressed_tensors import FloatDtype, export_compressed_tensors
from optimizer.exporters.errors import ExportError
from optimizer.exporters.logical import LogicalBundle
from optimizer.exporters.record import ExportRecord

FORMATS = ("compressed-tensors", "gguf", "onnx")


def export_bundle(bundle: Path, form: str, output: Path, dtype: FloatDtype = "float16") -> ExportRecord:
    """Write the bundle at `bundle` to `output` in `form`, one of FORMATS: a file for gguf, a folder for the others.

    `dtype` is what readers of compressed-tensors compute in.
    Returns what is not bit for bit as in the bundle. Raises BundleError for the bundle, ExportError for what the format cannot
    say and for an `output` that exists.
    """
    if output.exists() or output.is_symlink():
        raise ExportError(f"{output} must not exist yet; move it away or choose another output")
    logical = LogicalBundle.open(bundle)
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".writing", dir=output.parent))
    try:
        record = _write(logical, form, temporary, dtype)
        temporary.chmod(0o755)
        (temporary / "model.gguf" if form == "gguf" else temporary).rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return record


def _write(logical: LogicalBundle, form: str, folder: Path, dtype: FloatDtype) -> ExportRecord:
    if form == "compressed-tensors":
        return export_compressed_tensors(logical, folder, dtype)
    if form == "gguf":
        from optimizer.exporters.gguf_model import export_gguf

        return export_gguf(logical, folder / "model.gguf")
    if form == "onnx":
        from optimizer.exporters.onnx_model import export_onnx

        return export_onnx(logical, folder)
    raise ExportError(f"a format is one of {', '.join(FORMATS)}, got {form!r}")
