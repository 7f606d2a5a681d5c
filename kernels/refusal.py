"""What kernels do not run with or on. `kernels` imports no other package, so its errors have a base of their own."""

from __future__ import annotations


class Refusal(ValueError):
    """What was given, or this machine, does not suit the kernels. The text says what to change: a command shows no more."""
