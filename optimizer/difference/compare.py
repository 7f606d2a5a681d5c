"""Facts of two bundles -> what differs, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from artifacts.layer_groups import kind_of
from optimizer.difference.facts import Facts
from optimizer.report.quantities import byte_size, figures, percentage

ABSENT = "none"


@dataclass(frozen=True)
class Row:
    """A fact of both bundles. `change` says how far they are apart, where that is a number."""

    subject: str
    left: str
    right: str
    change: str = ""


@dataclass(frozen=True)
class Section:
    """Facts of one kind: all that differ, and how many more are the same. `note` says how to read them."""

    title: str
    rows: tuple[Row, ...]
    num_same: int = 0
    note: str = ""


@dataclass(frozen=True)
class Difference:
    """Two bundles, A on the left and B on the right."""

    left: Facts
    right: Facts
    sections: tuple[Section, ...]

    @property
    def is_none(self) -> bool:
        """Whether the two are one bundle, byte for byte."""
        return self.left.manifest.digest == self.right.manifest.digest


def difference_of(left: Facts, right: Facts) -> Difference:
    """What differs between two bundles, section by section."""
    a, b = left.manifest, right.manifest
    same_files = [name for name in a.files.keys() & b.files.keys() if a.files[name] == b.files[name]]
    sections = (
        _plan(a.precision.groups, b.precision.groups),
        _section("Kernels", _kernels(left), _kernels(right)),
        _section("Limits", _texts(a.serving.model_dump()), _texts(b.serving.model_dump())),
        _accuracy(left.evaluation, right.evaluation),
        _speed(left.evaluation, right.evaluation),
        _section("Model and device", _identity(left), _identity(right)),
        _section("Evidence", _evidence(left), _evidence(right)),
        _section("Files", _files(left), _files(right), num_same=len(same_files)),
    )
    return Difference(left, right, sections)


def _section(title: str, left: Mapping[str, str], right: Mapping[str, str], num_same: int = 0, note: str = "") -> Section:
    subjects = list(dict.fromkeys((*left, *right)))
    rows = [Row(subject, left.get(subject, ABSENT), right.get(subject, ABSENT)) for subject in subjects]
    differing = tuple(row for row in rows if row.left != row.right)
    return Section(title, differing, num_same or len(rows) - len(differing), note)


def _plan(left: Mapping[str, str], right: Mapping[str, str]) -> Section:
    """Schemes of layer groups; neighbouring layers that changed alike are one row."""
    groups = list(dict.fromkeys((*left, *right)))
    by_kind: dict[str, list[str]] = {}
    for group in groups:
        by_kind.setdefault(kind_of(group), []).append(group)
    rows: list[Row] = []
    for own in by_kind.values():
        pairs = [(group, left.get(group, ABSENT), right.get(group, ABSENT)) for group in own]
        for (one, other), run in groupby(pairs, key=lambda pair: pair[1:]):
            if one != other:
                rows.append(Row(_run([group for group, *_ in run]), one, other))
    num_same = sum(left.get(group) == right.get(group) for group in groups)
    return Section("Plan", tuple(rows), num_same, "The scheme of each layer group; 'same' counts groups.")


def _run(groups: list[str]) -> str:
    """`layers.0.qkv` ... `layers.5.qkv` -> `layers.0-5.qkv`."""
    first, last = groups[0].split("."), groups[-1].split(".")
    return ".".join(one if one == other else f"{one}-{other}" for one, other in zip(first, last, strict=True))


def _kernels(facts: Facts) -> dict[str, str]:
    found: dict[str, str] = {}
    for kernels in facts.manifest.kernels:
        of = kernels.backend
        found |= {f"{of}: {name}": str(value) for name, value in kernels.constants.items()}
        found |= {f"{of}: {symbol}": "called" for symbol in kernels.symbols}
        found[f"{of}: compiler"] = kernels.compiler or ABSENT
        for path in filter(None, (kernels.library, kernels.table)):
            found[f"{of}: machine code"] = facts.manifest.files[path].sha256[:12]
    return found


def _accuracy(left: Mapping[str, Any], right: Mapping[str, Any]) -> Section:
    """Both bundles' figures, whether or not they differ."""
    rows = _both(dict(_accuracies(left)), dict(_accuracies(right)))
    note = "Each against its own unquantized model, on its own texts, with intervals."
    return Section("Accuracy", rows, 0, note)


