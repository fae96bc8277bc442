"""Where student and sources look, on toy runs: against nets called one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mst_distill.data.samples import rows_of
from mst_distill.datasets.rules import check_drift
from mst_distill.diagnose.drift import (
    choose_rows,
    drift_table,
    drift_views,
    look,
    most_drifted,
    similarity_table,
)
from mst_distill.diagnose.similarity import linear_cka
from toy_diagnoses import Toy, finished
from toy_runs import KINDS

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=KINDS)
def toy(request) -> Toy:
    return finished(request.param)


def seeing(toy: Toy) -> list[str]:
    masked = [name for name in toy.panel.names if name.startswith("multimodal/")]
    return ["multimodal teacher", *masked]


def test_at_most_so_many_held_out_samples_are_drawn(toy):
    held_out = rows_of(toy.run.splits, "test")
    assert choose_rows(toy.run, 100).tolist() == held_out.tolist()
    few = choose_rows(toy.run, 3)
    assert len(set(few)) == 3
    assert set(few) <= set(held_out)
    assert np.array_equal(few, np.sort(few))
    assert np.array_equal(few, choose_rows(toy.run, 3))


def test_who_sees_the_target_is_told_for_every_sample(toy):
    rows = choose_rows(toy.run, 5)
    table = drift_table(toy.run, look(toy.run, toy.viewers, rows, 2))
    check_drift(table)
    assert list(dict.fromkeys(table["source"])) == seeing(toy)
    ids = toy.run.samples.index["id"].iloc[rows].tolist()
    for _, part in table.groupby("source"):
        assert part["id"].tolist() == ids


def test_overlaps_are_those_of_the_nets_one_by_one(toy):
    """Gradient x input by hand, for one sample after another."""
    rows = choose_rows(toy.run, 4)
    table = drift_table(toy.run, look(toy.run, toy.viewers, rows, 3)).set_index(["id", "source"])
    samples, target = toy.run.samples, toy.run.target

    def parts(net, inputs, judged):
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        largest = net(leaves).amax(dim=1)
        (largest * judged).sum().backward()
        sizes = {name: (leaf * leaf.grad).detach().abs()[0] for name, leaf in leaves.items()}
        return {name: of.sum(0) if of.dim() > 2 else of for name, of in sizes.items()}

    for row in rows:
        inputs = {name: torch.from_numpy(a[[row]]) for name, a in samples.modalities.items()}
        judged = torch.from_numpy(samples.labels[[row]] != 0) if samples.dense else 1
        own = parts(lambda x: toy.student(x[target]), {target: inputs[target]}, judged)[target]
        seen = parts(lambda x: toy.nets["multimodal"](**x), inputs, judged)[target]
        found = table.loc[(samples.index["id"][row], "multimodal teacher")]
        overlap = torch.minimum(own / own.sum(), seen / seen.sum()).sum()
        assert found["overlap"] == pytest.approx(overlap.item(), rel=1e-9)


def test_chance_is_the_overlap_with_the_student_s_gaze_on_another_sample(toy):
    views = look(toy.run, toy.viewers, choose_rows(toy.run, 8), 8)
    table = drift_table(toy.run, views)
    chance = table[table["source"] == "multimodal teacher"]["by_chance"].to_numpy()
    own, seen = (views.gazes[name].reshape(8, -1) for name in ("student", "multimodal teacher"))
    matrix = np.minimum(own[:, None], seen[None]).sum(axis=2)
    np.fill_diagonal(matrix, np.nan)
    for place in range(8):
        assert np.nanmin(abs(matrix[:, place] - chance[place])) < 1e-9


def test_the_student_against_itself_does_not_drift(toy):
    views = look(toy.run, toy.viewers, choose_rows(toy.run, 4), 4)
    views.gazes["multimodal teacher"] = views.gazes["student"]
    table = drift_table(toy.run, views)
    assert table["overlap"].head(4).to_numpy() == pytest.approx(1)


def test_the_most_drifted_come_first_with_what_is_seen_of_them(toy):
    rows = choose_rows(toy.run, 8)
    views = look(toy.run, toy.viewers, rows, 8)
    table = drift_table(toy.run, views)
    before = table[table["source"] == "multimodal teacher"].reset_index(drop=True)
    worst = most_drifted(toy.run, table, 3)
    assert worst.tolist() == [rows[place] for place in before["overlap"].argsort()[:3]]
    shown = drift_views(toy.run, look(toy.run, toy.viewers, worst, 2))
    for row, view in zip(worst, shown, strict=True):
        sample = toy.run.samples.index["id"][row]
        assert view.name.splitlines()[-1] == sample
        assert np.array_equal(view.value, toy.run.samples.modalities[toy.run.target][row])
        assert list(view.gazes) == ["student", *seeing(toy)]
        overlap = before.set_index("id")["overlap"][sample]
        assert view.overlaps["multimodal teacher"] == pytest.approx(overlap, rel=1e-9)


def test_features_of_teachers_and_logits_of_all_are_held_against_the_student_s(toy):
    rows = choose_rows(toy.run, 8)
    table = similarity_table(toy.run, toy.viewers, rows, 3)
    titles = [source.title for source in toy.sources]
    assert set(table[table["of"] == "logits"]["source"]) == set(titles)
    assert set(table[table["of"] == "features"]["source"]) == set(titles[: len(toy.teachers)])
    arrays, target = toy.run.samples.modalities, toy.run.target
    inputs = {name: torch.from_numpy(array[rows]) for name, array in arrays.items()}
    found = table.set_index(["source", "of"])["cka"]

    def hear(net, *given, **named):
        heard = []
        hook = net.last.register_forward_pre_hook(lambda _m, args: heard.append(args[0]))
        logits = net(*given, **named)
        hook.remove()
        pair = [of.detach().flatten(2).mean(2) if of.dim() > 2 else of for of in (logits, heard[0])]
        return [of.detach().numpy() for of in pair]

    own = hear(toy.student, inputs[target])
    theirs = hear(toy.nets["multimodal"], **inputs)
    for of, one, other in zip(("logits", "features"), own, theirs, strict=True):
        expected = linear_cka(one, other)
        assert found["multimodal teacher", of] == pytest.approx(expected, rel=1e-9)
    specialist = toy.panel.logits(inputs)[:, 0].detach()
    flat = specialist.flatten(2).mean(2) if specialist.dim() > 2 else specialist
    expected = linear_cka(own[0], flat.numpy())
    assert found[toy.panel.names[0], "logits"] == pytest.approx(expected, rel=1e-9)
