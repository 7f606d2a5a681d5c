"""A bundle on this machine: what its decode costs at the peaks that are measured here, beside what a client saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import UserError
from artifacts.manifest import Manifest
from artifacts.reader import Bundle, open_bundle, read_manifest
from kernels.cpu.host import host
from kernels.cpu.library import Library
from runtime.bench.bound import DecodeBound, Peaks, decode_bound
from runtime.bench.client import ClosedLoop
from runtime.bench.peaks import measure_peaks
from runtime.bench.surface import Point
from runtime.threads import num_threads_here

DEFINITIONS = {
    "bytes_per_token": "Weights once per step, shared by its batch; own keys and values.",
    "flops_per_token": "Two per multiply-add of matrices and attention, floating point and int8 together.",
    "memory_ms": "The least time of a step at the measured read bandwidth, if arithmetic cost nothing.",
    "compute_ms": "The least time of a step at the measured arithmetic peaks, if reading cost nothing.",
    "bound": "The larger of the two.",
    "balance_batch_size": "Where compute overtakes memory at this context; null if never.",
    "context_len": "Of the middle of an answer: the prompt and half of the output tokens.",
    "itl_p50_of_floor": "The client's median inter-token latency as a multiple of the larger of the two.",
}


@dataclass(frozen=True)
class Roofline:
    """Measured peaks, and the bundle whose decode they bound."""

    manifest: Manifest
    peaks: Peaks

    def of(self, point: Point) -> DecodeBound:
        """The bound of a step in which all clients of `point`, a closed loop, decode at once."""
        assert isinstance(point.load, ClosedLoop)
        return decode_bound(
            self.manifest.architecture,
            self.manifest.precision.groups,
            self.manifest.precision.kv_cache,
            self.peaks,
            batch_size=min(point.load.concurrency, self.manifest.serving.max_num_seqs),
            context_len=round(point.mean_prompt_tokens) + point.num_output_tokens // 2,
        )

    def as_json(self, points: Sequence[Point]) -> dict[str, Any]:
        """The bound of each point as plain JSON data, in the order of `points`."""
        return {"peaks": asdict(self.peaks), "definitions": DEFINITIONS, "points": [self._entry(point) for point in points]}

    def _entry(self, point: Point) -> dict[str, Any]:
        bound, itl = self.of(point), point.summary.itl_ms
        where = {"num_prompt_tokens": point.num_prompt_tokens, "load": asdict(point.load)}
        return where | asdict(bound) | {"itl_p50_of_floor": None if itl is None else itl.p50 / bound.floor_ms}


def open_here(folder: Path) -> tuple[Bundle, Peaks]:
    """A bundle for this machine, and this machine's peaks through its kernels at its number of threads.

    Raises BundleError or LibraryRefused if the bundle does not fit, UserError if it has no compiled kernels or runs on a GPU.
    """
    if read_manifest(folder).target.archs:
        raise UserError(
            f"peaks are measured of a CPU, and {folder} runs on a GPU; python -m benchmarks.gpu_roofline is for its kernels"
        )
    bundle = open_bundle(folder, machine=host().machine, cpu_flags=host().flags)
    (kernels,) = bundle.manifest.kernels
    if kernels.library is None:
        raise UserError(f"{folder} has no compiled kernels to measure arithmetic with; build it where there is a compiler")
    return bundle, measure_peaks(Library(bundle.path(kernels.library)), num_threads_here(bundle.manifest.serving))
