"""The manifest: what a bundle is, for which machine, and every byte it holds. FORMAT.md is the norm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from pydantic.functional_validators import AfterValidator

from artifacts.architecture import Architecture
from artifacts.canonical import canonical_json, check_path
from artifacts.errors import BundleError, FormatVersionError, ManifestDigestError, ManifestError
from artifacts.precision import KvDtype, Scheme

FORMAT_VERSION = "1.8"
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
WEIGHTS_FOLDER = "weights"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BundlePath = Annotated[str, AfterValidator(check_path)]
Line = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
BareName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f/\\]+$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Platform(_Record):
    """Where the bundle runs. `machine` is platform.machine() of the compiled kernels, None when it has none."""

    device: Line
    machine: Line | None = None
    isa: Line = "portable"
    cpu_flags: tuple[Line, ...] = ()
    """CPU features that the kernels use, under the names of /proc/cpuinfo; the host must have all of them."""
    archs: tuple[Line, ...] = ()
    """GPU architectures that there are kernels for, such as sm_90; the host's must be one of them. Empty for a CPU."""


class Precision(_Record):
    """A scheme name for each layer group of the architecture, and the dtype of the KV cache."""

    groups: Mapping[str, str]
    kv_cache: KvDtype


class Kernels(_Record):
    """Which entry points one backend serves, and what they were built from."""

    symbols: Annotated[tuple[Line, ...], Field(min_length=1)]
    backend: Literal["cpu", "reference", "gpu"]
    library: BundlePath | None = None
    table: BundlePath | None = None
    """Of frozen GPU kernels: which point each call runs at, and the image of each kernel."""
    constants: Mapping[Line, int] = Field(default_factory=dict)
    compiler: Line | None = None
    activations: Literal["bf16", "f16"] | None = None
    """What activations are stored as between GPU kernels."""

    @model_validator(mode="after")
    def _compiled_kernels_have_their_files(self) -> Self:
        given = {"library": self.library, "table": self.table, "compiler": self.compiler, "activations": self.activations}
        needed = {"cpu": {"library", "compiler"}, "gpu": {"table", "compiler", "activations"}, "reference": set[str]()}
        if {name for name, value in given.items() if value is not None} != needed[self.backend]:
            raise ValueError(
                "backend 'cpu' needs a library and a compiler, backend 'gpu' a table, a compiler and activations, "
                f"backend 'reference' none of them; got {self.backend!r} with {given}"
            )
        return self


class Limits(_Record):
    """Limits that the runtime allocates for. Sizes in tokens unless named otherwise."""

    kv_block_size: PositiveInt
    num_kv_blocks: PositiveInt
    max_num_seqs: PositiveInt
    max_num_batched_tokens: PositiveInt
    max_model_len: PositiveInt
    num_threads: PositiveInt

    @model_validator(mode="after")
    def _a_full_step_fits(self) -> Self:
        if self.kv_block_size % 16:
            raise ValueError(f"kv_block_size must be a multiple of 16, got {self.kv_block_size}")
        if self.num_kv_blocks * self.kv_block_size < self.max_model_len:
            raise ValueError(
                "the KV cache must hold one sequence of max_model_len: num_kv_blocks * kv_block_size is "
                f"{self.num_kv_blocks} * {self.kv_block_size}, max_model_len is {self.max_model_len}"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                "max_num_batched_tokens must be at least max_num_seqs, one token for each sequence that decodes; "
                f"got {self.max_num_batched_tokens} and {self.max_num_seqs}"
            )
        return self


class Quantization(_Record):
    """How weights found their codes, and the sha256 of the token sequences that the method calibrated on.

    `transform` names what was done to the model before; its record is the bundle's file of sha256 `transform_record`.
    """

    method: Line = "rtn"
    calibration: Sha256 | None = None
    transform: Line | None = None
    transform_record: Sha256 | None = None


class Provenance(_Record):
    """What the bundle was made from: enough to make it again, nothing about when or where."""

    sources: Mapping[BareName, Sha256]
    tool_version: Line
    libraries: Mapping[Line, Line]
    seed: int
    study: BareName
    quantization: Quantization = Quantization()


class Answers(_Record):
    """The names of the formats in which the model writes tool calls and thoughts; None: those that its chat template shows."""

    tools: Line | None = None
    reasoning: Line | None = None


class Deployment(_Record):
    """A manifest before its files are written: everything that the maker of a bundle decides."""

    name: BareName
    architecture: Architecture
    target: Platform
    precision: Precision
    kernels: Annotated[tuple[Kernels, ...], Field(min_length=1)]
    serving: Limits
    provenance: Provenance
    answers: Answers = Answers()
    evaluated: Literal["served", "emulated"] = "served"
    """Whether accuracy is that of the kernels that serve, or of an exact emulation of their numerics."""
    purpose: Literal["serving", "planning"] = "serving"
    """A planning bundle has no weights: it was made of shapes alone and cannot be served."""

    @model_validator(mode="after")
    def _plan_covers_the_model(self) -> Self:
        shapes, groups = self.architecture.linear_shapes(), self.precision.groups
        if missing := [group for group in shapes if group not in groups]:
            raise ValueError(f"precision.groups must name a scheme for every layer group; missing {_some(missing)}")
        if unknown := [group for group in groups if group not in shapes]:
            raise ValueError(f"precision.groups names {_some(unknown)}, which the architecture does not have")
        for group, (out_features, in_features) in shapes.items():
            if refusal := Scheme.parse(groups[group]).refusal(out_features, in_features):
                raise ValueError(f"precision.groups.{group}: {groups[group]} is not possible: {refusal}")
        return self

    @model_validator(mode="after")
    def _limits_suit_the_model(self) -> Self:
        if self.serving.max_model_len > self.architecture.max_position:
            raise ValueError(
                "serving.max_model_len must be at most the architecture's max_position; "
                f"got {self.serving.max_model_len} and {self.architecture.max_position}"
            )
        symbols = [symbol for kernels in self.kernels for symbol in kernels.symbols]
        if twice := sorted({symbol for symbol in symbols if symbols.count(symbol) > 1}):
            raise ValueError(f"kernels must serve each symbol once; served twice: {_some(twice)}")
        if self.target.machine is None and any(kernels.library for kernels in self.kernels):
            raise ValueError("target.machine must name the machine that the kernel libraries were compiled for")
        return self


