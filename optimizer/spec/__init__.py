"""model.yaml, checked."""

from optimizer.spec.evaluation_spec import EvaluationSpec, SetSpec
from optimizer.spec.model_spec import (
    CalibrationSpec,
    ModelSpec,
    QuantizationSpec,
    SearchSpec,
    WorkloadSpec,
    known_devices,
    load_spec,
)
from optimizer.spec.units import parse_duration

__all__ = [
    "CalibrationSpec",
    "EvaluationSpec",
    "ModelSpec",
    "QuantizationSpec",
    "SearchSpec",
    "SetSpec",
    "WorkloadSpec",
    "known_devices",
    "load_spec",
    "parse_duration",
]
