"""What a compiled kernel says against a point, and what it adds to the model of its time."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf

from kernels.compile.static_record import StaticRecord
from kernels.gpu.launch import Launch
from kernels.gpu.target import Target
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.resources import StaticFacts
from optimizer.tuning.gpu.time_model import Modelled
from optimizer.tuning.gpu.tuned_call import StaticSummary

#: How much faster than memory a kernel that memory binds must be able to issue; widening 4-bit codes takes instructions.
_BOUND, _WIDENING_BOUND = 1.3, 1.2
_WIDENING = ("quant_matmul_int4", "moe_matmul_int4", "float4_matmul", "moe_matmul_float4")


@dataclass(frozen=True)
class Verdict:
    """`refusal` says why a kernel is not taken at all; `reservation` why it is taken only where all others have one too."""

    summary: StaticSummary
    facts: StaticFacts
    refusal: str | None = None
    reservation: str | None = None


def static_facts(record: StaticRecord, launch: Launch) -> StaticFacts:
    """A record as the time models take it. Instructions are those of the loop that streams, or of all where there is no loop;
    if a loop does not say how much it streams, it is unknown how often it runs."""
    mix = record.hot_loop.mix if record.hot_loop else record.mix
    counted = bool(launch.streamed_bytes) == bool(record.hot_loop)
    return StaticFacts(
        registers=record.registers,
        loop_instructions=mix.total if counted else None,
        spill_instructions=mix.count("spill"),
        shared_bytes=record.shared_bytes,
        blocks_per_sm=record.occupancy.blocks or None,
    )


def judge(record: StaticRecord, launch: Launch, modelled: Modelled, gpu: GpuFacts, target: Target) -> Verdict:
    """The main kernel of a point. Refused for what `unfit` says, and without the wgmma that its time takes for granted.

    An issue bound too near the bandwidth is a reservation: where memory binds such a kernel is slow, but right.
    """
    ratio = issue_bound_ratio(record, launch, gpu)
    summary = StaticSummary(
        registers=record.registers,
        spills=record.spills,
        shared_bytes=record.shared_bytes,
        blocks_per_sm=record.occupancy.blocks,
        occupancy=record.occupancy.fraction,
        issue_bound_ratio=ratio,
        uses_wgmma=record.uses_wgmma,
    )
    refusal, reservation = unfit(record, target), None
    if refusal is None and modelled.expects_wgmma and not modelled.is_memory_bound and not record.uses_wgmma:
        refusal = "its tile is one for wgmma, and the compiler did not use it"
    needed = _WIDENING_BOUND if launch.function.startswith(_WIDENING) else _BOUND
    if modelled.is_memory_bound and ratio is not None and ratio < needed:
        reservation = f"it issues instructions for {ratio:.2f} of the memory bandwidth, and memory binds it"
    return Verdict(summary, static_facts(record, launch), refusal, reservation)


def unfit(record: StaticRecord, target: Target) -> str | None:
    """Why a kernel is not taken, whatever it is for: it spills, or it cannot launch."""
    if record.spills:
        return f"{record.spills} instructions spill registers"
    if record.shared_bytes > target.arch.max_shared_bytes:
        return f"{record.shared_bytes} bytes of shared memory are more than {target.arch.max_shared_bytes}"
    if not record.occupancy.blocks:
        return f"not one block fits on an SM, for its {record.occupancy.limit}"
    return None


def issue_bound_ratio(record: StaticRecord, launch: Launch, gpu: GpuFacts) -> float | None:
    """How fast instructions alone let the hot loop stream, over the bandwidth of memory."""
    if not launch.streamed_bytes or record.hot_loop is None:
        return None
    bound = record.issue_bound(clock_ghz=gpu.clock_ghz, num_sms=gpu.num_sms, bytes_per_iteration=launch.streamed_bytes)
    return None if isinf(bound) else bound / (gpu.memory_bandwidth_gbps * 1e9)
