"""Exporters: a bundle in the formats of other runtimes."""

from optimizer.exporters.compressed_tensors import FloatDtype
from optimizer.exporters.errors import ExportError
from optimizer.exporters.export import FORMATS, export_bundle
from optimizer.exporters.record import Change, ExportRecord

__all__ = ["FORMATS", "Change", "ExportError", "ExportRecord", "FloatDtype", "export_bundle"]
