"""From a bundle on disk to an engine that is ready: verify, map, bind. Nothing is compiled and nothing is tuned."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from artifacts.errors import ContentError, ManifestError, UserError
from artifacts.manifest import Answers, Limits, Manifest
from artifacts.precision import Scheme
from artifacts.reader import Bundle, open_bundle
from kernels.cpu.host import host
from kernels.cpu.library import Library
from runtime.chat import ChatTemplate, special_tokens
from runtime.decoder import StepProgram, lay_out, stored_parts
from runtime.engine_core import EngineCore
from runtime.generation_config import check_generation_config, eos_token_ids
from runtime.heap import return_freed_memory
from runtime.model_runner import Executable, ModelRunner, ProgramRunner
from runtime.serving_limits import MAX_QUEUE
from runtime.step_cost import StepCost
from runtime.stored_tensors import check_tensors, tensor_shapes
from runtime.threads import num_threads_here

logger = logging.getLogger(__name__)

_REBUILD = "build the bundle again"
_REPORT = "report.html"


@dataclass(frozen=True)
class Loaded:
    """A served model: its engine, and what turns text into its tokens and back."""

    manifest: Manifest
    engine: EngineCore
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    generation_config: dict[str, Any]
    step_cost: StepCost | None
    report: bytes | None


def load(
    folder: Path,
    num_threads: int | None = None,
    max_queue: int = MAX_QUEUE,
    answers: Answers | None = None,
    try_out: Callable[[Bundle, ModelRunner], object] = lambda bundle, runner: None,
) -> Loaded:
    """Load the bundle at `folder`. BundleError or LibraryRefused if it does not fit.

    `num_threads` overrides the bundle's own, of which no more are used than there are cores here. UserError for threads of a
    bundle that runs on a GPU. `max_queue` sequences may wait beside those that run. `answers`
    names formats that count instead of the bundle's. `try_out` is called before an engine has the runner; what it raises, this
    does.
    """
    bundle, runner = open_runner(folder, num_threads)
    try_out(bundle, runner)
    config = _generation_config(bundle, runner.vocab_size)
    loaded = Loaded(
        manifest=bundle.manifest,
        engine=EngineCore(runner, eos_token_ids(config), max_queue + runner.limits.max_num_seqs),
        tokenizer=_tokenizer(bundle),
        chat_template=_chat_template(bundle, config, answers),
        generation_config=config,
        step_cost=_step_cost(bundle.manifest),
        report=bundle.read(_REPORT) if _REPORT in bundle.manifest.files else None,
    )
    return_freed_memory()
    return loaded


def _step_cost(manifest: Manifest) -> StepCost | None:
    precision = manifest.precision
    return StepCost.of(manifest.architecture, precision.groups, precision.kv_cache, manifest.serving.max_model_len)


def open_runner(folder: Path, num_threads: int | None = None) -> tuple[Bundle, ModelRunner]:
    """The bundle at `folder`, verified, and its step program, ready to run. Raises as `load` does."""
    bundle = open_bundle(folder, machine=host().machine, cpu_flags=host().flags, gpu_arch=_gpu_arch)
    if bundle.manifest.target.archs and num_threads is not None:
        raise UserError(f"threads are for bundles that run on a CPU, this one runs on a GPU; got {num_threads}, leave it out")
    return bundle, _load_gpu_runner(bundle) if bundle.manifest.target.archs else load_runner(bundle, num_threads)


def _gpu_arch() -> str | None:
    """The architecture of the GPU here, None where there is none. Only a bundle for GPUs asks, and pays for torch."""
    from runtime.gpu.loading import host_arch

    return host_arch()


def _load_gpu_runner(bundle: Bundle) -> ModelRunner:
    from runtime.gpu.loading import load_gpu_runner

    return load_gpu_runner(bundle)


def load_runner(bundle: Bundle, num_threads: int | None = None) -> ProgramRunner:
    """The step program of a verified bundle, ready to run. WeightsError or LibraryRefused if its parts do not fit."""
    manifest = bundle.manifest
    plan = {group: Scheme.parse(name) for group, name in manifest.precision.groups.items()}
    check_tensors(bundle.tensors, tensor_shapes(manifest.architecture, plan, stored_parts))
    step = lay_out(manifest.architecture, plan, manifest.precision.kv_cache, bundle.tensors, manifest.serving)
    return ProgramRunner(step, _executable(bundle, step, num_threads or _num_threads(manifest.serving)))


def _num_threads(serving: Limits) -> int:
    here = num_threads_here(serving)
    if here < serving.num_threads:
        logger.warning("num_threads is %d, not the bundle's %d: no more cores may be used here", here, serving.num_threads)
    return here


def _executable(bundle: Bundle, step: StepProgram, num_threads: int) -> Executable:
    called = {call.symbol for call in step.program.calls}
    kernels = next((k for k in bundle.manifest.kernels if called <= set(k.symbols)), None)
    if kernels is None:
        raise ManifestError(
            f"one entry of the manifest's kernels must serve all that is called ({', '.join(sorted(called))}), none does; "
            f"{_REBUILD}"
        )
    if kernels.library is None:
        warnings.warn("this bundle has no compiled kernels: the portable references serve it, slowly, with torch", stacklevel=2)
        from kernels.reference import ReferenceProgram, limit_threads

        limit_threads(num_threads)
        return ReferenceProgram(step.program)
    return Library(bundle.path(kernels.library)).compile(step.program, num_threads)


def _generation_config(bundle: Bundle, vocab_size: int) -> dict[str, Any]:
    name = "generation_config.json"
    if name not in bundle.manifest.files:
        return {}
    try:
        config = json.loads(bundle.read(name))
    except (ValueError, RecursionError) as error:
        raise ContentError(f"{name} must be JSON: {error}; {_REBUILD}", name) from error
    try:
        return check_generation_config(config, vocab_size)
    except UserError as error:
        raise ContentError(f"{error}; correct the model's file and {_REBUILD}", name) from error


def _tokenizer(bundle: Bundle) -> Tokenizer:
    name = "tokenizer.json"
    try:
        return Tokenizer.from_str(bundle.read(name).decode())
    except Exception as error:  # tokenizers raises nothing narrower
        raise ContentError(f"{name} must be a tokenizer: {error}; {_REBUILD}", name) from error


def chat_template_of(source: str | None, config: Mapping[str, Any], answers: Answers | None = None) -> ChatTemplate | None:
    """The template with the special tokens that a generation_config.json names, and the formats of `answers`."""
    if source is None:
        return None
    answers = answers or Answers()
    return ChatTemplate(source, tool_format=answers.tools, reasoning_format=answers.reasoning, **special_tokens(config))


def _chat_template(bundle: Bundle, config: Mapping[str, Any], named: Answers | None) -> ChatTemplate | None:
    name = "chat_template.jinja"
    if name not in bundle.manifest.files:
        return None
    answers = bundle.manifest.answers.model_copy(update={} if named is None else named.model_dump(exclude_none=True))
    try:
        template = chat_template_of(bundle.read(name).decode(), config, answers)
    except (ValueError, RecursionError, SyntaxError) as error:  # Jinja compiles to Python, which has limits of its own
        raise ContentError(f"{name}: {error}; correct the model's file and {_REBUILD}", name) from error
    if template is not None:
        logger.info("tool calls are read as %s, thoughts as %s", *template.formats.names)
    return template
