"""What a user can put right, and what can be wrong with a bundle: one class per rule of FORMAT.md."""

from __future__ import annotations

from pathlib import Path


class UserError(ValueError):
    """What a user gave, or a file of theirs, breaks a rule. The text says the rule, the value and the fix.

    A command shows this text alone, as it does of `kernels.refusal.Refusal` and OSError. Any other exception is a bug and shows
    its traceback.
    """


class BundleError(UserError):
    """A bundle, or a folder given as one, breaks a rule of FORMAT.md. `path` is the file at fault, if there is one."""

    def __init__(self, message: str, path: str | Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class NotABundleError(BundleError):
    """The folder is absent, or holds no manifest.json."""


class FormatVersionError(BundleError):
    """The bundle was written in a format that this version does not read."""


class ManifestError(BundleError):
    """manifest.json is not canonical JSON, or breaks the schema or a rule between its fields."""


class ManifestDigestError(BundleError):
    """manifest.json does not match its own digest."""


class PathRuleError(BundleError):
    """A file name could mean something outside the bundle, or different files on different systems."""


class LinkError(BundleError):
    """A symbolic link lies in the bundle."""


class FileTypeError(BundleError):
    """Something in the bundle is neither a regular file nor a folder."""


class MissingFileError(BundleError):
    """The manifest lists a file that is not there."""


class ExtraFileError(BundleError):
    """A file is there that the manifest does not list."""


class SizeMismatchError(BundleError):
    """A file is shorter or longer than the manifest says."""


class HashMismatchError(BundleError):
    """A file's bytes are not the ones that the manifest describes."""


class DeviceError(BundleError):
    """The bundle was built for another device, machine or instruction set than this one."""


class WeightsError(BundleError):
    """A safetensors file is malformed, or two shards hold the same tensor."""


class ContentError(BundleError):
    """A file that is whole and listed cannot be what its name says: JSON that does not parse, an id outside the vocabulary."""


class DestinationError(BundleError):
    """The folder to write holds something that is not a bundle, or a file to write cannot be."""


class PlanningOnlyError(BundleError):
    """The bundle was made for planning and holds no weights."""
