"""The report of a comparison as one file of HTML; `compare.ranking_page` has it in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import yaml

from mst_distill.compare.ranking_page import failed_trials, ranking_sections, size_section
from mst_distill.report.rendering import render_html
from mst_distill.report.tables import origin_table


def compare_page(
    report: Mapping[str, Any],
    ranking: pd.DataFrame,
    differences: pd.DataFrame,
    shown: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> str:
    """Write the report of a comparison.

    Args:
        report: From `report_on`.
        ranking: From `rank`.
        differences: From `difference_table`.
        shown: ``methods_figure`` and ``students_figure``, the PNGs of `differences_figure` and
            `sizes_figure`, and ``student_sizes``, from `size_table`.
        parameters: All parameters that count; JSON values.
    """
    return render_html(
        "methods.html",
        title=report["heading"],
        report=report,
        targets=ranking_sections(report, ranking, differences),
        failed=failed_trials(report),
        figure=shown["methods_figure"],
        students_figure=shown["students_figure"],
        **size_section(shown["student_sizes"], report),
        parameters=yaml.safe_dump(dict(parameters), sort_keys=False, allow_unicode=True),
        origin=origin_table({}),
    )
