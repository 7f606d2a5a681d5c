"""The formats of evaluation sets: a small file each, all behind `ItemSet`."""

from optimizer.evaluation.sets.formats import open_set
from optimizer.evaluation.sets.item_set import Calls, Completion, ItemSet, Likelihood, Marked, Question, Reply

__all__ = ["Calls", "Completion", "ItemSet", "Likelihood", "Marked", "Question", "Reply", "open_set"]
