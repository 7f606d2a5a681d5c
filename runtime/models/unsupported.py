"""Why a model cannot be run."""

from artifacts.errors import UserError


class UnsupportedModel(UserError):
    """A model's config lacks a key, has a wrong value, or asks for something that the runtime does not do."""


class UnknownArchitecture(UnsupportedModel):
    """A model of a family that the runtime does not know."""
