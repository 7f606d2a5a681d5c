"""From a bundle on disk to an engine that is ready: verify, map, bind. Nothing is compiled and nothing is tuned."""

from __future__ import annotations

import ctypes
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from artifacts.errors import ManifestError
from artifacts.manifest import Manifest, Serving
from artifacts.precision import Scheme
from artifacts.reader import Bundle, open_bundle
from kernels.cpu.host import host
from kernels.cpu.library import Library
from runtime.chat import ChatTemplate, special_tokens
from runtime.decoder import StepProgram, lay_out, tensor_shapes
from runtime.engine import Engine
from runtime.model_runner import Executable, ModelRunner, ProgramRunner
from runtime.stored_tensors import check_tensors
from runtime.threads import num_threads_here

logger = logging.getLogger(__name__)

_REBUILD = "build the bundle again"


@dataclass(frozen=True)
class Loaded:
    """A served model: its engine, and what turns text into its tokens and back."""

    manifest: Manifest
    engine: Engine
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    generation_config: dict[str, Any]


def load(folder: Path, num_threads: int | None = None) -> Loaded:
    """Load the bundle at `folder`. BundleError or LibraryRefused if it does not fit.

    `num_threads` overrides the bundle's own, of which no more are used than there are cores here. ValueError for threads of a
    bundle that runs on a GPU.
    """
    bundle = open_bundle(folder, machine=host().machine, cpu_flags=host().flags, gpu_arch=_gpu_arch)
    if bundle.manifest.target.archs and num_threads is not None:
        raise ValueError(f"threads are for bundles that run on a CPU, this one runs on a GPU; got {num_threads}, leave it out")
    config = _generation_config(bundle)
    runner = _load_gpu_runner(bundle) if bundle.manifest.target.archs else load_runner(bundle, num_threads)
    loaded = Loaded(
        manifest=bundle.manifest,
        engine=Engine(runner, eos_token_ids(config)),
        tokenizer=Tokenizer.from_str(bundle.read("tokenizer.json").decode()),
        chat_template=chat_template_of(_chat_template(bundle), config),
        generation_config=config,
    )
    _return_freed_memory()
    return loaded


def _return_freed_memory() -> None:
    """Parsing a tokenizer of 49,152 tokens frees 25 MB, which glibc would keep resident for as long as the model is served."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


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
    check_tensors(bundle.tensors, tensor_shapes(manifest.architecture, plan))
    step = lay_out(manifest.architecture, plan, manifest.precision.kv_cache, bundle.tensors, manifest.serving)
    return ProgramRunner(step, _executable(bundle, step, num_threads or _num_threads(manifest.serving)))


def _num_threads(serving: Serving) -> int:
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


def _generation_config(bundle: Bundle) -> dict[str, Any]:
    listed = "generation_config.json" in bundle.manifest.files
    config: dict[str, Any] = json.loads(bundle.read("generation_config.json")) if listed else {}
    return config


def eos_token_ids(config: Mapping[str, Any]) -> list[int]:
    """The tokens at which generation ends, by a generation_config.json."""
    ids = config.get("eos_token_id")
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def chat_template_of(source: str | None, config: Mapping[str, Any]) -> ChatTemplate | None:
    """The template with the special tokens that a generation_config.json names."""
    return None if source is None else ChatTemplate(source, **special_tokens(config))


def _chat_template(bundle: Bundle) -> str | None:
    listed = "chat_template.jinja" in bundle.manifest.files
    return bundle.read("chat_template.jinja").decode() if listed else None
