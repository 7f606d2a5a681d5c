"""A short name for a precision plan, for the keys of records."""

from __future__ import annotations

import hashlib

from artifacts.precision import KvDtype, Plan


def plan_digest(plan: Plan, kv_dtype: KvDtype | None = None) -> str:
    """The first 16 digits of the sha256 of every group's scheme, whatever their order, then the KV cache's dtype if given."""
    named = sorted((group, scheme.name) for group, scheme in plan.items())
    digest = hashlib.sha256(repr(named).encode()).hexdigest()[:16]
    return digest if kv_dtype is None else f"{digest}-{kv_dtype}"
