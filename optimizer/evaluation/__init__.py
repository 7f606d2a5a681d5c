"""Accuracy of a candidate against the unquantized baseline on texts and items, with intervals, and the gate on it."""

from optimizer.evaluation.baseline import BaselineStore
from optimizer.evaluation.comparison import Comparison, compare_all, compare_on
from optimizer.evaluation.confidence import Estimate
from optimizer.evaluation.evaluation import Evaluation, Score, evaluate
from optimizer.evaluation.gate import Check, Fidelity, Gate, Metric, NonInferiority, Verdict
from optimizer.evaluation.metrics import NonFiniteLogitsError, NoScore, SequenceScore, compare
from optimizer.evaluation.paired import Paired, least_items
from optimizer.evaluation.sandbox import SandboxUnavailable
from optimizer.evaluation.sets import ItemSet, open_set
from optimizer.evaluation.subject import Subject
from optimizer.evaluation.text import text_sequences

__all__ = [
    "BaselineStore",
    "Check",
    "Comparison",
    "Estimate",
    "Evaluation",
    "Fidelity",
    "Gate",
    "ItemSet",
    "Metric",
    "NoScore",
    "NonFiniteLogitsError",
    "NonInferiority",
    "Paired",
    "SandboxUnavailable",
    "Score",
    "SequenceScore",
    "Subject",
    "Verdict",
    "compare",
    "compare_all",
    "compare_on",
    "evaluate",
    "least_items",
    "open_set",
    "text_sequences",
]
