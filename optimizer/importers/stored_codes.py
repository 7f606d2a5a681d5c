"""What becomes of a checkpoint's own quantization under a plan, in words."""

from __future__ import annotations

from artifacts.precision import Plan
from optimizer.formats.stored_matrix import Misfit
from optimizer.importers.source import Source

_NUM_NAMED = 4


def describe_stored_codes(source: Source, plan: Plan) -> list[str]:
    """Which layer groups keep the codes and scales that they came with, and which are quantized again, and why.

    Empty where nothing came quantized. Reads the checkpoint's codes once.
    """
    kept: list[str] = []
    rounded: dict[str, float] = {}
    again: dict[str, list[str]] = {}
    for group, scheme in plan.items():
        found = source.stored(group, scheme)
        if isinstance(found, Misfit):
            again.setdefault(f"{scheme.name}: {found.reason}", []).append(group)
        elif found is not None and found.rounding:
            rounded[group] = found.rounding
        elif found is not None:
            kept.append(group)
    lines = [f"codes and scales kept as in the checkpoint: {', '.join(kept)}"] if kept else []
    if rounded:
        change = f"(by {max(rounded.values()):.1e} of the weights' norm)"
        lines.append(f"codes kept as in the checkpoint, fp32 scales rounded to fp16 {change}: {', '.join(rounded)}")
    return lines + [f"quantized again to {reason}: {_named(groups)}" for reason, groups in again.items()]


def _named(groups: list[str]) -> str:
    """The first few, and how many more: a GGUF file gives the same reason for every layer."""
    rest = len(groups) - _NUM_NAMED
    return ", ".join(groups[:_NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
