"""Runs a program through the ops' references: the oracle of the tests, and what serves where nothing can be compiled."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import registry
from kernels.spec import Argument, Program, Tensor


class ReferenceProgram:
    """A program over torch views of its buffers: `run()` has the effect of the compiled one, within rounding."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._calls = [
            (
                registry.spec(call.symbol),
                registry.reference(call.symbol),
                views(call.symbol, call.arguments),
                call.counters,
            )
            for call in program.calls
        ]

    def run(self) -> None:
        """Runs every call in order with the counters as they are now."""
        self.profile_ms()

    def profile_ms(self) -> NDArray[np.float64]:
        """As `run`, and returns the milliseconds that each call took."""
        counts = {name: int(counter[0]) for name, counter in self._program.counters.items()}
        ends = [time.perf_counter()]
        with torch.inference_mode():
            for spec, reference, arguments, counters in self._calls:
                sizes = {axis: counts[counter] for axis, counter in counters.items()}
                reference(**spec.cut(arguments, sizes))
                ends.append(time.perf_counter())
        return np.diff(ends) * 1e3


def limit_threads(count: int) -> None:
    """torch uses at most `count` threads from now on: its own choice knows no quota."""
    torch.set_num_threads(min(torch.get_num_threads(), count))


def views(symbol: str, arguments: Mapping[str, Argument]) -> dict[str, object]:
    """The arguments of a reference: torch views of the arrays, bf16 typed as such, None for tensors left out, scalars."""
    spec = registry.spec(symbol)
    tensors = {tensor.name: _view(tensor, arguments.get(tensor.name)) for tensor in spec.tensors}
    return {**tensors, **{scalar.name: arguments[scalar.name] for scalar in spec.scalars}}


def _view(tensor: Tensor, value: Argument) -> torch.Tensor | None:
    if value is None:
        return None
    assert isinstance(value, np.ndarray)
    with warnings.catch_warnings():
        # A bundle's tensors are mapped read-only, and no reference writes what is "in".
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        view = torch.from_numpy(value)
    return view.view(torch.bfloat16) if tensor.dtype == "bf16" else view
