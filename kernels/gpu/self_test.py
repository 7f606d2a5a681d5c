"""A few small calls whose results were recorded when the kernels were frozen, run again where they are loaded.

`self_test.npz` holds the calls as JSON and, output by output, what the reference computed in fp64; the error that a kernel may
make is in the JSON. Inputs are not kept: the op's spec draws them again from the seed, and a digest tells whether it drew the
same. No GPU has run it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from kernels import registry
from kernels.gpu.launch import OpPlan, Problem
from kernels.gpu.oracle import Expected, Values, expected, outputs, values
from kernels.gpu.refusals import SelfTestFailed, TableRefused
from kernels.gpu.target import Target
from kernels.gpu.tensors import problem
from kernels.gpu.tuning import Point
from kernels.spec import Arguments, Case, OpSpec

FILE = "self_test.npz"

Run: TypeAlias = Callable[[OpPlan, Mapping[str, torch.Tensor | None]], None]


@dataclass(frozen=True)
class Check:
    """A call to try: an entry point with activations of dtype `act`, sizes, the tuning point, and the seed of its inputs."""

    symbol: str
    act: str
    case: Case
    point: Point
    seed: int = 0

    def plan(self, target: Target) -> tuple[Problem, OpPlan]:
        """Its call and its launches on `target`: what must be frozen for it."""
        spec, arguments = self.inputs()
        call = problem(spec, values(spec, arguments))
        return call, registry.plan_call(call, target, self.point)

    def record(self) -> Recorded:
        """What the reference computes for it."""
        spec, arguments = self.inputs()
        return Recorded(self, _digest(spec, values(spec, arguments)), expected(spec, arguments))

    def inputs(self) -> tuple[OpSpec, Arguments]:
        """Its entry point and what is drawn for it."""
        spec = registry.spec(self.symbol).typed(self.act)
        return spec, spec.make_inputs(np.random.default_rng(self.seed), self.case)

    def __str__(self) -> str:
        return f"{self.symbol} in {self.act}, {self.case.name} {dict(self.case.sizes)} at {dict(self.point)}"


@dataclass(frozen=True)
class Recorded:
    """A check with the digest of its inputs and what it must compute, by output."""

    check: Check
    inputs_sha256: str
    expected: Mapping[str, Expected]

    def failures(self, run: Run, target: Target, device: torch.device | str) -> list[str]:
        """What `run` gets wrong."""
        spec, arguments = self.check.inputs()
        made = values(spec, arguments)
        if _digest(spec, made) != self.inputs_sha256:
            return [f"its inputs are not those that were recorded (numpy is {np.__version__}); freeze with this version"]
        _, plan = self.check.plan(target)
        placed = {t.name: _placed(v, device) if isinstance(v := made[t.name], torch.Tensor) else None for t in spec.tensors}
        run(plan, placed)
        found = []
        for name, written in outputs(spec, {**made, **placed}).items():
            of = self.expected[name]
            # Not `>`: an error that is not a number is one.
            if not (error := of.error(written)) <= of.allowed:
                found.append(f"{name} is off by {error:.3g}, allowed are {of.allowed:.3g}")
        return found


def self_test(run: Run, recorded: Iterable[Recorded], target: Target, device: torch.device | str = "cuda") -> None:
    """Runs every recorded call on `device` through `run`, such as a Launcher's or an Interpreter's.

    SelfTestFailed names each call that computes something else. `run` must be ordered with torch's current stream.
    """
    failed = [f"{one.check}: {failure}" for one in recorded for failure in one.failures(run, target, device)]
    if failed:
        listed = "\n  ".join(failed)
        raise SelfTestFailed(f"frozen kernels must compute what the reference did; on this device they do not:\n  {listed}")


def write(recorded: Sequence[Recorded], folder: Path) -> None:
    """Into `folder`, as self_test.npz; the same records give the same bytes."""
    described: list[dict[str, object]] = []
    results = []
    for one in recorded:
        check = one.check
        described.append(
            {
                "symbol": check.symbol,
                "act": check.act,
                "case": {"name": check.case.name, "sizes": dict(check.case.sizes)},
                "point": dict(check.point),
                "seed": check.seed,
                "inputs_sha256": one.inputs_sha256,
                "allowed": [[name, of.allowed] for name, of in one.expected.items()],
            }
        )
        results += [of.values.numpy() for of in one.expected.values()]
    text = json.dumps(described, sort_keys=True).encode()
    np.savez(folder / FILE, np.frombuffer(text, np.uint8), *results)


def read(folder: Path) -> list[Recorded]:
    """What `write` wrote; TableRefused for anything else."""
    path = folder / FILE
    try:
        with np.load(path, allow_pickle=False) as stored:
            described, *results = (stored[f"arr_{index}"] for index in range(len(stored.files)))
        rest = iter(results)
        return [_recorded(fields, rest) for fields in json.loads(described.tobytes())]
    except (OSError, ValueError, KeyError, TypeError, EOFError, StopIteration, zipfile.BadZipFile) as error:
        raise TableRefused(f"{path} must hold recorded results: {type(error).__name__}: {error}") from error


def _recorded(fields: Mapping[str, Any], results: Iterator[Any]) -> Recorded:
    case = Case(fields["case"]["name"], fields["case"]["sizes"])
    check = Check(fields["symbol"], fields["act"], case, fields["point"], fields["seed"])
    outcome = {name: Expected(torch.from_numpy(next(results)), float(allowed)) for name, allowed in fields["allowed"]}
    return Recorded(check, fields["inputs_sha256"], outcome)


def _placed(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    # Strides are constants of kernels, and `to` would not keep those of a view.
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device).copy_(tensor)


def _digest(spec: OpSpec, made: Values) -> str:
    digest = hashlib.sha256()
    for tensor in spec.tensors:
        value = made[tensor.name]
        if isinstance(value, torch.Tensor):
            digest.update(f"{tensor.name} {tuple(value.shape)} {value.stride()} ".encode())
            digest.update(value.contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    digest.update(json.dumps({scalar.name: made[scalar.name] for scalar in spec.scalars}).encode())
    return digest.hexdigest()
