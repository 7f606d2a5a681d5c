"""Why a model cannot be run."""


class UnsupportedModel(ValueError):
    """A model's config lacks a key, has a wrong value, or asks for something that the runtime does not do."""


class UnknownArchitecture(UnsupportedModel):
    """A model of a family that the runtime does not know."""
