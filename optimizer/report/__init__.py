"""The page that shows what was found and proves it."""

from optimizer.report.data import (
    Headline,
    KernelWinner,
    ReportData,
    SetAccuracy,
    SetItems,
    StepLatency,
    TrialPoint,
)
from optimizer.report.page import render_report

__all__ = ["Headline", "KernelWinner", "ReportData", "SetAccuracy", "SetItems", "StepLatency", "TrialPoint", "render_report"]
