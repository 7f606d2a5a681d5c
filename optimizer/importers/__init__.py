"""Importers: a Hugging Face folder, a GGUF file or an ONNX graph, quantized or not, becomes a Source; adapters are merged."""

from optimizer.formats.stored_matrix import Misfit
from optimizer.importers.errors import (
    AdapterMismatch,
    DamagedFile,
    DamagedTensor,
    GraphMismatch,
    MissingFile,
    MissingTensor,
    MissingTokenizer,
    PickleCheckpoint,
    QuantizationMismatch,
    ShapeMismatch,
    SourceError,
    UnexpectedTensor,
    UnsupportedAdapter,
    UnsupportedDtype,
    UnsupportedGraph,
    UnsupportedQuantization,
    UnsupportedTokenizer,
)
from optimizer.importers.from_path import open_source
from optimizer.importers.random_source import open_random
from optimizer.importers.source import Checkpoint, Source
from optimizer.importers.stored_codes import describe_stored_codes

__all__ = [
    "AdapterMismatch",
    "Checkpoint",
    "DamagedFile",
    "DamagedTensor",
    "GraphMismatch",
    "Misfit",
    "MissingFile",
    "MissingTensor",
    "MissingTokenizer",
    "PickleCheckpoint",
    "QuantizationMismatch",
    "ShapeMismatch",
    "Source",
    "SourceError",
    "UnexpectedTensor",
    "UnsupportedAdapter",
    "UnsupportedDtype",
    "UnsupportedGraph",
    "UnsupportedQuantization",
    "UnsupportedTokenizer",
    "describe_stored_codes",
    "open_random",
    "open_source",
]
