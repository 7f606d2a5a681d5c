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


def export_bundle(bundle: Path, form: str, output: Path, dtype: FloatDtype | None = None) -> ExportRecord:
    """Write the bundle at `bundle` to `output` in `form`, one of FORMATS: a file for gguf, a folder for the others.

    `dtype` is what readers of compressed-tensors compute in, float16 unless it is given.
    Returns what is not bit for bit as in the bundle. Raises BundleError for the bundle, ExportError for what the format cannot
    say and for an `output` that exists.
    """
    if output.exists() or output.is_symlink():
        raise ExportError(f"{output} must not exist yet; move it away or choose another output")
    if form not in FORMATS:
        raise ExportError(f"a format is one of {', '.join(FORMATS)}, got {form!r}")
    if dtype is not None and form != "compressed-tensors":
        raise ExportError(f"a dtype is for readers of compressed-tensors, and {form} has none to choose; leave out --dtype")
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


def _write(logical: LogicalBundle, form: str, folder: Path, dtype: FloatDtype | None) -> ExportRecord:
    if form == "compressed-tensors":
        return export_compressed_tensors(logical, folder, dtype or "float16")
    if form == "gguf":
        from optimizer.exporters.gguf_model import export_gguf

        return export_gguf(logical, folder / "model.gguf")
    try:
        from optimizer.exporters.onnx_model import export_onnx
    except ModuleNotFoundError as error:
        raise ExportError(f"exporting as onnx needs {error.name}: pip install 'coldforge[onnx]'") from error
    return export_onnx(logical, folder)
