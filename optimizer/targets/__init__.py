"""The devices that bundles are made for."""

from optimizer.targets.opening import open_target, target_identity, target_layout
from optimizer.targets.target import Frozen, TargetStages

__all__ = ["Frozen", "TargetStages", "open_target", "target_identity", "target_layout"]
