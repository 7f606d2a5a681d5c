"""Stage: the weights that plans are made of, transformed and rounded as the specification says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from optimizer.stages.job import Job
from optimizer.targets import target_layout
from optimizer.weights.prepared_weights import prepared_weights
from optimizer.weights.quantized_store import QuantizedStore


@dataclass(frozen=True)
class WeightStage:
    """`calibration` gives the sequences to calibrate on; it is asked where something is calibrated."""

    job: Job
    calibration: Callable[[], Sequence[Sequence[int]]]

    def run(self) -> QuantizedStore:
        job, layout = self.job, target_layout(self.job.spec.devices)
        quantization, folder = job.spec.quantization, job.base_folder
        if quantization.is_calibrated or job.has_static_activations:
            store = prepared_weights(
                job.base, quantization, job.scaled, self.calibration(), folder, layout, job.reporter, job.has_static_activations
            )
        else:
            store = QuantizedStore(job.base, folder / "weights", layout)
        transforms = [str(record["transform"]) for record in store.source.transforms()]
        job.reporter.say(f"weights by {', then '.join([*transforms, store.method.name])}")
        if store.architecture.tie_embeddings != job.source.architecture.tie_embeddings:
            more = prod(store.architecture.linear_shapes()["head"])
            job.reporter.say(f"the head is no longer tied to the embedding: {more:,} more weights than in the checkpoint")
        return store
