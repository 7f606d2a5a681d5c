"""Why a bundle cannot be exported."""

from artifacts.errors import UserError


class ExportError(UserError):
    """The format, or what this exporter knows of it, cannot say what the bundle holds; the message says what to do."""
