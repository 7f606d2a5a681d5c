"""Why a bundle cannot be exported."""


class ExportError(ValueError):
    """The format, or what this exporter knows of it, cannot say what the bundle holds; the message says what to do."""
