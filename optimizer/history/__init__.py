"""What many nights found, as series: where they moved, and what changed with them."""

from optimizer.history.history import History, histories_of

__all__ = ["History", "histories_of"]
