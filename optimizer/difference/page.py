"""A difference as one self-contained page: no script, no request."""

from __future__ import annotations

from optimizer.difference.compare import Difference
from optimizer.report.page import report_environment


def render_difference(difference: Difference) -> str:
    """The page; the same bytes for the same difference."""
    return report_environment().get_template("difference.html.jinja").render(difference=difference)
