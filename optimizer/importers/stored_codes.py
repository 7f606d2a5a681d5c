"""What becomes of a checkpoint's own quantization under a plan, in words."""

from __future__ import annotations

from artifacts.precision import Plan
from optimizer.importers.source import Source
from optimizer.importers.stored_matrix import Misfit


def describe_stored_codes(source: Source, plan: Plan) -> list[str]:
    """Which layer groups keep the codes and scales that they came with, and which are quantized again, and why.

    Empty where nothing came quantized. Reads the checkpoint's codes once.
    """
    kept: list[str] = []
    again: dict[str, list[str]] = {}
    for group, scheme in plan.items():
        found = source.stored(group, scheme)
        if isinstance(found, Misfit):
            again.setdefault(f"{scheme.name}: {found.reason}", []).append(group)
        elif found is not None:
            kept.append(group)
    lines = [f"codes and scales kept as the checkpoint has them: {', '.join(kept)}"] if kept else []
    return lines + [f"quantized again to {reason}: {', '.join(groups)}" for reason, groups in again.items()]
