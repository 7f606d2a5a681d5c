"""The order of a run's stages: a job in, the facts of a proven bundle out."""

from __future__ import annotations

from dataclasses import replace

from optimizer.bundle.forged import Forged
from optimizer.importers import describe_stored_codes
from optimizer.search.bands import plan_of
from optimizer.search.items import open_sets, source_prompts
from optimizer.search.warm_start import kv_dtype_of
from optimizer.stages.accuracy import KvCacheStage, SensitivityStage, judge_on
from optimizer.stages.job import Job
from optimizer.stages.kernels import CostStage, KernelStage
from optimizer.stages.limits import LimitStage
from optimizer.stages.memory import fitting, smallest_plan
from optimizer.stages.proof import ProofStage
from optimizer.stages.search import SearchStage
from optimizer.stages.texts import TextStage
from optimizer.stages.weights import WeightStage
from optimizer.weights.rare_experts import described


def forge(job: Job) -> Forged:
    """Every stage in turn; NothingPasses if no plan is within the gate."""
    spec, target, say = job.spec, job.target, job.reporter.say
    job.ledger.used.clear()  # what was asked for before is not of this bundle
    prompts = source_prompts(job.source)
    sets = open_sets(spec.evaluation, prompts, spec.seed, job.reporter)
    say(f"{spec.name}: {job.base.architecture.family}, {target.title}, study {job.study_name}")
    for note in (*job.source.checkpoint.notes(), *job.source.notes):
        say(note)
    untuned = target.workbench(job.original)
    fitting(job, untuned, {"its smallest plan": smallest_plan(job)})
    text_stage = TextStage(job, prompts, untuned)
    texts = text_stage.run()
    store = WeightStage(job, text_stage.calibration).run()
    job, untuned = job.on(store.source), untuned.on(store)
    judge = judge_on(job, untuned, texts.search, texts.own)
    kv_losses = KvCacheStage(job, judge).run()
    kernels = KernelStage(job, replace(untuned, kv_dtype=next(iter(kv_losses)))).run()
    cost = CostStage(job, kernels, list(kv_losses)).run()
    judge = replace(judge, workbench=kernels.workbench)
    sensitivities = SensitivityStage(job, judge).run()
    last_looks = {name: text.looks[-1] for name, text in texts.proof.items()}
    searched = SearchStage(job, judge, last_looks, sensitivities, kv_losses, cost).run()
    proof = judge_on(job, kernels.workbench, {name: text.first for name, text in texts.proof.items()}, texts.own)
    proven = ProofStage(job, proof, texts.proof, searched, prompts, sets).run()
    workbench = replace(kernels.workbench, kv_dtype=kv_dtype_of(proven.trial.choice))
    chosen = plan_of(searched.bands, proven.trial.choice)
    plan = {group: chosen[group] for group in job.lossless}
    stored_codes = tuple(describe_stored_codes(store.source, plan))
    for line in (*stored_codes, *described(store.rare, store.architecture, plan)):
        say(line)
    workload = kernels.workload
    limits = LimitStage(target, job.space.serving, job.reporter, workbench, plan, workload, spec.workload.itl_ms)
    serving, surface = limits.run()
    pair = job.unquantized(workbench), (workbench, plan)
    decode_speed = target.compare("decode", *pair, workload)
    prefill_speed = target.compare("prefill", *pair, workload)
    frozen = target.freeze(workbench, plan, serving)
    return Forged(
        job=job,
        kernels=kernels,
        kv_losses=kv_losses,
        sensitivities=sensitivities,
        searched=searched,
        proof=proof,
        proven=proven,
        workbench=workbench,
        plan=plan,
        stored_codes=stored_codes,
        serving=serving,
        surface=surface,
        records=dict(job.ledger.used),
        decode_speed=decode_speed,
        prefill_speed=prefill_speed,
        frozen=frozen,
    )