class FileRecord(_Record):
    """Identity of one file. `size` in bytes."""

    sha256: Sha256
    size: NonNegativeInt


class Manifest(Deployment):
    """manifest.json. `digest` is the sha256 of the canonical JSON of all the rest: the identity of the bundle."""

    format_version: str
    files: Mapping[BundlePath, FileRecord]
    digest: Sha256

    @model_validator(mode="after")
    def _needed_files_are_listed(self) -> Self:
        if MANIFEST_NAME in self.files:
            raise ValueError(f"files must not list {MANIFEST_NAME}: its own digest covers it")
        needed = [path for kernels in self.kernels for path in (kernels.library, kernels.table) if path]
        if self.purpose == "serving":
            needed.append(TOKENIZER_NAME)
        if absent := [path for path in needed if path not in self.files]:
            raise ValueError(f"files must list {_some(absent)}")
        if bool(self.weight_files) != (self.purpose == "serving"):
            raise ValueError(f"files must list at least one {WEIGHTS_FOLDER}/*.safetensors, for planning none")
        return self

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Paths of the weight shards, in order."""
        return tuple(p for p in sorted(self.files) if p.startswith(f"{WEIGHTS_FOLDER}/") and p.endswith(".safetensors"))

    @classmethod
    def seal(cls, deployment: Deployment, files: Mapping[str, FileRecord]) -> tuple[Manifest, bytes]:
        """The manifest of a bundle that holds `files`, and the bytes of its manifest.json. Raises like `parse`."""
        content = deployment.model_dump(mode="json")
        content["format_version"] = FORMAT_VERSION
        content["files"] = {path: record.model_dump(mode="json") for path, record in files.items()}
        content["digest"] = hashlib.sha256(canonical_json(content)).hexdigest()
        data = canonical_json(content)
        return cls.parse(data), data

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest in `data`, the bytes of a manifest.json.

        Raises FormatVersionError, ManifestError, ManifestDigestError or PathRuleError.
        """
        content = _canonical_object(data)
        version = content.get("format_version")
        newer_minor = _check_version(version)
        declared = content.pop("digest", None)
        if declared != (actual := hashlib.sha256(canonical_json(content)).hexdigest()):
            raise ManifestDigestError(
                f"{MANIFEST_NAME}: digest must be the sha256 of the rest, {actual}, got {declared!r}; "
                "the file was changed after it was written: copy or build the bundle again",
                MANIFEST_NAME,
            )
        try:
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            raise _manifest_error(error, newer_minor, version) from error


def _canonical_object(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
        canonical = isinstance(content, dict) and canonical_json(content) == data
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{MANIFEST_NAME}: must be JSON: {error}; build the bundle again", MANIFEST_NAME) from error
    if not canonical:
        raise ManifestError(
            f"{MANIFEST_NAME}: must be one JSON object in canonical form (sorted unique keys, two-space indent, ASCII, "
            "one final newline); it was edited: copy or build the bundle again",
            MANIFEST_NAME,
        )
    assert isinstance(content, dict)
    return content


def _check_version(version: object) -> bool:
    """Whether `version` is a newer minor of our format; FormatVersionError if its major is not ours."""
    major, minor = (int(part) for part in FORMAT_VERSION.split("."))
    parts = version.split(".") if isinstance(version, str) else []
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts) or int(parts[0]) != major:
        raise FormatVersionError(
            f"{MANIFEST_NAME}: format_version must be {major}.x, got {version!r}; "
            "use the version of coldforge that wrote the bundle, or build it again",
            MANIFEST_NAME,
        )
    return int(parts[1]) > minor


def _manifest_error(error: ValidationError, newer_minor: bool, version: object) -> BundleError:
    details = error.errors(include_url=False)
    for detail in details:
        if newer_minor and detail["type"] == "extra_forbidden":
            field = ".".join(map(str, detail["loc"]))
            return FormatVersionError(
                f"{MANIFEST_NAME}: format_version {version} has a field {field!r} that {FORMAT_VERSION} does not know; "
                "update coldforge to read it",
                MANIFEST_NAME,
            )
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, BundleError):
            return cause
    rules = "; ".join(
        f"{'.'.join(map(str, detail['loc'])) or 'manifest'}: {detail['msg'].removeprefix('Value error, ')}"
        for detail in details
    )
    return ManifestError(f"{MANIFEST_NAME}: {rules}; build the bundle again", MANIFEST_NAME)


def _some(names: list[str]) -> str:
    """The first few of `names`, for a message."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
