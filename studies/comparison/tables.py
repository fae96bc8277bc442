"""Computes what the protocol asks for, from the tables of `studies.comparison.collect`.

``python -m studies.comparison.tables``, from the root of the repository, prints the tables of the
README and writes differences.csv and gains.png.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

FOLDER = Path(__file__).parent
CONTROLS = ["label_smoothing", "peer"]
CROSS_MODAL = ["kd", "kd_mean", "dml", "dist", "c2kd", "mst", "mst_uniform"]
SETTING = ["benchmark", "labels", "recipe", "target"]
CONTROL = "best control"
METRICS = ["accuracy", "valid_accuracy", "nll", "nll_scaled", "calibration_error"]
METRICS += ["calibration_error_scaled"]

Setting = tuple[str, float, str, str]
Scores = dict[Setting, dict[str, pd.DataFrame]]
"""Setting to method to its metrics by seed; the method `CONTROL` is one of the controls."""


def load() -> tuple[Scores, pd.DataFrame]:
    """The scores, and the choices that they follow from: a row for each setting and method."""
    trials = pd.read_csv(FOLDER / "trials.csv")
    trials["title"] = trials["method"] + (" <- " + trials["teacher"]).fillna("")
    tried = pd.read_csv(FOLDER / "settings.csv")
    several = tried[tried["chosen"] & (tried["method"] != "baseline")]
    # `idxmax` takes the first of equal ones, in the order of the methods' teachers.
    best = several.groupby([*SETTING, "method"], sort=False)["valid_accuracy"].idxmax()
    choices: pd.DataFrame = several.loc[list(best)]
    scores: Scores = {}
    setting: Any
    for setting, rows in trials.groupby(SETTING, sort=False):
        of_setting = choices[(choices[SETTING] == list(setting)).all(axis=1)]
        titles = dict(zip(of_setting["method"], of_setting["title"], strict=True))
        titles[CONTROL] = best_control(of_setting)
        titles["baseline"] = "baseline"
        scores[setting] = {
            method: rows[rows["title"] == title].set_index("seed")[METRICS].sort_index()
            for method, title in titles.items()
        }
    return scores, choices


def best_control(choices: pd.DataFrame) -> str:
    """The control with the best validation accuracy on the choosing seeds."""
    controls: Any = choices[choices["method"].isin(CONTROLS)]
    return str(controls.loc[controls["valid_accuracy"].idxmax(), "title"])


def interval(values: np.ndarray) -> tuple[float, float, float, float]:
    """The mean, its 95 % interval by Student's t, and the p of a mean of 0."""
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(0.95)
    return float(np.mean(values)), float(low), float(high), float(test.pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """The p-values corrected by Holm's step-down method."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def differences(scores: Scores) -> pd.DataFrame:
    """A row for each setting, comparator and method: points of test accuracy."""
    rows = []
    for setting, methods in scores.items():
        for against in ("baseline", CONTROL, "kd_mean"):
            of_comparator = []
            for method in [*CONTROLS, *CROSS_MODAL]:
                if method == against:
                    continue
                gained = methods[method]["accuracy"] - methods[against]["accuracy"]
                if not gained.any() and method in CONTROLS:
                    continue  # It is the best control.
                mean, low, high, p = interval(100 * gained.to_numpy())
                row = {"against": against, "method": method, "difference": mean}
                of_comparator.append(
                    dict(zip(SETTING, setting, strict=True))
                    | row
                    | {"low": low, "high": high, "p": p}
                )
            crossing = [row for row in of_comparator if row["method"] in CROSS_MODAL]
            corrected = holm(np.array([row["p"] for row in crossing]))
            for row, value in zip(crossing, corrected, strict=True):
                row["p_corrected"] = value
            rows += of_comparator
    return pd.DataFrame(rows)


def over_settings(scores: Scores, first: str, second: str) -> tuple[float, ...]:
    """The mean difference: over seeds with its interval, and the interval by settings; points."""
    gained = pd.DataFrame(
        {
            setting: 100 * (methods[first]["accuracy"] - methods[second]["accuracy"])
            for setting, methods in scores.items()
        }
    )
    return (*interval(gained.mean(axis=1).to_numpy()), *interval(gained.mean().to_numpy())[1:])


def name_of(setting: Setting) -> str:
    """For example ``digits, audio, 10 %``."""
    benchmark, labels, recipe, target = setting
    return f"{benchmark}, {target}, {100 * labels:g} %" + (", strong" if recipe == "strong" else "")


def table_head(first: str, columns: list[str]) -> list[str]:
    """The first two lines of a table."""
    return [f"| {first} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]


def accuracy_table(scores: Scores) -> str:
    """Mean and standard deviation of the test accuracy, a row for each setting."""
    shown = ["baseline", *CONTROLS, *CROSS_MODAL]
    lines = table_head("setting", [f"`{method}`" for method in shown])
    for setting, methods in scores.items():
        percent = [100 * methods[method]["accuracy"] for method in shown]
        cells = [f"{values.mean():.1f} ± {values.std():.1f}" for values in percent]
        lines.append(f"| {name_of(setting)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference_cells(table: pd.DataFrame, scores: Scores, against: str) -> str:
    """Differences to a comparator with their intervals; bold or italic if corrected p < 0.05."""
    lines = table_head("setting", [f"`{method}`" for method in CROSS_MODAL])
    rows: Any = table[table["against"] == against].set_index([*SETTING, "method"])
    for setting in scores:
        cells = []
        for method in CROSS_MODAL:
            if (*setting, method) not in rows.index:
                cells.append("")
                continue
            row = rows.loc[(*setting, method)]
            text = f"{row['difference']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})"
            mark = "" if row["p_corrected"] >= 0.05 else "**" if row["difference"] > 0 else "*"
            cells.append(f"{mark}{text}{mark}")
        lines.append(f"| {name_of(setting)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def pairs_table(scores: Scores) -> str:
    """Differences between pairs of methods, in the mean over the settings."""
    columns = ["mean", "95 %, over seeds", "95 %, over settings", "p, over settings"]
    lines = table_head("difference", columns)
    pairs = [(method, "baseline") for method in [*CONTROLS, *CROSS_MODAL]]
    pairs += [(method, CONTROL) for method in CROSS_MODAL]
    pairs += [("mst", other) for other in ("kd", "kd_mean", "dml", "mst_uniform")]
    for first, second in pairs:
        mean, low, high, _, wide_low, wide_high, p = over_settings(scores, first, second)
        lines.append(
            f"| `{first}` - {second} | {mean:+.2f} | {low:+.2f} to {high:+.2f} | "
            f"{wide_low:+.2f} to {wide_high:+.2f} | {p:.2f} |"
        )
    return "\n".join(lines)


def correlations(scores: Scores) -> str:
    """Spearman's correlation of gains with what validation tells of the teachers."""
    teachers = pd.read_csv(FOLDER / "teachers.csv")
    known: dict[str, list[float]] = {"teacher": [], "lead": []}
    for benchmark, labels, recipe, target in scores:
        rows = teachers[
            (teachers["benchmark"] == benchmark)
            & (teachers["labels"] == labels)
            & (teachers["recipe"] == recipe)
            & (teachers["teacher"] != target)
        ]
        best = rows.groupby("teacher")["valid_accuracy"].mean().max()
        own = scores[benchmark, labels, recipe, target]["baseline"]["valid_accuracy"].mean()
        known["teacher"].append(best)
        known["lead"].append(best - own)
    lines = table_head("gain over", ["of", "by the best teacher", "by its lead"])
    for against in ("baseline", CONTROL):
        for method in ("mst", "kd_mean"):
            gains = [
                float((of[method]["accuracy"] - of[against]["accuracy"]).mean())
                for of in scores.values()
            ]
            cells = []
            for values in known.values():
                test = stats.spearmanr(values, gains)
                cells.append(f"{test.statistic:+.2f} (p = {test.pvalue:.2f})")
            lines.append(f"| {against} | `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def probability_table(scores: Scores) -> str:
    """Likelihood and calibration as they are and scaled, of a few methods."""
    shown = ["baseline", CONTROL, "kd_mean", "mst"]
    columns = [f"{what} of {of}" for what in ("NLL", "calibration error, %") for of in shown]
    lines = table_head("setting", columns)
    for setting, methods in scores.items():
        cells = []
        for metric, factor, digits in (("nll", 1, 2), ("calibration_error", 100, 0)):
            for method in shown:
                means = methods[method].mean() * factor
                plain, scaled = means[metric], means[f"{metric}_scaled"]
                cells.append(f"{plain:.{digits}f}, {scaled:.{digits}f}")
        lines.append(f"| {name_of(setting)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rivals_table(scores: Scores) -> str:
    """Differences of MST-Distill to its rivals; bold or italic if the interval excludes 0."""
    rivals = ["kd", "kd_mean", "dml", "mst_uniform"]
    lines = table_head("setting", [f"to `{rival}`" for rival in rivals])
    for setting, methods in scores.items():
        cells = []
        for rival in rivals:
            gained = 100 * (methods["mst"]["accuracy"] - methods[rival]["accuracy"])
            mean, low, high, _ = interval(gained.to_numpy())
            mark = "**" if low > 0 else "*" if high < 0 else ""
            cells.append(f"{mark}{mean:+.1f} ({low:+.1f} to {high:+.1f}){mark}")
        lines.append(f"| {name_of(setting)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def scaled_likelihood_table(scores: Scores) -> str:
    """Differences of the NLL after temperature scaling of each net; below 0 is better."""
    pairs = [("mst", "baseline"), ("mst", CONTROL), ("kd_mean", CONTROL)]
    lines = table_head("setting", [f"{first} - {second}" for first, second in pairs])
    for setting, methods in scores.items():
        cells = []
        for first, second in pairs:
            gained = methods[first]["nll_scaled"] - methods[second]["nll_scaled"]
            mean, low, high, _ = interval(gained.to_numpy())
            mark = "**" if high < 0 else "*" if low > 0 else ""
            cells.append(f"{mark}{mean:+.3f} ({low:+.3f} to {high:+.3f}){mark}")
        lines.append(f"| {name_of(setting)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def choices_table(scores: Scores, choices: pd.DataFrame) -> str:
    """The teacher and the setting that each method chose."""
    lines = table_head("setting", ["best control", "choices of teachers and settings"])
    for setting in scores:
        rows = choices[(choices[SETTING] == list(setting)).all(axis=1)]
        best = best_control(rows)
        cells = [f"{row['title']} {row['arguments']}" for _, row in rows.iterrows()]
        lines.append(f"| {name_of(setting)} | {best} | {'; '.join(cells)} |")
    return "\n".join(lines)


def seconds_table() -> str:
    """The mean time of a trial, without the teachers that all methods share."""
    trials = pd.read_csv(FOLDER / "trials.csv")
    table = trials.pivot_table("seconds", "method", "benchmark", sort=False)
    lines = table_head("method", list(table.columns))
    for method, row in table.iterrows():
        lines.append(f"| `{method}` | {' | '.join(f'{value:.0f}' for value in row)} |")
    return "\n".join(lines)


def draw(table: pd.DataFrame, scores: Scores) -> None:
    """Write gains.png: the differences to the best control in each setting."""
    columns = 4
    height = -(-len(scores) // columns)
    figure = Figure(figsize=(11, 2.6 * height + 0.6), layout="constrained")
    axes = np.atleast_2d(figure.subplots(height, columns, sharex=True, sharey=True))
    rows: Any = table[table["against"] == CONTROL].set_index([*SETTING, "method"])
    for axis in axes.flat[len(scores) :]:
        axis.set_visible(False)
    for axis, setting in zip(axes.flat, scores, strict=False):
        axis.axvline(0, color="0.6", linewidth=1)
        for place, method in enumerate(CROSS_MODAL):
            row = rows.loc[(*setting, method)]
            found = row["p_corrected"] < 0.05
            axis.plot([row["low"], row["high"]], [place, place], color="C0" if found else "0.5")
            axis.plot(row["difference"], place, "o", color="C0" if found else "0.5")
        axis.set_title(name_of(setting) + " of the labels", fontsize=9)
        axis.set_yticks(range(len(CROSS_MODAL)), CROSS_MODAL)
        axis.tick_params(labelsize=8)
    axes.flat[0].invert_yaxis()
    figure.supxlabel("difference to the best control, points of test accuracy (95 %)", fontsize=9)
    figure.savefig(FOLDER / "gains.png", dpi=130)


def main() -> None:
    """Print all tables."""
    scores, choices = load()
    table = differences(scores)
    table.to_csv(FOLDER / "differences.csv", index=False, float_format="%.4g")
    published = {setting: of for setting, of in scores.items() if setting[2] == "published"}
    sections: dict[str, Callable[[], str]] = {
        "Accuracy": lambda: accuracy_table(scores),
        "Differences to the baseline": lambda: difference_cells(table, scores, "baseline"),
        "Differences to the best control": lambda: difference_cells(table, scores, CONTROL),
        "MST-Distill and its rivals": lambda: rivals_table(scores),
        "Over the settings": lambda: pairs_table(published),
        "What gains depend on": lambda: correlations(published),
        "Likelihood and calibration": lambda: probability_table(scores),
        "Scaled likelihood": lambda: scaled_likelihood_table(scores),
        "Choices": lambda: choices_table(scores, choices),
        "Seconds": seconds_table,
    }
    for title, text in sections.items():
        print(f"## {title}\n\n{text()}\n")
    draw(table, scores)


if __name__ == "__main__":
    main()
