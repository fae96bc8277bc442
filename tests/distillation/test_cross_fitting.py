"""Out-of-fold logits: each sample's are of teachers that have not seen it, nor its group."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from mst_distill.distillation import cross_fitting
from mst_distill.distillation.adaptation import train_masks
from mst_distill.distillation.collaboration import train_members
from mst_distill.distillation.cross_fitting import of_specialists, out_of_fold_logits
from mst_distill.distillation.panel import assemble_panel
from mst_distill.samples import rows_of
from toy_runs import MASKS, TEACHERS, make_run

pytestmark = pytest.mark.usefixtures("float64")


def grouped():
    run, members = make_run()
    index = run.samples.index.assign(group=[f"g{row % 10}" for row in range(40)])
    return dataclasses.replace(run, samples=dataclasses.replace(run.samples, index=index)), members


def test_no_teacher_has_seen_what_it_is_asked_about(monkeypatch):
    run, members = grouped()
    seen = []

    def watched(part, *arguments):
        rows = rows_of(part.splits, "train")
        seen.append(set(run.samples.index["group"].iloc[rows]))
        return train_members(part, *arguments)

    monkeypatch.setattr(cross_fitting, "train_members", watched)
    table = out_of_fold_logits(run, members, TEACHERS, MASKS, 3)
    ids = run.splits["id"].to_numpy()[rows_of(run.splits, "train")]
    assert table["id"].tolist() == np.repeat(ids, 2).tolist()
    assert table["teacher"].unique().tolist() == ["multimodal", "audio"]
    everybody = set(run.samples.index["group"].iloc[rows_of(run.splits, "train")])
    left_out = [everybody - part for part in seen]
    assert set.union(*left_out) == everybody
    assert sum(map(len, left_out)) == len(everybody)
    assert np.isfinite(table.drop(columns=["id", "teacher"]).to_numpy()).all()


def test_a_fold_s_logits_are_those_of_members_trained_without_it():
    run, members = grouped()
    table = out_of_fold_logits(run, members, TEACHERS, MASKS, 2)
    rows = rows_of(run.splits, "train")
    first = next(cross_fitting._parts(run, rows, 2))
    split = run.splits["split"].to_numpy(dtype=object).copy()
    split[rows[first]] = "nobody's"
    without = dataclasses.replace(run, splits=run.splits.assign(split=split))
    nets, _ = train_members(without, members, TEACHERS, MASKS)
    audio = torch.from_numpy(np.array(run.samples.modalities["audio"][rows[first]]))
    with torch.no_grad():
        wanted = nets["audio"].eval()(audio).numpy()
    ids = run.splits["id"].to_numpy()[rows[first]]
    found = table[table["teacher"] == "audio"].set_index("id").loc[ids]
    np.testing.assert_allclose(found.drop(columns="teacher").to_numpy(), wanted, rtol=1e-10)


def test_specialists_say_what_their_teachers_said():
    run, members = grouped()
    nets, _ = train_members(run, members, TEACHERS, MASKS)
    student = nets.pop(run.target)
    masks, _ = train_masks(run, nets, student, members, MASKS)
    panel = assemble_panel(run, nets, masks, members)
    table = out_of_fold_logits(run, members, TEACHERS, MASKS, 2)
    logits = of_specialists(run, panel, table)
    assert logits.shape == (24, 4, 3)
    assert torch.equal(logits[:, 0], logits[:, 1])
    np.testing.assert_array_equal(
        logits[:, 3], table[table["teacher"] == "audio"].drop(columns=["id", "teacher"])
    )
    with pytest.raises(ValueError, match="of other samples or teachers"):
        of_specialists(run, panel, pd.concat([table[2:], table[:2]]))


def test_what_cannot_be_cross_fitted_is_refused():
    run, members = grouped()
    assert not len(out_of_fold_logits(run, members, TEACHERS, MASKS, 1))
    with pytest.raises(ValueError, match=r"folds is 30; the training split has only \d+ groups"):
        out_of_fold_logits(run, members, TEACHERS, MASKS, 30)
    dense, nets = make_run("dense labels")
    with pytest.raises(ValueError, match="one label a sample"):
        out_of_fold_logits(dense, nets, TEACHERS, MASKS, 2)
