"""Whether weights and a block of the KV cache fit the target's memory: asked before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping

from artifacts.errors import UserError
from artifacts.kv_cache import kv_bytes_per_token
from artifacts.layer_groups import kind_of
from artifacts.precision import Plan, plan_bytes
from optimizer.measure.workbench import Workbench
from optimizer.parallel.fewest import GIB, fewest_devices
from optimizer.stages.job import Job
from search_spaces.space import device


def lacking_bytes(job: Job, workbench: Workbench, plan: Plan) -> int:
    """How much memory the target lacks for the weights of `plan` and one block of the KV cache; 0 or less where they fit."""
    block_bytes = workbench.kv_block_size * kv_bytes_per_token(workbench.architecture, workbench.kv_dtype)
    return block_bytes - job.target.cache_bytes(workbench, plan)


def fitting(job: Job, workbench: Workbench, plans: Mapping[str, Plan]) -> Mapping[str, Plan]:
    """Those of the named `plans` that fit. UserError, with what the smallest needs, if none does."""
    lacking = {name: lacking_bytes(job, workbench, plan) for name, plan in plans.items()}
    if left := {name: plan for name, plan in plans.items() if lacking[name] <= 0}:
        return left
    least = min(lacking, key=lambda name: lacking[name])
    weight_bytes = plan_bytes(plans[least], workbench.architecture.linear_shapes())
    there = job.target.cache_bytes(workbench, plans[least]) + weight_bytes
    raise UserError(
        f"{job.spec.name} must fit {job.spec.target}, which has {there / GIB:.1f} GiB for weights and KV cache; {least} needs "
        f"{(there + lacking[least]) / GIB:.1f} GiB ({weight_bytes / GIB:.1f} of weights){_advice(job, plans, there)}"
    )


def _advice(job: Job, plans: Mapping[str, Plan], room: float) -> str:
    found = device(job.spec.devices[0])
    if found.kind != "gpu" or len(job.spec.devices) > 1:
        return "; choose a device with more memory"
    return fewest_devices(job.source.architecture, plans, int(room), found)


def smallest_plan(job: Job) -> Plan:
    """For each layer group the scheme of the fewest bits that it is searched over, the unquantized one among them."""
    return {
        group: min((*job.offered[kind_of(group)], lossless), key=lambda scheme: scheme.bits_per_weight)
        for group, lossless in job.lossless.items()
    }
