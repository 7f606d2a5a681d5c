"""The formats of evaluation sets: a small file each, all behind `ItemSet`."""

from optimizer.evaluation.sets.item_set import Completion, ItemSet, Likelihood, Marked, Question, Reply
from optimizer.evaluation.sets.opening import open_set

__all__ = ["Completion", "ItemSet", "Likelihood", "Marked", "Question", "Reply", "open_set"]
