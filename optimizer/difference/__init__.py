"""Two bundles side by side: what each decided, and on what evidence."""

from optimizer.difference.compare import Difference, Row, Section, difference_of
from optimizer.difference.facts import Facts

__all__ = ["Difference", "Facts", "Row", "Section", "difference_of"]
