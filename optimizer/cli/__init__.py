"""The commands `optimize` and `coldforge`."""

from optimizer.cli.commands import coldforge, optimize

__all__ = ["coldforge", "optimize"]
