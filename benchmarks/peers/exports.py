"""The same float weights in each engine's own format, by each engine's own tools."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.engines import VARIANTS, Variant
from benchmarks.peers.environments import SetupFailed, python_of, run_logged
from benchmarks.peers.float_model import export_float_model
from benchmarks.peers.gguf_export import write_f32_gguf
from optimizer.importers import open_source

_F32 = next(variant for variant in VARIANTS if variant.artifact == "F32.gguf")
_OFFLINE = {"HF_HUB_OFFLINE": "1"}
#: LLAMA_FTYPE_MOSTLY_*, and what is quantized how beyond that is llama.cpp's default
_QUANTIZE = """
import sys, llama_cpp as llama
params = llama.llama_model_quantize_default_params()
params.ftype = getattr(llama, "LLAMA_FTYPE_MOSTLY_" + sys.argv[3])
sys.exit(llama.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params))
"""


def model_folder(home: Path, model: Path, degrid_seed: int | None) -> Path:
    """Where the exports of these very weights lie: the name has a digest of the model's files and of the seed."""
    sources = json.dumps([open_source(model).sha256(), degrid_seed], sort_keys=True)
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", model.name.removesuffix(".gguf"))
    twin = "" if degrid_seed is None else "-degridded"
    return home / "models" / f"{stem}{twin}-{hashlib.sha256(sources.encode()).hexdigest()[:8]}"


def float_folder(home: Path, model: Path, degrid_seed: int | None) -> Path:
    """The Hugging Face folder of the float weights, written now if it is not there yet."""
    folder = model_folder(home, model, degrid_seed) / "hf"
    if not folder.exists():
        export_float_model(model, folder, degrid_seed)
    return folder


def export(variant: Variant, folder: Path, home: Path) -> Path:
    """Make what `variant` loads from `folder`/hf, if it is not there yet. SetupFailed; nothing half made is left."""
    target = folder / variant.artifact.partition("#")[0]
    if target.exists():
        return target
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.unlink(missing_ok=True)
    _EXPORTERS[variant.engine](folder, partial, target, home)
    if not partial.exists():
        raise SetupFailed(f"the export of {variant.name} ended well but wrote nothing at {partial}")
    partial.replace(target)
    return target


def _gguf(folder: Path, partial: Path, target: Path, home: Path) -> None:
    if target.stem == "F32":
        write_f32_gguf(folder / "hf", partial)
        return
    full = export(_F32, folder, home)
    command = [str(python_of(home, "llamacpp")), "-P", "-c", _QUANTIZE, str(full), str(partial), target.stem]
    run_logged(command, folder / "logs" / f"{target.stem}.log")


def _openvino(folder: Path, partial: Path, target: Path, home: Path) -> None:
    bits = target.name.removeprefix("openvino-")
    weights = ["--weight-format", bits, *(["--group-size", "64", "--ratio", "1.0"] if bits == "int4" else [])]
    tool = str(home / "openvino" / "bin" / "optimum-cli")
    task = ["--task", "text-generation-with-past"]
    command = [tool, "export", "openvino", "--model", str(folder / "hf"), *task, *weights, str(partial)]
    run_logged(command, folder / "logs" / f"{target.name}.log", _OFFLINE, cwd=folder)


def _onnxruntime(folder: Path, partial: Path, target: Path, home: Path) -> None:
    bits, cache = target.name.removeprefix("onnxruntime-"), folder / "onnxruntime.cache"
    builder = [str(python_of(home, "onnxruntime")), "-P", "-m", "onnxruntime_genai.models.builder"]
    command = [*builder, "-i", str(folder / "hf"), "-o", str(partial), "-p", bits, "-e", "cpu", "-c", str(cache)]
    run_logged(command, folder / "logs" / f"{target.name}.log", _OFFLINE, cwd=folder)
    shutil.rmtree(cache, ignore_errors=True)


_EXPORTERS: dict[str, Callable[[Path, Path, Path, Path], None]] = {
    "llamacpp": _gguf,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
