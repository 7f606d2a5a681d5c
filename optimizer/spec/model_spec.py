"""model.yaml: what to make a bundle from, for what use, within which limits. `source` alone is enough.

Relative paths are relative to the folder of model.yaml, wherever the command is run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    model_validator,
)

from artifacts.errors import UserError
from artifacts.file_digest import file_sha256
from optimizer.spec.answers_spec import AnswersSpec
from optimizer.spec.evaluation_spec import EvaluationSpec
from optimizer.spec.generation_spec import GenerationSpec
from optimizer.spec.hub_names import advice_on
from optimizer.spec.section import AnyPath, ExistingPath, Section, existing
from optimizer.spec.units import Fraction, Seconds
from search_spaces.located_yaml import Document
from search_spaces.space import counted, device

#: what `source` says where there is no model yet
RANDOM = "random"


def load_spec(path: Path) -> ModelSpec:
    """The specification in the file at `path`; LocatedError names file, line, rule, value and the nearest valid key."""
    return Document.load(path).validate(ModelSpec, context={"folder": path.absolute().parent})


def _several(names: object) -> object:
    """One name as a tuple of it, `none` as an empty one."""
    if isinstance(names, str):
        return () if names == "none" else (names,)
    return tuple(names) if isinstance(names, list) else names


def _source(path: Path, info: ValidationInfo) -> Path:
    if path.name == RANDOM:
        return path
    try:
        return existing(path)
    except ValueError as error:
        assert info.context is not None
        folder: Path = info.context["folder"]
        given = path.relative_to(folder.resolve()).as_posix() if path.is_relative_to(folder.resolve()) else str(path)
        raise ValueError(f"{error}{advice_on(given)}") from None


def known_devices(names: str) -> str:
    """One device, several GPUs separated by commas, or several of one kind, such as 8xh200."""
    listed = [counted(name.strip()) for name in names.split(",")]
    found = [device(name) for _, name in listed]
    if len(found) > 1 and any(count > 1 for count, _ in listed):
        raise UserError(f"several devices of one kind stand alone, got {names!r}; plan for each kind")
    if len(found) > 1 and any(one.kind != "gpu" for one in found):
        raise UserError(f"a bundle is for one device or for several GPUs, got {names!r}")
    if len({one.arch for one in found}) < len(found):
        raise UserError(f"devices of a bundle must differ in architecture, got {names!r}; build a bundle for each")
    return ",".join(f"{count}x{name}" if count > 1 else name for count, name in listed)


#: what a source ends in that is a file, and what is in one that is a folder (of Hugging Face's, or of onnxruntime-genai's)
_FILES, _CONFIGS = (".gguf", ".onnx"), ("config.json", "genai_config.json")


def _plain_name(source: Path) -> str:
    name = source.stem if source.suffix in _FILES else source.name
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-") or "model"


def _not_yet(target_ms: object) -> None:
    if target_ms is not None:
        raise ValueError(
            f"the search does not support a time to first token yet, got {target_ms}; remove the key: itl_ms limits the time "
            "of every step, also those of a prompt"
        )


class CalibrationSpec(Section):
    """What a quantization method looks at activations on. Without `text`, on sequences sampled from the unquantized model."""

    text: tuple[ExistingPath, ...] = ()
    num_sequences: PositiveInt = 64
    tokens_per_sequence: Annotated[int, Field(ge=16)] = 256


class QuantizationSpec(Section):
    """How weights find their codes, in whatever scheme the search gives them."""

    transform: Annotated[
        tuple[Literal["rotation", "awq", "smoothquant"], ...],
        BeforeValidator(_several),
        PlainSerializer(lambda names: ", ".join(names) or "none"),
    ] = ()
    """What is done to the model before, its function left as it is: for all plans of the search the same."""
    method: Literal["rtn", "gptq"] = "rtn"
    clip: bool = False
    """Whether scales may span less than their weights' range, where that lowers the error under the inputs' mean squares."""
    calibration: CalibrationSpec = CalibrationSpec()
    rare_experts: Annotated[Fraction, Field(ge=0, lt=1)] = 0.1
    """Experts that fewer of calibration's tokens go to, as a part of an even share, are kept at a higher precision; 0: none."""

    @model_validator(mode="after")
    def _transforms_go_together(self) -> Self:
        if len(self.transform) > 1 + self.rotates or "rotation" in self.transform[1:]:
            raise ValueError(
                f"a transform is one of them, or rotation and then one of the others; got {', '.join(self.transform)}"
            )
        return self

    @model_validator(mode="after")
    def _calibration_is_used(self) -> Self:
        idle = self.model_fields_set & {"calibration", "rare_experts"}
        if idle and not self.is_calibrated:
            raise ValueError(
                f"rtn without clip uses only the weights; remove {min(idle)}, or choose transform: awq or smoothquant, method: "
                "gptq or clip: true"
            )
        return self

    @property
    def is_calibrated(self) -> bool:
        """Whether weights are scaled or rounded with an eye to the activations that they meet."""
        return self.scales is not None or self.method == "gptq" or self.clip

    @property
    def rotates(self) -> bool:
        return self.transform[:1] == ("rotation",)

    @property
    def scales(self) -> str | None:
        """The transform that scales input channels."""
        return next((name for name in self.transform if name != "rotation"), None)


