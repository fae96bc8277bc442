"""The report of a comparison: one file with the tables of the Markdown page."""

from __future__ import annotations

import io
from functools import cache

import pandas as pd

from html_pages import check_is_one_file
from mst_distill.compare.plots import differences_figure
from mst_distill.compare.ranking import difference_table, rank, report_on
from mst_distill.compare.ranking_page import ranking_sections
from mst_distill.parameters import Compare
from mst_distill.report.compare_page import compare_page

SCORES = {"baseline": [0.50, 0.52, 0.54], "kd <- audio": [0.60, 0.61, 0.65]}
ERROR = "MemoryError: <script>a|b</script>"


def trials() -> pd.DataFrame:
    rows = [
        {
            **{"target": target, "title": title, "seed": seed, "selection": criterion},
            **{"accuracy": value, "nll": 2 - value, "calibration_error": 0.1, "error": ""},
            **{"nll_scaled": 1.9 - value, "calibration_error_scaled": 0.05, "temperature": 1.5},
        }
        for target in ("image", "audio")
        for title, values in SCORES.items()
        for seed, value in enumerate(values)
        for criterion in ("accuracy", "ce", "last")
    ]
    failed = {"target": "audio", "title": "dkd <- image", "seed": 1, "selection": ""}
    return pd.DataFrame([*rows, {**failed, "error": ERROR}])


@cache
def page(sizes: bool = False) -> str:
    table = trials()
    ranking = rank(table, "accuracy")
    differences = difference_table(table, "baseline", "accuracy", 0.95)
    compare = Compare.model_validate({"methods": {"baseline": {"type": "x"}}})
    report = report_on(table, ranking, differences, compare, "accuracy", 0.95)
    picture = io.BytesIO()
    differences_figure(differences).savefig(picture, format="png", dpi=40)
    parameters = {"compare": {"seeds": 3}}
    shown = {
        "methods_figure": picture.getvalue(),
        "students_figure": picture.getvalue(),
        "student_sizes": make_sizes() if sizes else pd.DataFrame(),
    }
    return compare_page(report, ranking, differences, shown, parameters)


def make_sizes() -> pd.DataFrame:
    """Two students of images."""
    costs = {"parameters": 10, "multiply_adds": 20, "bytes": 30}
    times = {f"milliseconds{suffix}": [1.0, 3.0] for suffix in ("", "_p95", "_of_32", "_of_32_p95")}
    reached = {"method": "kd", "accuracy": [0.7, 0.8], "low": 0.6, "high": 0.9, "seeds": 4}
    return pd.DataFrame(
        {"student": ["small", "image"], "modality": "image", **costs, **times, **reached}
    ).assign(beaten_by="")


def test_the_verdicts_come_first_and_every_table_follows() -> None:
    html = page()
    found = check_is_one_file(html)
    first = found.text.index("The image student: Best mean accuracy: kd <- audio with 62.00 %.")
    assert first < found.text.index("All students have the same number of epochs")
    assert "The audio student" in found.text
    assert "Against baseline" in found.text
    assert "Against the best other" in found.text
    assert "seeds: 3" in found.text
    # Means, other criteria and two comparators for each of two targets, failed trials, versions.
    assert len(found.tags("table")) == 2 * 4 + 2
    assert len(found.tags("img")) == 1


def test_errors_of_failed_trials_are_shown_as_they_are() -> None:
    html = page()
    assert "<script" not in html
    assert ERROR in check_is_one_file(html).text


def test_the_tables_are_those_of_the_markdown_page() -> None:
    table = trials()
    ranking = rank(table, "accuracy")
    differences = difference_table(table, "baseline", "accuracy", 0.95)
    report = {"confidence": 0.95, "selection": "accuracy", "verdicts": {"image": []}}
    report |= {"limits": {"image": []}, "settings": []}
    means = ranking_sections(report, ranking, differences)["image"]["means"]
    text = check_is_one_file(page()).text
    for cell in means.to_numpy().ravel():
        assert str(cell) in text


def test_students_of_several_sizes_have_a_part_of_their_own() -> None:
    found = check_is_one_file(page(sizes=True))
    assert "Students and what they cost" in found.text
    assert "Of the students of image, small is the fastest: 1 ms for a sample, 70.0%." in found.text
    assert "image has the largest mean accuracy, 80.0%, in 3 times the time." in found.text
    pictures = [
        sum(name == "img" for name, _ in of.elements) for of in (found, check_is_one_file(page()))
    ]
    assert pictures == [2, 1]
    assert "what they cost" not in page()
