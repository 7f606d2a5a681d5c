"""A plan for several devices of one kind: what each holds, computes and sends. It is no bundle: nothing here runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from artifacts.canonical import canonical_json
from artifacts.errors import UserError
from artifacts.manifest import Limits
from artifacts.plan_folder import write_plan
from artifacts.precision import KvDtype, Plan
from optimizer.cost.modelled import PREFILL_TOKENS
from optimizer.measure.workload import Workload
from optimizer.parallel.division import Division, divisions
from optimizer.parallel.exchange import LINK_FIGURES, Links
from optimizer.parallel.fewest import GIB, fewest_devices
from optimizer.parallel.step import DeviceMemory, DeviceSteps, Step
from optimizer.report.devices_page import render_devices
from optimizer.run.planning import uniform_plans
from optimizer.stages.job import Job
from optimizer.targets.gpu import GpuTarget
from search_spaces.space import device


@dataclass(frozen=True)
class Divided:
    """A uniform plan, divided in one way: what each device holds, a step of the workload, a prompt's first chunk."""

    scheme: str
    division: Division
    memory: DeviceMemory
    decode: Step
    prefill: Step
    ms_per_token: float
    """As one request sees it, its prompt spread over the tokens that follow."""

    @property
    def title(self) -> str:
        return f"{self.scheme}, {self.division.title}"