class GateSpec(Section):
    """Limits that the worse end of each metric's 95 % confidence interval must meet; None sets none. KL in nats per token."""

    max_kl: PositiveFloat | None = None
    max_perplexity_increase: Annotated[Fraction, Field(gt=0, le=1)] | None = None
    min_top1_agreement: Annotated[Fraction, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _sets_a_limit(self) -> Self:
        if self.max_kl is self.max_perplexity_increase is self.min_top1_agreement is None:
            raise ValueError("a gate must set a limit; add max_kl, max_perplexity_increase or min_top1_agreement")
        return self


class WorkloadSpec(Section):
    """The use to be fast for: at most one of `concurrency`, `arrival_rate_rps` and `trace`; without any, one stream."""

    prompt_tokens: PositiveInt = 256
    output_tokens: PositiveInt = 128
    arrival_rate_rps: PositiveFloat | None = None
    trace: ExistingPath | None = None
    concurrency: PositiveInt | None = Field(
        default_factory=lambda given: None if given.get("arrival_rate_rps") or given.get("trace") else 1
    )
    ttft_ms: Annotated[None, BeforeValidator(_not_yet)] = None
    itl_ms: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_kind_of_load(self) -> Self:
        given = {"concurrency": self.concurrency, "arrival_rate_rps": self.arrival_rate_rps, "trace": self.trace}
        if len(names := [name for name, value in given.items() if value is not None]) != 1:
            raise ValueError(f"give one of {', '.join(given)}, got {' and '.join(names) or 'none'}")
        if self.trace and self.model_fields_set & {"prompt_tokens", "output_tokens"}:
            raise ValueError("a trace has its own lengths; remove prompt_tokens and output_tokens")
        return self


class SearchSpec(Section):
    """How long to search, where to keep the study, and which of the plans within the gate to take."""

    trials: PositiveInt = 48
    timeout_s: Seconds | None = Field(default=None, alias="timeout")
    storage: Annotated[str, Field(min_length=1)] | None = None
    """An Optuna storage URL; None is an SQLite file that the command keeps."""
    workers: PositiveInt | None = None
    """Processes on this machine that score trials, while others may join; None scores them here, and lets nobody join."""
    choice: Literal["fastest", "most_accurate", "smallest"] = "fastest"
    space: ExistingPath | None = None
    """Changes to the shipped search space, as `search_spaces.space.load_space` takes them."""


class ModelSpec(Section):
    """A model.yaml. `name` defaults to the source's, `output` to bundles/<name>."""

    source: Annotated[AnyPath, AfterValidator(_source)]
    adapter: ExistingPath | None = None
    """A LoRA's folder, as peft saves it, merged into the source before anything else."""
    config: ExistingPath | None = None
    """The config.json of the shapes to plan for, where `source` is `random`."""
    name: str = Field(default_factory=lambda spec: _plain_name(spec["source"]), pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    target: Annotated[str, AfterValidator(known_devices)] = "cpu"
    activations: Literal["bf16", "f16"] = "bf16"
    """What activations are stored as between kernels, where the target is a GPU."""
    evaluation: EvaluationSpec = EvaluationSpec()
    quantization: QuantizationSpec = QuantizationSpec()
    gate: GateSpec = GateSpec(max_kl=0.05, max_perplexity_increase=0.01)
    workload: WorkloadSpec = WorkloadSpec()
    generation: GenerationSpec = GenerationSpec()
    answers: AnswersSpec = AnswersSpec()
    search: SearchSpec = SearchSpec()
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    output: AnyPath = Field(default_factory=lambda spec: f"bundles/{spec['name']}", validate_default=True)

    @model_validator(mode="after")
    def _source_is_a_model(self) -> Self:
        if self.is_planning != (self.config is not None):
            raise ValueError(
                "source: random plans only for shapes and needs config, the path of a config.json"
                if self.is_planning
                else "config is for source: random; a real source has its own, remove the key"
            )
        is_file = self.source.suffix in _FILES
        if not self.is_planning and not is_file and not any((self.source / name).is_file() for name in _CONFIGS):
            raise ValueError(
                f"source must be a folder with {' or '.join(_CONFIGS)}, or a file that ends in {' or '.join(_FILES)}, got "
                f"{self.source}"
            )
        return self

    @model_validator(mode="after")
    def _calibration_is_not_judged_on(self) -> Self:
        if both := sorted(set(self.quantization.calibration.text) & set(self.evaluation.text)):
            raise ValueError(
                f"calibration text must not be evaluation text, or the result would look better than it is; {both[0]} is both"
            )
        return self

    @model_validator(mode="after")
    def _planning_needs_only_shapes(self) -> Self:
        idle = self.model_fields_set & {"adapter", "evaluation", "quantization", "gate", "generation", "answers", "seed"}
        if self.is_planning and idle:
            raise ValueError(
                f"source: random plans only for shapes: nothing is evaluated, quantized or sampled; remove {min(idle)}"
            )
        return self

    @property
    def is_planning(self) -> bool:
        """Whether there is no model, only its shapes."""
        return self.source.name == RANDOM

    @property
    def devices(self) -> tuple[str, ...]:
        """The kinds of devices that `target` names."""
        return tuple(counted(name)[1] for name in self.target.split(","))

    @property
    def num_devices(self) -> int:
        """Over how many devices, all of one kind, the model is divided."""
        return counted(self.target.split(",")[0])[0]

    def digest(self, sources: Mapping[str, str]) -> str:
        """sha256 of all that determines a measurement or a suggestion: the name of the study that a rerun goes on with.

        `sources` maps the model's files to their sha256. Files count by content, wherever they lie; how long to search,
        where to keep it, which plan to take, what to prove it on, how a server samples, how it reads answers and where to
        write it do not count.
        """
        left_out = {"name", "source", "adapter", "config", "output", "search", "generation", "answers"}
        content = self.model_dump(
            mode="json", exclude=dict.fromkeys(left_out, True) | {"evaluation": {"sets", "max_sequences"}}
        )
        content["evaluation"]["text"] = [file_sha256(path) for path in self.evaluation.text]
        content["quantization"]["calibration"]["text"] = [file_sha256(path) for path in self.quantization.calibration.text]
        content["workload"]["trace"] = self.workload.trace and file_sha256(self.workload.trace)
        content["space"] = self.search.space and file_sha256(self.search.space)
        content["sources"] = dict(sources)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
