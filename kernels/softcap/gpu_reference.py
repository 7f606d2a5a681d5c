"""Logits within a bound, in the dtype of the logits."""

from __future__ import annotations

from kernels.softcap.reference import softcap as gpu_softcap

__all__ = ["gpu_softcap"]