@dataclass(frozen=True)
class Divider:
    """Divides plans of `job` for `workload`; `links` join its devices."""

    job: Job
    target: GpuTarget
    workload: Workload
    links: Links
    kv_dtype: KvDtype

    def candidates(self) -> tuple[list[Divided], Mapping[str, str]]:
        """Every uniform plan in every way that it can be divided; and the others, each with the reason."""
        architecture, found, refused = self.job.source.architecture, [], {}
        for scheme, plan in uniform_plans(self.job).items():
            for division in divisions(architecture, self.job.spec.num_devices):
                if reason := division.refusal(architecture, plan):
                    refused[f"{scheme}, {division.title}"] = reason
                else:
                    found.append(self._divided(scheme, plan, division))
        return sorted(found, key=lambda one: one.ms_per_token), refused

    def _divided(self, scheme: str, plan: Plan, division: Division) -> Divided:
        load = self.workload
        chunk, context = min(load.prompt_tokens, PREFILL_TOKENS), load.prompt_tokens + load.output_tokens // 2
        steps = DeviceSteps(division, self.job.source.architecture, plan, self.kv_dtype, self._limits(), self.target.act)
        decode = steps.decode(load.concurrency, context, self.target.time_us, self.links)
        prefill = steps.prefill(chunk, self.target.time_us, self.links)
        ms = decode.ms + load.prompt_tokens / chunk * prefill.ms / load.output_tokens
        return Divided(scheme, division, steps.memory(self.target.room_bytes), decode, prefill, ms)

    def _limits(self) -> Limits:
        """Just the room that the workload needs."""
        load, block_size = self.workload, self.job.space.serving.kv_block_size[0]
        tokens = load.prompt_tokens + load.output_tokens
        return Limits(
            kv_block_size=block_size,
            num_kv_blocks=load.concurrency * -(-tokens // block_size),
            max_num_seqs=load.concurrency,
            max_num_batched_tokens=max(min(load.prompt_tokens, PREFILL_TOKENS), load.concurrency),
            max_model_len=tokens,
            num_threads=1,
        )


def plan_for_several(job: Job) -> None:
    """Takes the fastest (or the smallest) of what fits, and writes the plan and its page to the specification's output."""
    spec, say, found = job.spec, job.reporter.say, device(job.spec.devices[0])
    assert isinstance(job.target, GpuTarget)
    architecture = job.source.architecture
    divider = Divider(job, job.target, _workload(job), Links.of(found, spec.num_devices), job.target.kv_dtypes(architecture)[0])
    load = divider.workload
    job.target.expect(load)
    say(f"{spec.name}: shapes of {architecture.family}, {spec.num_devices} x {found.title}; times are modelled")
    say(f"workload: {load.prompt_tokens} tokens in, {load.output_tokens} out, {load.concurrency} at once")
    candidates, refused = divider.candidates()
    for one in candidates:
        lack = f", lacks {one.memory.lacking / GIB:.1f} GiB on each" if one.memory.lacking > 0 else ""
        say(f"  {one.title}: {one.ms_per_token:.3f} ms a token, {one.memory.weights / GIB:.1f} GiB of weights on each{lack}")
    for title, reason in refused.items():
        say(f"  {title}: not possible: {reason}")
    fitting = [one for one in candidates if one.memory.lacking <= 0]
    if not fitting:
        raise UserError(_nothing_fits(job, candidates, refused))
    smallest = spec.search.choice == "smallest"
    chosen = min(fitting, key=lambda one: one.memory.weights if smallest else one.ms_per_token)
    content = _content(divider, chosen, candidates, refused)
    write_plan(spec.output, canonical_json(content), render_devices(content).encode())
    say(
        f"chosen: {chosen.title}; this is a plan and no bundle, since nothing here serves a model on several devices: "
        f"{spec.output}"
    )


def _workload(job: Job) -> Workload:
    asked, longest = job.spec.workload, job.source.architecture.max_position
    if asked.concurrency is None:
        raise UserError("a plan for several devices is for a concurrency; give workload.concurrency")
    output_tokens = min(asked.output_tokens, longest - 1)
    return Workload(min(asked.prompt_tokens, longest - output_tokens), output_tokens, asked.concurrency)


def _nothing_fits(job: Job, candidates: Sequence[Divided], refused: Mapping[str, str]) -> str:
    spec = job.spec
    if not candidates:
        title, reason = next(iter(refused.items()))
        return f"{spec.name} cannot be divided among {spec.num_devices} devices ({title}: {reason}); choose another count"
    least, memory = (best := min(candidates, key=lambda one: one.memory.lacking)).title, best.memory
    needed = (memory.room + memory.lacking) / GIB
    return (
        f"{spec.name} must fit {spec.target}, which has {memory.room / GIB:.1f} GiB on each device; {least} needs "
        f"{needed:.1f} GiB on each ({memory.weights / GIB:.1f} of weights, {memory.kv_cache / GIB:.1f} of KV cache for the "
        f"workload){fewest_devices(job.source.architecture, uniform_plans(job), memory.room, device(spec.devices[0]))}"
    )


def _content(divider: Divider, chosen: Divided, candidates: Sequence[Divided], refused: Mapping[str, str]) -> dict[str, object]:
    job, found = divider.job, device(divider.job.spec.devices[0])
    stated = {name: figure for name in LINK_FIGURES if (figure := getattr(found, name)) is not None}
    return {
        "name": job.spec.name,
        "purpose": "a plan for several devices; times are modelled, and nothing here runs it",
        "device": found.name,
        "device_title": found.title,
        "num_devices": job.spec.num_devices,
        "workload": asdict(divider.workload),
        "kv_cache": divider.kv_dtype,
        "links": {name: {"value": figure.value, "source": found.sources[figure.source]} for name, figure in stated.items()},
        "chosen": chosen.title,
        "candidates": [_plain(one, divider) for one in candidates],
        "not_possible": dict(refused),
        "provenance": {"study": job.study_name, "coldforge": version("coldforge"), "sources": dict(job.sources)},
    }


def _plain(one: Divided, divider: Divider) -> dict[str, object]:
    def step(found: Step) -> dict[str, object]:
        sent = [asdict(e) | {"ms": e.us(one.division.num_devices, divider.links) / 1e3} for e in found.exchanges]
        return asdict(found) | {"exchanges": sent, "ms": found.ms}

    return {
        "title": one.title,
        "scheme": one.scheme,
        "division": asdict(one.division),
        "memory_per_device": asdict(one.memory) | {"lacking": one.memory.lacking},
        "decode_step": step(one.decode),
        "prefill_step": step(one.prefill),
        "ms_per_token": one.ms_per_token,
        "tokens_per_second": 1e3 * divider.workload.concurrency / one.decode.ms,
    }
