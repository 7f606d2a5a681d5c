"""The devices that bundles are made for."""

from optimizer.targets.devices import offered_schemes, open_target, target_fingerprint, target_layout, with_own_schemes
from optimizer.targets.target import Frozen, TargetStages

__all__ = [
    "Frozen",
    "TargetStages",
    "offered_schemes",
    "open_target",
    "target_fingerprint",
    "target_layout",
    "with_own_schemes",
]
