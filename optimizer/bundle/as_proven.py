"""That a written bundle is what was proved: part by part what it says and holds, number by number what it computes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.precision import KvDtype, Plan
from artifacts.reader import Bundle
from artifacts.weights import Array
from optimizer.evaluation import Evaluation
from optimizer.importers import Source

_CHUNK_BYTES = 1 << 24


class NotAsProvenError(UserError):
    """A bundle is, or computes, something else than the plan that was proved: a fault came in between, whatever it costs."""

    def __init__(self, difference: str) -> None:
        super().__init__(
            f"the bundle must be what was proved, but {difference}; it must not be served. The same command writes it again "
            "and measures nothing twice; if that does not help, delete its workspace"
        )


def check_described(bundle: Bundle, architecture: Architecture, plan: Plan, kv_dtype: KvDtype) -> None:
    """NotAsProvenError unless the manifest describes the network, schemes and KV cache that were proved.

    Texts alone would not do: a window, or a scaled rotation, that begins beyond the longest one does not show in its scores.
    """
    manifest = bundle.manifest
    _check_same("the architecture's", manifest.architecture.model_dump(), architecture.model_dump())
    _check_same("the scheme of", manifest.precision.groups, {group: scheme.name for group, scheme in plan.items()})
    _check_same("the", {"kv_cache": manifest.precision.kv_cache}, {"kv_cache": kv_dtype})


def check_prompts(bundle: Bundle, source: Source) -> None:
    """NotAsProvenError unless the bundle turns texts and chats into tokens, and ends replies, as `source` says."""
    for name, text in (("tokenizer.json", source.tokenizer_json), ("chat_template.jinja", source.chat_template)):
        if (bundle.read(name).decode() if name in bundle.manifest.files else None) != text:
            raise NotAsProvenError(f"{name} is not the source's")
    _check_same("generation_config.json:", json.loads(bundle.read("generation_config.json")), source.generation_config)


def check_kernels(bundle: Bundle, files: Mapping[str, bytes | Path]) -> None:
    """NotAsProvenError unless the bundle has the kernels' `files`, byte for byte."""
    for name, content in files.items():
        if bundle.read(name) != (content if isinstance(content, bytes) else content.read_bytes()):
            raise NotAsProvenError(f"{name} is not the one that was measured")


def check_tensors(bundle: Bundle, expected: Mapping[str, Array]) -> None:
    """NotAsProvenError unless the bundle has these tensors and no others, bit for bit.

    Texts alone would not do: they never look up most rows of an embedding.
    """
    if differing := sorted(bundle.tensors.keys() ^ expected.keys()):
        raise NotAsProvenError(f"the tensor {differing[0]} is {'missing' if differing[0] in expected else 'not among its own'}")
    for name, array in expected.items():
        if not _same_bits(bundle.tensors[name], array):
            raise NotAsProvenError(f"the tensor {name} has other values")


def check_scores(found: Mapping[str, Evaluation], proven: Mapping[str, Evaluation]) -> None:
    """NotAsProvenError unless every text of `proven` is scored alike, to 9 digits.

    What a text costs does not depend on the step that it is computed in (decision 0002), so any difference is a fault.
    """
    for name, expected in proven.items():
        if found[name].record() != expected.record():
            raise NotAsProvenError(f"on {name} its KL is {found[name].kl.value:.9g} nats for {expected.kl.value:.9g}")


def _same_bits(one: Array, other: Array) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    a, b = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return all(np.array_equal(a[i : i + _CHUNK_BYTES], b[i : i + _CHUNK_BYTES]) for i in range(0, a.size, _CHUNK_BYTES))


def _check_same(what: str, found: Mapping[str, object], proven: Mapping[str, object]) -> None:
    for name in sorted(found.keys() | proven.keys()):
        if name not in found or name not in proven or found[name] != proven[name]:
            is_value, was_value = (repr(values[name]) if name in values else "missing" for values in (found, proven))
            raise NotAsProvenError(f"{what} {name} is {is_value}, was {was_value}")
