"""Every layer group in every scheme that the search asks for: quantized once, kept on disk, mapped when used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from artifacts.precision import Scheme
from artifacts.weights import Array, map_tensors, write_shard
from kernels.cpu.host import host
from optimizer.importers import Source
from optimizer.quantization import ROUND_TO_NEAREST, Method, QuantizedMatrix
from optimizer.quantization.packed import CPU_LAYOUT, Layout
from optimizer.weights.rare_experts import RareExperts

_FP32_PRODUCTS = 2.0**-22
"""Values are products that were rounded to fp32, before and after their scales were rounded."""


class QuantizedStore:
    """Packed weights of `source` under `folder`: a trial's plan is then a mapping of mapped files, and copies nothing.

    Stores of several methods may share a folder: float schemes are the same in all of them. Takes as much disk as the model
    in each scheme that was asked for; memory stays near one matrix a core, and what `method` needs for it.
    """

    def __init__(
        self,
        source: Source,
        folder: Path,
        layout: Layout = CPU_LAYOUT,
        method: Method = ROUND_TO_NEAREST,
        rare: Sequence[RareExperts] = (),
    ) -> None:
        self.architecture = source.architecture
        self.method = method
        self.source = source
        #: experts that `method` calibrated on hardly any token
        self.rare = rare
        self._folder = folder
        self._layout = layout
        #: of the last plan: the next one often differs in a single group
        self._mapped: dict[Path, dict[str, Array]] = {}

    def depends_on(self, schemes: Iterable[Scheme]) -> dict[str, object]:
        """What tensors in `schemes` follow from beside the checkpoint, as plain data: a method rounds to no float one."""
        is_rounded = any(not scheme.is_float for scheme in schemes)
        known: dict[str, object] = {"transforms": self._transforms, "method": self.method.key if is_rounded else None}
        moe = self.architecture.moe
        return known | {"rare_experts": moe.rare_experts} if moe and moe.rare_experts else known

    @cached_property
    def _transforms(self) -> list[dict[str, object]]:
        return self.source.transforms()

    def plan_tensors(self, plan: Mapping[str, Scheme]) -> dict[str, Array]:
        """All tensors of the model under `plan`, named as in a bundle."""
        paths = [self._quantized(group, scheme) for group, scheme in plan.items()]
        self._mapped = {path: self._mapped[path] if path in self._mapped else map_tensors(path) for path in paths}
        return self.float_tensors() | {name: array for tensors in self._mapped.values() for name, array in tensors.items()}

    def group_tensors(self, group: str, scheme: Scheme) -> dict[str, Array]:
        """The packed parts of one layer group."""
        return map_tensors(self._quantized(group, scheme))

    def weight_bytes(self, plan: Mapping[str, Scheme]) -> int:
        """Of all tensors under `plan`."""
        return sum(tensor.nbytes for tensor in self.plan_tensors(plan).values())

    def relative_error(self, group: str, scheme: Scheme) -> float:
        """||W - Q|| / ||W|| of one layer group's weights."""
        path = self._quantized(group, scheme).with_suffix(".json")
        return float(json.loads(path.read_text())["relative_rms"])

    def float_tensors(self) -> dict[str, Array]:
        """Gains and biases, which every plan keeps in fp32."""
        path = self._folder / "float.safetensors"
        if not path.exists():
            names = self.source.architecture.float_shapes()
            self._write(path, {name: self.source.tensor(name).to(torch.float32).numpy() for name in names})
        return map_tensors(path)

    def prepare(self, schemes: Mapping[str, Iterable[Scheme]], on_group: Callable[[], object] = lambda: None) -> None:
        """Makes what is not there yet of each group in each of its schemes; `on_group` is called after each group.

        Groups are rounded to nearest on all cores, a group to a core; what calibrates takes them one after the other.
        """

        def make(item: tuple[str, Iterable[Scheme]]) -> None:
            group, wanted = item
            missing = [s for s in dict.fromkeys(map(self._layout.storage, wanted)) if not self._path(group, s).exists()]
            if missing:
                weight = self._weight(group)
                for scheme in missing:
                    self._make(group, scheme, weight)
            on_group()

        if self.method is not ROUND_TO_NEAREST:
            for item in schemes.items():
                make(item)
            return
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(host().num_cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for _ in pool.map(make, schemes.items()):
                    pass
        finally:
            torch.set_num_threads(num_threads)

    def _quantized(self, group: str, scheme: Scheme) -> Path:
        scheme = self._layout.storage(scheme)
        path = self._path(group, scheme)
        if not path.exists():
            self._make(group, scheme, self._weight(group))
        return path

    def _path(self, group: str, scheme: Scheme) -> Path:
        folder = self._folder if scheme.is_float else self._folder / self.method.key
        return folder / scheme.name / f"{group}.safetensors"

    def _weight(self, group: str) -> torch.Tensor:
        return self.source.tensor(f"{group}.weight").to(torch.float32)

    def _make(self, group: str, scheme: Scheme, weight: torch.Tensor) -> None:
        path, stored = self._path(group, scheme), self.source.stored(group, scheme)
        matrix = stored if isinstance(stored, QuantizedMatrix) else self.method.quantize(group, weight, scheme)
        # The sidecar goes first: a group counts as done when its tensors are there.
        path.parent.mkdir(parents=True, exist_ok=True)
        error = matrix.error(weight).relative_rms
        if isinstance(stored, QuantizedMatrix):
            allowed = stored.rounding + _FP32_PRODUCTS if stored.rounding else 0.0
            assert error <= allowed, f"{group}: what the checkpoint stores is what it is read as"
        path.with_suffix(".json").write_text(json.dumps({"relative_rms": error}))
        self._write(path, {f"{group}.{part}": array for part, array in self._layout.pack(matrix).items()})

    def _write(self, path: Path, tensors: Mapping[str, Array]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            write_shard(file, {name: np.ascontiguousarray(array) for name, array in tensors.items()})
        partial.replace(path)
