"""Importers: a Hugging Face folder or a GGUF file becomes a Source."""

from optimizer.importers.errors import (
    DamagedFile,
    MissingFile,
    MissingTensor,
    MissingTokenizer,
    PickleCheckpoint,
    ShapeMismatch,
    SourceError,
    TiedHeadDiffers,
    UnexpectedTensor,
    UnsupportedDtype,
    UnsupportedTokenizer,
)
from optimizer.importers.opening import open_source
from optimizer.importers.random_source import open_random
from optimizer.importers.source import Checkpoint, Source

__all__ = [
    "Checkpoint",
    "DamagedFile",
    "MissingFile",
    "MissingTensor",
    "MissingTokenizer",
    "PickleCheckpoint",
    "ShapeMismatch",
    "Source",
    "SourceError",
    "TiedHeadDiffers",
    "UnexpectedTensor",
    "UnsupportedDtype",
    "UnsupportedTokenizer",
    "open_random",
    "open_source",
]
