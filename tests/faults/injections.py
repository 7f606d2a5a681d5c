"""Ways to put a fault into a draft: into stored parts, the manifest, files, the step program, the sources of a kernel."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime.loading
import runtime.scoring
from artifacts.precision import Scheme
from artifacts.weights import Array
from kernels import registry
from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.formats.table import cpu_packing
from kernels.spec import Call
from runtime.batch import Batch, Span, build_batch
from tests.faults.bench import Draft

Parts = dict[str, Array]
#: changes a draft; the path is a folder for files of its own
Inject = Callable[[Draft, pytest.MonkeyPatch, Path], None]


def stored(group: str, change: Callable[[Parts], Mapping[str, Array]]) -> Inject:
    """Replace logical parts of a layer group: codes [N, K], scales [N] or [N, K/G], zeros [N, K/G]."""

    def inject(draft: Draft, _: pytest.MonkeyPatch, __: Path) -> None:
        scheme = Scheme.parse(draft.description["precision"]["groups"][group])
        num_rows, _k = draft.architecture.linear_shapes()[group]
        packing = cpu_packing(scheme.variant)
        packed = {tensor.name: draft.tensors[f"{group}.{tensor.name}"] for tensor in packing.tensors}
        parts = packing.unpack(packed, num_rows)
        changed = {name: np.ascontiguousarray(array) for name, array in (parts | dict(change(parts))).items()}
        repacked = packing.pack(changed)
        draft.tensors |= {f"{group}.{part}": array for part, array in repacked.items()}

    return inject


def rows_moved(group: str, order: Callable[[int], Array]) -> Inject:
    """The rows of a matrix in another order: `order` of their number gives it."""
    return stored(group, lambda parts: {name: array[order(len(array))] for name, array in parts.items()})


def exchanged(one: str, other: str) -> Inject:
    """Two groups of one shape and scheme in each other's place."""

    def inject(draft: Draft, _: pytest.MonkeyPatch, __: Path) -> None:
        for part in ("codes", "scales", "zeros", "weight"):
            a, b = f"{one}.{part}", f"{other}.{part}"
            if a in draft.tensors:
                draft.tensors[a], draft.tensors[b] = draft.tensors[b], draft.tensors[a]

    return inject


def tensor(name: str, change: Callable[[Array], Array]) -> Inject:
    """Replace a tensor as it is stored."""

    def inject(draft: Draft, _: pytest.MonkeyPatch, __: Path) -> None:
        draft.tensors[name] = change(draft.tensors[name])

    return inject


def without(name: str) -> Inject:
    def inject(draft: Draft, _: pytest.MonkeyPatch, __: Path) -> None:
        del draft.tensors[name]

    return inject


def described(*path: str, value: object) -> Inject:
    """Another value in the manifest, which is sealed with it."""

    def inject(draft: Draft, _: pytest.MonkeyPatch, __: Path) -> None:
        *folders, last = path
        at: dict[str, Any] = draft.description
        for name in folders:
            at = at[name]
        at[last] = value

    return inject


def text_file(name: str, change: Callable[[str], str]) -> Inject:
    """Another text in a file of the bundle, which is hashed with it."""

    def inject(draft: Draft, _: pytest.MonkeyPatch, __: Path) -> None:
        content = draft.files[name]
        assert isinstance(content, bytes)
        changed = change(content.decode())
        assert changed != content.decode(), "a fault changes something"
        draft.files[name] = changed.encode()

    return inject


def tokenizer(change: Callable[[dict[str, Any]], None]) -> Inject:
    """Another tokenizer.json."""

    def edit(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return text_file("tokenizer.json", edit)


def damaged(damage: Callable[[Path], None]) -> Inject:
    """Something that happens to the folder after it is written."""
    return lambda draft, _, __: draft.damages.append(damage)


def rewired(label: str, **arguments: Callable[[Mapping[str, Call]], object]) -> Inject:
    """Other arguments for the call `label` of the step program, found among its calls by label."""

    def inject(_: Draft, patch: pytest.MonkeyPatch, __: Path) -> None:
        lay_out = runtime.loading.lay_out

        def faulty(*given: Any) -> Any:
            step = lay_out(*given)
            by_label = {call.label: call for call in step.program.calls}
            changed = {name: find(by_label) for name, find in arguments.items()}
            calls = tuple(
                replace(call, arguments={**call.arguments, **changed}) if call.label == label else call
                for call in step.program.calls
            )
            return replace(step, program=replace(step.program, calls=calls))

        patch.setattr(runtime.loading, "lay_out", faulty)

    return inject


def batched(change: Callable[[Batch, Span], Batch]) -> Inject:
    """Other arrays for each step that scores a text."""

    def inject(_: Draft, patch: pytest.MonkeyPatch, __: Path) -> None:
        patch.setattr(runtime.scoring, "build_batch", lambda spans, size: change(build_batch(spans, size), spans[0]))

    return inject


def mutated_kernel(op: str, right: str, wrong: str) -> Inject:
    """The library built from sources in which one line of `op` is wrong."""

    def inject(draft: Draft, patch: pytest.MonkeyPatch, folder: Path) -> None:
        sources = registry.sources
        texts = {path.name: path.read_text() for path in sources(op)}
        assert sum(text.count(right) for text in texts.values()) == 1, f"{right!r} must be in the source of {op} once"
        mutants = tuple(folder / name for name in texts)
        for mutant in mutants:
            mutant.write_text(texts[mutant.name].replace(right, wrong))
        patch.setattr(registry, "sources", lambda name: mutants if name == op else sources(name))
        draft.files["kernels/cpu.so"] = build({}, folder / "mutant.so", best_isa(host()))

    return inject


def items_file(change: Callable[[list[str]], str]) -> Inject:
    """The set of items cut or changed, line by line."""

    def inject(draft: Draft, _: pytest.MonkeyPatch, folder: Path) -> None:
        lines = draft.items.read_text().splitlines(keepends=True)
        draft.items = folder / "choices.jsonl"
        draft.items.write_text(change(lines))

    return inject
