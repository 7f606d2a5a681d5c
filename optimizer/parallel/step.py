"""A step of one of several devices: its calls, what it reads and computes, and what it takes in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from artifacts.architecture import Architecture
from artifacts.kv_cache import kv_bytes_per_token
from artifacts.manifest import Limits
from artifacts.precision import KvDtype, Plan
from kernels.gpu.launch import Problem
from optimizer.cost.gpu.problem import filled
from optimizer.cost.gpu_steps import LabelledProblem, StepShapes
from optimizer.parallel.division import Division, of_experts
from optimizer.parallel.exchange import Exchange, Links, exchanges
from runtime.attention_flops import attention_flops


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device. `kv_cache` is what the workload needs; `room` is what may be taken of the device in all."""

    weights: int
    kv_cache: int
    activations: int
    room: int

    @property
    def lacking(self) -> int:
        """0 or less where everything fits."""
        return self.weights + self.kv_cache + self.activations - self.room


@dataclass(frozen=True)
class Step:
    """Of one device: bytes of weights and cache that it must read, operations that it must do, modelled times."""

    num_tokens: int
    read_bytes: float
    flops: float
    compute_ms: float
    exchange_ms: float
    exchanges: tuple[Exchange, ...]

    @property
    def ms(self) -> float:
        return self.compute_ms + self.exchange_ms


@dataclass(frozen=True)
class _Extent:
    """Tokens of a step on all devices and on one; and on one: rows of logits, positions that are read, queries' positions."""

    num_tokens: int
    own_tokens: int
    num_logits: int
    positions: int
    pairs: int


class DeviceSteps:
    """Steps of `plan` under `division`, for the sequences of `limits`, whose chunk is of one prompt. Activations: `act`."""

    def __init__(
        self, division: Division, architecture: Architecture, plan: Plan, kv_dtype: KvDtype, limits: Limits, act: str
    ) -> None:
        self._division, self._architecture, self._plan, self._kv_dtype = division, architecture, plan, kv_dtype
        self._own, self._mixture = division.own(architecture), division.mixture(architecture)
        num_seqs, at_once = division.sequences(limits.max_num_seqs), division.prompts_at_once
        num_blocks = num_seqs * (limits.num_kv_blocks // limits.max_num_seqs)
        own = limits.model_copy(update={"max_num_seqs": num_seqs, "num_kv_blocks": num_blocks})
        joint = limits.model_copy(update={"max_num_batched_tokens": limits.max_num_batched_tokens * at_once})
        self._own_shapes = StepShapes(self._own, plan, kv_dtype, own, act)
        same = division.experts != "whole"
        self._mixture_shapes = self._own_shapes if same else StepShapes(self._mixture, plan, kv_dtype, joint, act)
        self._kv_tokens = num_blocks * limits.kv_block_size

    def memory(self, room: int) -> DeviceMemory:
        """`room` bytes of a device may be taken."""
        return DeviceMemory(
            weights=self._division.weight_bytes(self._architecture, self._plan),
            kv_cache=self._kv_tokens * kv_bytes_per_token(self._own, self._kv_dtype),
            activations=self._own_shapes.buffer_bytes(lambda label: not of_experts(label))
            + self._mixture_shapes.buffer_bytes(of_experts),
            room=room,
        )

    def decode(self, num_seqs: int, context: int, time_us: Callable[[Problem], float], links: Links) -> Step:
        """One token for each of so many sequences, which have `context` tokens each."""
        own = self._division.sequences(num_seqs)
        calls = _joined(self._own_shapes.decode(own), self._mixture_shapes.decode(num_seqs))
        return self._step(calls, _Extent(num_seqs, own, own, own * context, own * context), time_us, links)

    def prefill(self, num_tokens: int, time_us: Callable[[Problem], float], links: Links) -> Step:
        """A prompt of so many tokens, or a chunk of one; where sequences are divided, one on each device."""
        together = num_tokens * self._division.prompts_at_once
        calls = _joined(self._own_shapes.prefill(num_tokens), self._mixture_shapes.prefill(together))
        pairs = num_tokens * (num_tokens + 1) // 2
        return self._step(calls, _Extent(together, num_tokens, 1, num_tokens, pairs), time_us, links)

    def _step(self, calls: list[LabelledProblem], extent: _Extent, time_us: Callable[[Problem], float], links: Links) -> Step:
        sent = tuple(exchanges(self._division, self._architecture, self._plan, extent.num_tokens, extent.num_logits))
        read_bytes, flops = self._work(extent)
        compute_us = sum(time_us(call.problem) for call in calls)
        exchange_us = sum(one.us(self._division.num_devices, links) for one in sent)
        return Step(extent.num_tokens, read_bytes, flops, compute_us / 1e3, exchange_us / 1e3, sent)

    def _work(self, extent: _Extent) -> tuple[float, float]:
        """Bytes of weights and cache that are read, and operations of products and attention, windows as if there were none."""
        stored, moe = self._division.tensor_bytes(self._architecture, self._plan), self._mixture.moe
        share, rows = 1.0, 0
        if moe is not None:
            share = filled(extent.num_tokens, moe.num_experts_per_token, moe.num_experts, 1)[1] / moe.num_experts
            rows = extent.num_tokens * moe.num_experts_per_token
        tied = self._own.tie_embeddings
        reads = sum(size * (share if of_experts(name) else 1) for name, size in stored.items() if tied or not _is_table(name))
        reads += extent.positions * kv_bytes_per_token(self._own, self._kv_dtype)
        flops = 0.0
        for group, (n, k) in self._own.linear_shapes().items():
            if of_experts(group):
                assert moe is not None
                n, k = self._mixture.linear_shapes()[group]
                flops += 2.0 * rows * n / moe.num_experts * k
            elif group == "head" or (group == "embed" and tied):
                flops += 2.0 * extent.num_logits * n * k
            elif group != "embed":
                flops += 2.0 * extent.own_tokens * n * k
        return reads, flops + self._own.num_layers * attention_flops(self._own, 0, extent.own_tokens, extent.pairs)


def _joined(own: list[LabelledProblem], mixture: list[LabelledProblem]) -> list[LabelledProblem]:
    """The calls of a step, those of experts from the second list."""
    return [call for call in own if not of_experts(call.label)] + [call for call in mixture if of_experts(call.label)]


def _is_table(name: str) -> bool:
    """Whether of a tensor only the rows of the step's tokens are read."""
    return name.startswith("embed.")
