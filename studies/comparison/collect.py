"""Copies the results of finished comparisons into this folder, as tables.

``python -m studies.comparison.collect PROJECT``, from the root of the repository, reads every
finished comparison below PROJECT/data whose name is ``study``, ``strong`` or ``explored``, and
writes:

- trials.csv: a row for each reported trial, with the metrics of the epoch with the best validation
  accuracy;
- settings.csv: a row for each setting of a method that was tried, with its mean validation accuracy
  over the seeds that choose;
- teachers.csv: a row for each teacher and seed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

FOLDER = Path(__file__).parent
RECIPES = {"study": "published", "strong": "strong", "explored": "explored"}
CHOOSING_SEEDS = (0, 1)
KEYS = ["benchmark", "labels", "recipe"]
TRIAL = ["target", "method", "teacher", "seed", "valid_accuracy", "accuracy", "nll", "nll_scaled"]
TRIAL += ["calibration_error", "calibration_error_scaled", "seconds"]
TEACHER = ["teacher", "seed", "valid_accuracy", "accuracy"]
SETTING = ["target", "title", "method", "arguments", "seeds", "valid_accuracy", "valid_ce"]
SETTING += ["chosen"]


def comparisons(project: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each comparison: its keys, and its path below a layer of data."""
    for report in sorted(project.glob("data/08_reporting/*/*/compare*/*/methods_report.json")):
        benchmark, _, compare, run = report.parts[-5:-1]
        if run in RECIPES:
            labels = float(compare.removeprefix("compare").removeprefix("-labelled-") or 1)
            keys = {"benchmark": benchmark, "labels": labels, "recipe": RECIPES[run]}
            yield keys, "/".join(report.parts[-5:-1])


def teachers(log: Path) -> pd.DataFrame:
    """The teachers of a comparison, of the seeds that are reported."""
    results = [json.loads(path.read_text()) for path in log.glob("teachers/*/*.result.json")]
    rows = [{**result["trial"], **result["metrics"]["accuracy"]} for result in results]
    if not rows:
        return pd.DataFrame(columns=TEACHER)
    table = pd.DataFrame(rows)[TEACHER]
    return table[~table["seed"].isin(CHOOSING_SEEDS)].sort_values(["teacher", "seed"])


def main(project: Path) -> None:
    """Write the three tables."""
    tables: dict[str, list[pd.DataFrame]] = {"trials": [], "settings": [], "teachers": []}
    for keys, path in comparisons(project):
        settings = pd.read_csv(project / "data/08_reporting" / path / "methods_settings.csv")
        if settings["seeds"].max() != len(CHOOSING_SEEDS):
            continue  # A first look at the times, without choices.
        trials = pd.read_parquet(project / "data/07_model_output" / path / "trials.parquet")
        trials = trials[trials["selection"] == "accuracy"]
        for name, table in {
            "trials": trials[TRIAL],
            "settings": settings[SETTING],
            "teachers": teachers(project / "data/06_models" / path / "trial_log"),
        }.items():
            tables[name].append(table.assign(**keys)[[*KEYS, *table.columns]])
    for name, parts in tables.items():
        pd.concat(parts).to_csv(FOLDER / f"{name}.csv", index=False, float_format="%.5g")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
