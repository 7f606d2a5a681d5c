"""Opening a model, whatever it is stored as."""

from __future__ import annotations

from pathlib import Path

from optimizer.importers.errors import MissingFile
from optimizer.importers.gguf_model import open_gguf
from optimizer.importers.hf_folder import open_hf_folder
from optimizer.importers.source import Source


def open_source(path: Path) -> Source:
    """The model at `path`: a Hugging Face folder or a .gguf file.

    Everything but the tensors' data is read and checked now. Raises SourceError (each kind its own class) for what is
    missing, damaged or contradictory, and UnsupportedModel for what the runtime does not do.
    """
    if path.is_dir():
        return open_hf_folder(path)
    if not path.exists():
        raise MissingFile(f"{path} is not there; a source is a Hugging Face folder or a .gguf file")
    return open_gguf(path)
