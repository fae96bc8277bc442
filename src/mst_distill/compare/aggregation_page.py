"""The page of the comparisons of several benchmarks in Markdown."""

from __future__ import annotations

import pandas as pd

from mst_distill.compare.aggregation import ALL, BETWEEN
from mst_distill.compare.markdown import (
    SCALED,
    columns_of,
    cost_columns,
    format_intervals,
    format_mean_and_sd,
    format_numbers,
    render,
)
from mst_distill.compare.ranking import BEST_CONTROL, COSTS
from mst_distill.metric import ACCURACY, Metric

PAGE = """
# {{ settings | length }} setting{{ "s" if settings | length > 1 }}, {{ seeds }} seed\
{{ "s" if seeds > 1 }}

Intervals and tests are over seeds: they state what other seeds would give on these benchmarks and \
held-out samples, not what other benchmarks would. With the settings as the unit, they state what \
other settings would give, if these had been drawn at random and independently: those of one \
benchmark were not. In each setting, a method with several teachers is represented by the one with \
the best validation, and so is the best control. {{ scaled }}
{% if folds %}

In {{ folds | join(", ") }}, the unit is a fold. Folds share training samples; the variance of \
their mean is raised for that (Nadeau and Bengio, 2003).
{% endif %}

## All methods over all settings, selected by {{ selection }}

The mean rank is 1 for a method that is the best in every setting.

{{ over_all | table }}

{% for comparator, table in points.items() %}
## {{ gains }} against {{ comparator }} by setting; bold: beyond chance, corrected over the methods

{{ table | table }}

{% endfor %}
{% for heading, metric in metrics.items() %}
## {{ heading }}{{ "; bold: the best, italic: the second" if loop.first }}

{{ metric | table }}

{% endfor %}
## Cost of a trial, means over the settings

{{ cost | table }}

{% for name, absent in incomplete.items() %}
- `{{ name }}` is not in {{ absent | join(", ") }}, or some of its trials failed.
{% endfor %}
"""


def aggregation_page(
    trials: pd.DataFrame,
    gains: pd.DataFrame,
    baseline: str,
    selection: str,
    confidence: float,
    metric: Metric = ACCURACY,
) -> str:
    """Write the tables of all methods over all settings and in each setting.

    Args:
        trials: From `gather`.
        gains: From `gain_table`, against the baseline and the best control, if there is one.
        baseline: The method that the others are compared with.
        selection: The selection criterion whose students are shown first.
        confidence: Of the intervals, in (0, 1).
        metric: The metric that decides.
    """
    settings = list(dict.fromkeys(trials["setting"]))
    to_baseline = gains[gains["against"] == baseline]
    over_all = _over_all(trials, to_baseline, baseline, selection, confidence, metric)
    order = list(dict.fromkeys([*over_all["method"], *trials["method"]]))
    selected = gains[gains["selection"] == selection]
    selected = selected.assign(text=_points(selected, confidence, metric))
    groups = trials[trials["selection"] == selection].groupby(["method", "setting"])
    metrics = {}
    for name, (heading, scale, spec) in columns_of(metric).items():
        table = pd.DataFrame({name: groups[name].mean(), f"{name}_sd": groups[name].std()})
        table = table.assign(text=format_mean_and_sd(table, name, scale, spec)).reset_index()
        if name == metric.name:
            table["text"] = _marked(table, name)
        metrics[f"{heading[0].upper()}{heading[1:]}"] = _by_setting(table, order, settings)
    complete = set(groups.groups)
    absent = {name: [s for s in settings if (name, s) not in complete] for name in order}
    return render(
        PAGE,
        settings=settings,
        scaled=SCALED,
        seeds=trials["seed"].nunique(),
        folds=[
            f"{setting} ({', '.join(map(str, rows['fold'].unique()))})"
            for setting, rows in trials[trials["fold"].notna()].groupby("setting", sort=False)
        ],
        cost=_cost(trials[trials["selection"] == selection], order),
        selection=selection,
        baseline=baseline,
        over_all=over_all,
        gains=f"{metric.unit[0].upper()}{metric.unit[1:]}",
        points={
            against if against == BEST_CONTROL else f"`{against}`": _by_setting(
                rows, order, settings
            )
            for against, rows in selected.groupby("against", sort=False)
        },
        metrics=metrics,
        incomplete={name: where for name, where in absent.items() if where},
    )


