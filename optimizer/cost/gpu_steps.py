"""The calls of a GPU step as problems, from shapes alone: no weight is read and no buffer is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from artifacts.architecture import Architecture
from artifacts.manifest import Limits
from artifacts.precision import KvDtype, Plan
from kernels import registry
from kernels.gpu.launch import Problem
from kernels.gpu.points import buckets
from kernels.gpu.tensors import TORCH_DTYPES, problem
from runtime.gpu.decoder import lay_out_gpu
from runtime.gpu.program import Counts, GpuCall, GpuProgram, bound
from runtime.gpu.runner import draw_call, rounded_up
from runtime.gpu.weights import stored_parts, to_device
from runtime.stored_tensors import tensor_shapes

_META = torch.device("meta")
#: arguments that are the KV cache, whose size is known without a step
_CACHES = ("cache", "k_cache", "v_cache", "k_scales", "v_scales")


@dataclass(frozen=True)
class LabelledProblem:
    """A call of a step, and the part of the model that it computes."""

    label: str
    problem: Problem


class StepShapes:
    """Every call that a runner of `plan` within `limits` makes; activations are of dtype `act`."""

    def __init__(self, architecture: Architecture, plan: Plan, kv_dtype: KvDtype, limits: Limits, act: str) -> None:
        self._limits = limits
        shapes = {
            name: torch.zeros(shape, dtype=getattr(torch, dtype), device=_META)
            for name, (dtype, shape) in tensor_shapes(architecture, plan, stored_parts).items()
        }
        placed = to_device(shapes, plan, TORCH_DTYPES[act], _META)
        self._weights = {tensor.untyped_storage()._cdata for tensor in placed.values()}
        self.program: GpuProgram = lay_out_gpu(architecture, plan, kv_dtype, placed, limits, TORCH_DTYPES[act], _META)

    def buffer_bytes(self, of: Callable[[str], bool]) -> int:
        """Of the buffers that calls pass on, at their largest, for calls whose label is `of` the kind that is asked for.

        Weights and caches are not among them.
        """
        calls = (call for call in (*self.program.body, *self.program.head) if of(call.label))
        named = ((name, value) for call in calls for name, value in call.arguments.items() if name not in _CACHES)
        storages = (value.untyped_storage() for _, value in named if isinstance(value, torch.Tensor))
        sizes = {storage._cdata: storage.nbytes() for storage in storages}
        return sum(size for key, size in sizes.items() if key not in self._weights)

    def decode(self, num_seqs: int) -> list[LabelledProblem]:
        """One decode step of so many sequences, drawing included."""
        counts = self.program.counts(num_seqs, num_seqs, num_seqs, 1)
        return self._problems((*self.program.body, *self.program.head, draw_call(self.program.logits)), counts)

    def prefill(self, num_tokens: int) -> list[LabelledProblem]:
        """One step over a prompt of so many tokens, or a chunk of one."""
        body = self._problems(self.program.body, self.program.counts(num_tokens, 1, 0, max(2, num_tokens)))
        return [*body, *self._head(1)]

    def served(self) -> Iterator[Problem]:
        """Every call that a runner can make in service: what kernels must be frozen for."""
        limits = self._limits
        seqs = sorted({min(size, limits.max_num_seqs) for size in buckets(limits.max_num_seqs)})
        tokens = sorted(
            {min(rounded_up(n), limits.max_num_batched_tokens) for n in range(1, limits.max_num_batched_tokens + 1)}
        )
        body = _distinct(self.program.body)
        for num_seqs in seqs:
            yield from self._bare(body, self.program.counts(num_seqs, num_seqs, 0, 1))
        attention = [call for call in body if "max_query_len" in call.counters]
        others = [call for call in body if "max_query_len" not in call.counters]
        for num_tokens in tokens:
            yield from self._bare(others, self.program.counts(num_tokens, 1, 0, 2))
            for num_seqs in seqs:
                for query_len in (size for size in buckets(num_tokens) if size > 1):
                    yield from self._bare(attention, self.program.counts(num_tokens, num_seqs, 0, query_len))
        for num_logits in sorted({min(size, self.program.max_num_logits) for size in buckets(self.program.max_num_logits)}):
            yield from (labelled.problem for labelled in self._head(num_logits))

    def _head(self, num_logits: int) -> list[LabelledProblem]:
        calls = (*self.program.head, draw_call(self.program.logits))
        return self._problems(calls, self.program.counts(self._limits.max_num_batched_tokens, 0, num_logits, 0))

    def _problems(self, calls: Iterable[GpuCall], counts: Counts) -> list[LabelledProblem]:
        return [LabelledProblem(call.label, _problem(call, counts)) for call in calls]

    def _bare(self, calls: Iterable[GpuCall], counts: Counts) -> Iterator[Problem]:
        return (_problem(call, counts) for call in calls)


def _problem(call: GpuCall, counts: Counts) -> Problem:
    return problem(registry.spec(call.symbol), bound(call, counts))


def _distinct(calls: Iterable[GpuCall]) -> list[GpuCall]:
    """One of the calls that differ in nothing that a planner sees: layers share their shapes."""
    found: dict[str, GpuCall] = {}
    for call in calls:
        described = {
            name: (value.dtype, tuple(value.shape), tuple(value.stride())) if isinstance(value, torch.Tensor) else repr(value)
            for name, value in call.arguments.items()
            if not callable(value) or isinstance(value, torch.Tensor)
        }
        found.setdefault(f"{call.symbol}{sorted(described.items())}", call)
    return list(found.values())