def _accuracies(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, record in evaluation.get("sets", {}).items():
        for metric in ("kl", "top1_agreement", "perplexity_increase"):
            if isinstance(estimate := record.get(metric), dict):
                yield f"{name}: {metric}", _interval(estimate, is_fraction=metric != "kl")
    for name, record in evaluation.get("item_sets", {}).items():
        for metric, score in record.get("scores", {}).items():
            difference = _interval(score["difference"], is_fraction=True)
            yield f"{name}: {metric}", f"{percentage(score['candidate'])}, over the unquantized model {difference}"
    for name, verdict in evaluation.get("verdicts", {}).items():
        yield f"{name}: gate", str(verdict["outcome"])


def _interval(estimate: Mapping[str, float], *, is_fraction: bool) -> str:
    written = percentage if is_fraction else figures
    return f"{written(estimate['value'])} ({written(estimate['low'])} to {written(estimate['high'])})"


def _speed(left: Mapping[str, Any], right: Mapping[str, Any]) -> Section:
    rows = list(_both(dict(_speeds(left)), dict(_speeds(right))))
    sizes = [evaluation.get("bundle", {}).get("weight_bytes") for evaluation in (left, right)]
    if all(isinstance(size, int) and size for size in sizes):
        one, other = sizes
        rows.append(Row("weights", byte_size(one), byte_size(other), f"{other / one:.3f} x"))
    note = (
        "Each over the unquantized model, in its own run. Milliseconds of two runs are of two machines, or of two days: only "
        "pairs that are measured together can be compared."
    )
    return Section("Speed", tuple(rows), 0, note)


def _speeds(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for phase, speed in evaluation.get("speed", {}).items():
        ratio = speed["speedup"]
        kind = "" if speed.get("measured", True) else ", modelled"
        yield phase, f"{figures(ratio['value'])} x ({figures(ratio['low'])} to {figures(ratio['high'])}){kind}"
        yield f"{phase}: ms", figures(speed["candidate_ms"])


def _identity(facts: Facts) -> dict[str, str]:
    manifest = facts.manifest
    return {
        "name": manifest.name,
        "KV cache": manifest.precision.kv_cache,
        "evaluated": manifest.evaluated,
        "purpose": manifest.purpose,
        "format": manifest.format_version,
        **{f"architecture: {name}": value for name, value in _texts(manifest.architecture.model_dump()).items()},
        **{f"target: {name}": value for name, value in _texts(manifest.target.model_dump()).items()},
    }


def _evidence(facts: Facts) -> dict[str, str]:
    provenance = facts.manifest.provenance.model_dump()
    found = {f"source: {name}": digest[:12] for name, digest in provenance.pop("sources").items()}
    found |= {f"library: {name}": version for name, version in provenance.pop("libraries").items()}
    found |= {f"quantization: {name}": value for name, value in _texts(provenance.pop("quantization")).items()}
    found |= _texts(provenance)
    found |= {f"gate: {name}": str(limit) for name, limit in facts.evaluation.get("gate", {}).items()}
    found |= {f"workload: {name}": str(value) for name, value in facts.evaluation.get("workload", {}).items()}
    return found


def _files(facts: Facts) -> dict[str, str]:
    return {name: f"{record.sha256[:12]}, {byte_size(record.size)}" for name, record in facts.manifest.files.items()}


def _both(left: Mapping[str, str], right: Mapping[str, str]) -> tuple[Row, ...]:
    return tuple(Row(name, left.get(name, ABSENT), right.get(name, ABSENT)) for name in dict.fromkeys((*left, *right)))


def _texts(record: Mapping[str, Any]) -> dict[str, str]:
    return {name: ABSENT if value in (None, (), "") else str(value) for name, value in record.items()}
