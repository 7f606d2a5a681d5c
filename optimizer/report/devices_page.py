"""A plan for several devices as one self-contained page: no script, no request."""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.report.page import report_environment


def render_devices(plan: Mapping[str, object]) -> str:
    """The page of the content of a plan.json; the same bytes for the same plan."""
    return report_environment().get_template("devices.html.jinja").render(plan=plan)
