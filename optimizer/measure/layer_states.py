"""Plan after plan over the same texts: layers before the first that differs from the last plan's are not computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from artifacts.precision import Plan
from kernels.cpu.library import CompiledProgram
from kernels.spec import Array, CpuCall, Program
from runtime.decoder import StepProgram


@dataclass
class LayerStates:
    """What enters each layer in a step over some texts, under the plan that ran it last.

    It depends on the embedding's scheme and on those of the layers before, bit for bit on nothing else (decision 0002). Takes
    2 x tokens x hidden size in fp32 for each layer; a step over other texts, or on something else, takes its place.
    """

    _subject: tuple[object, ...] = ()
    _plan: Plan = field(default_factory=dict)
    _entering: list[list[Array]] = field(default_factory=list)

    def run(
        self, step: StepProgram, plan: Plan, subject: tuple[object, ...], compiled: Callable[[Program], CompiledProgram]
    ) -> None:
        """Runs `step`, whose inputs are filled, from the first layer that is not known on.

        `subject` says what all but the plan is: the texts and what they run on. Of the KV cache only the part of layers that
        ran is written.
        """
        calls = step.program.calls
        begins = [0, *_layer_begins(calls)]
        known = self._num_known(plan, subject)
        num_tokens = int(step.program.counters["num_tokens"][0])
        if known:
            for array, saved in zip(_arrays(calls[begins[known]]), self._entering[known - 1], strict=True):
                array[:num_tokens] = saved
        self._subject, self._plan, self._entering = subject, dict(plan), self._entering[:known]
        program = compiled(Program(calls[begins[known] :], step.program.counters))
        for begin, end in zip(begins[known:], begins[known + 1 :], strict=False):
            program.run_part(begin - begins[known], end - begins[known])
            self._entering.append([array[:num_tokens].copy() for array in _arrays(calls[end])])
        program.run_part(begins[-1] - begins[known], len(calls) - begins[known])

    def _num_known(self, plan: Plan, subject: tuple[object, ...]) -> int:
        """How many layers are behind the last state that `plan` shares."""
        if len(subject) != len(self._subject) or any(
            a is not b and a != b for a, b in zip(subject, self._subject, strict=True)
        ):
            return 0
        differing = (group for group, scheme in plan.items() if self._plan.get(group) != scheme)
        return min((_layer_of(group, len(self._entering)) for group in differing), default=len(self._entering))


def _layer_of(group: str, num_layers: int) -> int:
    """The layer whose state is the last before `group` counts; what comes behind all layers is behind `num_layers`."""
    kind, _, rest = group.partition(".")
    if kind == "layers":
        return min(int(rest.partition(".")[0]), num_layers)
    return num_layers if kind == "head" else 0


def _layer_begins(calls: Sequence[CpuCall]) -> Iterator[int]:
    """Where each layer but the first begins."""
    layer = 0
    for index, call in enumerate(calls):
        if call.label.startswith(f"layers.{layer + 1}."):
            layer += 1
            yield index


def _arrays(call: CpuCall) -> list[Array]:
    """What enters a layer, where its first call reads it: the last branch, and the residual stream that it joins."""
    found = (call.arguments.get(name) for name in ("x", "residual"))
    return [array.reshape(len(array), -1) for array in found if isinstance(array, np.ndarray)]
