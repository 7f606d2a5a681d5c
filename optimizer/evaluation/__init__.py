"""Accuracy of a candidate against the unquantized baseline, with intervals, and the gate on it."""

from optimizer.evaluation.baseline import BaselineStore
from optimizer.evaluation.confidence import Estimate
from optimizer.evaluation.evaluation import Evaluation, Score, evaluate
from optimizer.evaluation.gate import Check, Gate, Verdict
from optimizer.evaluation.metrics import NonFiniteLogitsError, SequenceScore, compare
from optimizer.evaluation.text import text_sequences

__all__ = [
    "BaselineStore",
    "Check",
    "Estimate",
    "Evaluation",
    "Gate",
    "NonFiniteLogitsError",
    "Score",
    "SequenceScore",
    "Verdict",
    "compare",
    "evaluate",
    "text_sequences",
]