def _over_all(
    trials: pd.DataFrame,
    gains: pd.DataFrame,
    baseline: str,
    selection: str,
    confidence: float,
    metric: Metric,
) -> pd.DataFrame:
    """The means over all settings, with both kinds of interval; with folds, only over settings."""
    over = ALL if (gains["setting"] == ALL).any() else BETWEEN
    of = gains[gains["setting"] == over]
    selected = of[of["selection"] == selection].set_index("method")
    selected = selected.sort_values("difference", ascending=False)
    table = pd.DataFrame({"method": selected.index})
    spec, scale = f"+{metric.spec()}", metric.scale
    differences = format_numbers(selected["difference"], scale, spec)
    table[f"{metric.unit} against {baseline}"] = differences
    if over == ALL:
        table[f"{confidence:.0%} interval"] = format_intervals(selected, spec, scale=scale)
    between = gains[(gains["setting"] == BETWEEN) & (gains["selection"] == selection)]
    between = between.set_index("method").reindex(selected.index)
    table[f"{confidence:.0%} interval, settings as the unit"] = format_intervals(
        between, spec, "setting", scale
    )
    table["mean rank"] = format_numbers(
        _mean_ranks(trials, selection, metric)[selected.index], 1, ".1f"
    )
    for criterion, rows in of.groupby("selection", sort=False):
        if criterion != selection:
            other = rows.set_index("method")["difference"].reindex(selected.index)
            table[f"by {criterion}"] = format_numbers(other, scale, spec)
    for name in ("", "_scaled"):
        title = ", scaled" if name else ""
        table[f"NLL{title}"] = format_numbers(selected[f"nll{name}"], 1, "+.3f")
        error = format_numbers(selected[f"calibration_error{name}"], 100, "+.1f")
        table[f"calibration error{title}, points"] = error
    return table


def _mean_ranks(trials: pd.DataFrame, selection: str, metric: Metric) -> pd.Series:
    """The mean rank over the settings by the mean metric, of methods that are in all of them."""
    selected = trials[trials["selection"] == selection]
    means = selected.pivot_table(metric.name, "method", "setting").dropna()
    return means.rank(ascending=False).mean(axis=1)


def _marked(table: pd.DataFrame, metric: str) -> list[str]:
    """The texts of a table; in each setting, the best mean is bold and the second in italics."""
    ranks = table.groupby("setting")[metric].rank(ascending=False, method="min")
    marks = {1.0: "**{}**", 2.0: "*{}*"}
    texts = zip(ranks, table["text"], strict=True)
    return [marks.get(rank, "{}").format(text) for rank, text in texts]


def _cost(trials: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    means = trials.groupby("method")[COSTS].mean().reindex(order)
    return pd.DataFrame({"method": order, **cost_columns(means)})


def _points(rows: pd.DataFrame, confidence: float, metric: Metric) -> list[str]:
    texts = format_numbers(rows["difference"], metric.scale, f"+{metric.spec()}")
    significant = rows["p_corrected"] < 1 - confidence
    return [
        f"**{points}**" if bold else points for points, bold in zip(texts, significant, strict=True)
    ]


def _by_setting(rows: pd.DataFrame, order: list[str], settings: list[str]) -> pd.DataFrame:
    """Arrange the column ``text`` in one row for each method and one column for each setting."""
    table = rows.pivot_table("text", "method", "setting", aggfunc="first")
    known = [method for method in order if method in table.index]
    return table.reindex(index=known, columns=settings).fillna("–").reset_index()
