"""A short name for a precision plan, for the keys of records."""

from __future__ import annotations

import hashlib

from artifacts.precision import Plan


def plan_digest(plan: Plan) -> str:
    """The first 16 digits of the sha256 of every group's scheme, whatever their order."""
    named = sorted((group, scheme.name) for group, scheme in plan.items())
    return hashlib.sha256(repr(named).encode()).hexdigest()[:16]
