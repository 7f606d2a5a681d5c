"""The workload that a run is for: what model.yaml says, within what the model and the search space allow."""

from __future__ import annotations

from artifacts.precision import Plan
from optimizer.measure.workbench import Workbench
from optimizer.measure.workload import Workload, resolve_workload
from optimizer.records.ledger import Ledger
from optimizer.spec import WorkloadSpec
from optimizer.targets.target import TargetStages


def fitted_workload(
    spec: WorkloadSpec, target: TargetStages, workbench: Workbench, baseline: Plan, ledger: Ledger, most_seqs: int
) -> Workload:
    """An arrival rate becomes a concurrency by how long the unquantized model takes for one request on `target`."""
    max_position = workbench.architecture.max_position

    def request_seconds(prompt_tokens: int, output_tokens: int) -> float:
        alone = Workload(min(prompt_tokens, 256), output_tokens, 1)

        def measure() -> list[float]:
            decode = target.step(workbench, baseline, alone, 1, decodes=True)
            prefill = target.step(workbench, baseline, alone, alone.prompt_tokens, decodes=False)
            return [decode.ms, prefill.ms]

        decode_ms, prefill_ms = ledger.once(f"workload/{prompt_tokens}/{output_tokens}", measure)
        return (prefill_ms * prompt_tokens / alone.prompt_tokens + decode_ms * output_tokens) / 1000

    workload = resolve_workload(spec, request_seconds)
    room = max_position - min(workload.output_tokens, max_position // 2)
    return Workload(
        prompt_tokens=min(workload.prompt_tokens, room),
        output_tokens=min(workload.output_tokens, max_position - 1),
        concurrency=min(workload.concurrency, most_seqs),
    )
