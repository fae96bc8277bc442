"""`kedro run --pipeline=check` tries the metric that decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from projects import copy_project, run_session, stages


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("check") / "project")


@pytest.mark.parametrize("metric", ["accuracy", "auroc", "test_metric.share_of_confident"])
def test_the_metric_is_tried_with_the_stages(
    project: Path, metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short = stages({"factor": 10}, epochs=1)
    short["teachers"] = {**short["teachers"], "keep": "metric"}
    run_session(project, "check", evaluate={"metric": metric}, **short)
    assert "Data and networks fit together" in capsys.readouterr().out


def test_a_metric_that_is_no_metric_is_found(project: Path) -> None:
    with pytest.raises(ValueError, match=r"test_metric\.a_loss is .* return its negative"):
        run_session(project, "check", evaluate={"metric": "test_metric.a_loss"})
