"""Where a path has an ONNX graph, if it has one: no package is needed to know."""

from __future__ import annotations

from pathlib import Path

from optimizer.importers.errors import MissingFile
from optimizer.importers.json_file import read_json

CONFIG, GENAI = "config.json", "genai_config.json"
_GRAPH = "model.onnx"


def graph_at(path: Path) -> Path | None:
    """The graph that `path` is, or that lies in the folder `path` or its `onnx`, where no safetensors do; or None.

    MissingFile where there are several, and none is called model.onnx or named by genai_config.json.
    """
    if not path.is_dir():
        return path if path.suffix == ".onnx" else None
    if any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")):
        return None
    found = sorted(path.glob("*.onnx")) or sorted(path.glob("onnx/*.onnx"))
    if len(found) < 2:
        return found[0] if found else None
    model = read_json(path / GENAI, required=False).get("model")
    named = model.get("decoder", {}).get("filename", _GRAPH) if isinstance(model, dict) else _GRAPH
    for graph in found:
        if graph.name == named:
            return graph
    raise MissingFile(f"{path} has no {named} but {', '.join(file.name for file in found)}; name the file to use")


def home_of(graph: Path) -> Path:
    """The folder with the graph's config and texts: its own, or that of which it is the folder `onnx`."""
    folder = graph.parent
    is_home = folder.name != "onnx" or any((folder / name).exists() for name in (CONFIG, GENAI))
    return folder if is_home else folder.parent
