"""Families of decoders: each turns a Hugging Face config into an Architecture."""

from runtime.models.checkpoint_tensors import checkpoint_tensors, without_effect
from runtime.models.registry import FAMILIES, architecture
from runtime.models.stored_rows import Part
from runtime.models.unserved import UNSERVED, UnservedArchitecture, refuse_unserved_gguf
from runtime.models.unsupported import UnknownArchitecture, UnsupportedModel

__all__ = [
    "FAMILIES",
    "UNSERVED",
    "Part",
    "UnknownArchitecture",
    "UnservedArchitecture",
    "UnsupportedModel",
    "architecture",
    "checkpoint_tensors",
    "refuse_unserved_gguf",
    "without_effect",
]
