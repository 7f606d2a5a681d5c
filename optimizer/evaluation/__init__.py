"""Accuracy of a candidate against the unquantized baseline on texts and items, with intervals, and the gate on it."""

from optimizer.evaluation.baseline import BaselineLogits, BaselineStore, FreshLogits
from optimizer.evaluation.comparison import Comparison, compare_all, compare_on
from optimizer.evaluation.confidence import Estimate
from optimizer.evaluation.evaluation import Evaluation, Score, evaluate
from optimizer.evaluation.gate import Check, Fidelity, Gate, Metric, NonInferiority, Verdict
from optimizer.evaluation.looks import Look
from optimizer.evaluation.metrics import NonFiniteLogitsError, NoScore, SequenceScore, compare
from optimizer.evaluation.paired import Paired, least_items
from optimizer.evaluation.sandbox import SandboxUnavailable
from optimizer.evaluation.sets import ItemSet, open_set
from optimizer.evaluation.subject import Subject
from optimizer.evaluation.text import evenly_spaced, spread, text_sequences
from optimizer.evaluation.text_comparison import TextComparison, compare_on_text, text_looks

__all__ = [
    "BaselineLogits",
    "BaselineStore",
    "Check",
    "Comparison",
    "Estimate",
    "Evaluation",
    "Fidelity",
    "FreshLogits",
    "Gate",
    "ItemSet",
    "Look",
    "Metric",
    "NoScore",
    "NonFiniteLogitsError",
    "NonInferiority",
    "Paired",
    "SandboxUnavailable",
    "Score",
    "SequenceScore",
    "Subject",
    "TextComparison",
    "Verdict",
    "compare",
    "compare_all",
    "compare_on",
    "compare_on_text",
    "evaluate",
    "evenly_spaced",
    "least_items",
    "open_set",
    "spread",
    "text_looks",
    "text_sequences",
]
