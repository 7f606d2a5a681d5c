"""The devices that bundles are made for."""

from optimizer.targets.devices import offered_schemes, open_target, target_identity, target_layout
from optimizer.targets.target import Frozen, TargetStages
from optimizer.targets.workload import fitted_workload

__all__ = ["Frozen", "TargetStages", "fitted_workload", "offered_schemes", "open_target", "target_identity", "target_layout"]
