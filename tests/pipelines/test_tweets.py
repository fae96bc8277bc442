"""The example `tweets` of docs/your-own-data.md: a user's own data and configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from projects import ROOT, copy_project, run_session, stages

EXAMPLE = ROOT / "examples" / "tweets"


@pytest.mark.long
def test_a_users_own_data_pass_all_stages(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared_data / "tweet_image_text_sentiment"
    if not (folder / "data.csv").is_file():
        pytest.skip(f"{folder} is absent")
    project = copy_project(tmp_path / "project")
    shutil.copytree(EXAMPLE / "conf", project / "conf" / "tweets")
    monkeypatch.syspath_prepend(EXAMPLE)
    benchmark = {"arguments": {"folder": str(folder)}}
    run_session(project, env="tweets", limit=200, benchmark=benchmark, **stages(epochs=1))

    run = "tweets/heldout-200/text/seed-0/main"
    metrics = json.loads((project / f"data/08_reporting/{run}/metrics.json").read_text())
    assert "distillation" in metrics["verdict"].lower()
    splits = pd.read_parquet(
        project / "data/05_model_input/tweets/heldout-200/seed-0/splits.parquet"
    )
    assert len(splits) == 200
    assert not splits.drop_duplicates(["group", "split"])["group"].duplicated().any()
    card = (project / f"data/08_reporting/{run}/model_card.md").read_text()
    assert "\nlicense: other\n" in card  # not that of the embedded digits, nor that of the code
    assert "Licence of the data: not stated." in card
    student = json.loads((project / f"data/06_models/{run}/student.json").read_text())
    assert "mst_distill.nets.crisismmd.FeatureMLP" in json.dumps(student)


def test_the_code_in_the_documentation_is_that_of_the_example() -> None:
    blocks = (ROOT / "docs" / "your-own-data.md").read_text().split("```")[1::2]
    printed = {
        EXAMPLE / "tweet_sentiment.py": "# examples/tweets/tweet_sentiment.py\n",
        EXAMPLE / "conf" / "globals.yml": "# conf/tweets/globals.yml\n",
        EXAMPLE / "conf" / "parameters.yml": "# conf/tweets/parameters.yml\n",
    }
    for file, head in printed.items():
        (block,) = [block.partition(head)[2] for block in blocks if head in block]
        written = file.read_text()
        pieces = [piece.strip("\n") for piece in block.split("    ...\n")]
        for piece in pieces:
            # The documentation prints only the first line of a docstring.
            assert piece.removesuffix('"""') in written, f"{file} does not contain:\n{piece}"
