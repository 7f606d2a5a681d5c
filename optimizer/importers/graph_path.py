"""Where a path has an ONNX graph, if it has one: no package is needed to know."""

from __future__ import annotations

from pathlib import Path

from optimizer.importers.errors import MissingFile
from optimizer.importers.json_file import read_json

GENAI = "genai_config.json"
_GRAPH = "model.onnx"


def graph_at(path: Path) -> Path | None:
    """The graph that `path` is, or that lies in the folder `path` where no safetensors do; None if there is none."""
    if not path.is_dir():
        return path if path.suffix == ".onnx" else None
    if any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")):
        return None
    found = sorted(path.glob("*.onnx"))
    if len(found) < 2:
        return found[0] if found else None
    if (path / GENAI).exists():
        model = read_json(path / GENAI).get("model")
        named = model.get("decoder", {}).get("filename") if isinstance(model, dict) else None
        if path / str(named) in found:
            return path / str(named)
    if path / _GRAPH in found:
        return path / _GRAPH
    raise MissingFile(f"{path} has no {_GRAPH} but {', '.join(file.name for file in found)}; name one of them")
