"""Saliency, features and logits of student and sources, against nets called one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mst_distill.data.samples import rows_of
from mst_distill.datasets.validators import check_drift
from mst_distill.diagnose.drift import (
    choose_rows,
    drift_examples,
    drift_table,
    most_drifted,
    saliency_maps,
    similarity_table,
)
from mst_distill.diagnose.similarity import linear_cka
from toy_diagnoses import Toy, finished
from toy_runs import KINDS

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=KINDS)
def toy(request) -> Toy:
    return finished(request.param)


def sources_with_target(toy: Toy) -> list[str]:
    masked = [name for name in toy.ensemble.names if name.startswith("multimodal/")]
    return ["multimodal teacher", *masked]


def test_at_most_count_held_out_samples_are_drawn(toy):
    held_out = rows_of(toy.run.splits, "test")
    assert choose_rows(toy.run, 100).tolist() == held_out.tolist()
    few = choose_rows(toy.run, 3)
    assert len(set(few)) == 3
    assert set(few) <= set(held_out)
    assert np.array_equal(few, np.sort(few))
    assert np.array_equal(few, choose_rows(toy.run, 3))


def test_the_table_has_a_row_for_each_sample_and_source_that_sees_the_target(toy):
    rows = choose_rows(toy.run, 5)
    table = drift_table(toy.run, saliency_maps(toy.run, toy.attributed_models, rows, 2))
    check_drift(table)
    assert list(dict.fromkeys(table["source"])) == sources_with_target(toy)
    ids = toy.run.samples.index["id"].iloc[rows].tolist()
    for _, rows_of_source in table.groupby("source"):
        assert rows_of_source["id"].tolist() == ids


def test_overlaps_equal_those_of_the_nets_one_by_one(toy):
    """Compute gradient x input by hand, for one sample after another."""
    rows = choose_rows(toy.run, 4)
    table = drift_table(toy.run, saliency_maps(toy.run, toy.attributed_models, rows, 3)).set_index(
        ["id", "source"]
    )
    samples, target = toy.run.samples, toy.run.target

    def attribution(net, inputs, labelled):
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        largest = net(leaves).amax(dim=1)
        (largest * labelled).sum().backward()
        sizes = {name: (leaf * leaf.grad).detach().abs()[0] for name, leaf in leaves.items()}
        return {name: of.sum(0) if of.dim() > 2 else of for name, of in sizes.items()}

    for row in rows:
        inputs = {name: torch.from_numpy(a[[row]]) for name, a in samples.modalities.items()}
        labelled = torch.from_numpy(samples.labels[[row]] != 0) if samples.dense else 1
        of_student = attribution(
            lambda x: toy.student(x[target]), {target: inputs[target]}, labelled
        )[target]
        of_teacher = attribution(lambda x: toy.nets["multimodal"](**x), inputs, labelled)[target]
        found = table.loc[(samples.index["id"][row], "multimodal teacher")]
        overlap = torch.minimum(of_student / of_student.sum(), of_teacher / of_teacher.sum()).sum()
        assert found["overlap"] == pytest.approx(overlap.item(), rel=1e-9)


def test_chance_is_the_overlap_with_the_student_s_map_of_another_sample(toy):
    maps = saliency_maps(toy.run, toy.attributed_models, choose_rows(toy.run, 8), 8)
    table = drift_table(toy.run, maps)
    chance = table[table["source"] == "multimodal teacher"]["by_chance"].to_numpy()
    of_student, of_teacher = (
        maps.by_model[name].reshape(8, -1) for name in ("student", "multimodal teacher")
    )
    matrix = np.minimum(of_student[:, None], of_teacher[None]).sum(axis=2)
    np.fill_diagonal(matrix, np.nan)
    for column in range(8):
        assert np.nanmin(abs(matrix[:, column] - chance[column])) < 1e-9


def test_the_student_against_itself_does_not_drift(toy):
    maps = saliency_maps(toy.run, toy.attributed_models, choose_rows(toy.run, 4), 4)
    maps.by_model["multimodal teacher"] = maps.by_model["student"]
    table = drift_table(toy.run, maps)
    assert table["overlap"].head(4).to_numpy() == pytest.approx(1)


def test_examples_have_the_most_drifted_samples_first_with_their_maps(toy):
    rows = choose_rows(toy.run, 8)
    maps = saliency_maps(toy.run, toy.attributed_models, rows, 8)
    table = drift_table(toy.run, maps)
    without_mask = table[table["source"] == "multimodal teacher"].reset_index(drop=True)
    worst = most_drifted(toy.run, table, 3)
    assert worst.tolist() == [rows[position] for position in without_mask["overlap"].argsort()[:3]]
    examples = drift_examples(toy.run, saliency_maps(toy.run, toy.attributed_models, worst, 2))
    for row, example in zip(worst, examples, strict=True):
        sample = toy.run.samples.index["id"][row]
        assert example.name.splitlines()[-1] == sample
        assert np.array_equal(example.value, toy.run.samples.modalities[toy.run.target][row])
        assert list(example.maps) == ["student", *sources_with_target(toy)]
        overlap = without_mask.set_index("id")["overlap"][sample]
        assert example.overlaps["multimodal teacher"] == pytest.approx(overlap, rel=1e-9)


def test_features_of_teachers_and_logits_of_all_are_compared_with_the_student_s(toy):
    rows = choose_rows(toy.run, 8)
    table = similarity_table(toy.run, toy.attributed_models, rows, 3)
    titles = [source.title for source in toy.sources]
    assert set(table[table["of"] == "logits"]["source"]) == set(titles)
    assert set(table[table["of"] == "features"]["source"]) == set(titles[: len(toy.teachers)])
    arrays, target = toy.run.samples.modalities, toy.run.target
    inputs = {name: torch.from_numpy(array[rows]) for name, array in arrays.items()}
    found = table.set_index(["source", "of"])["cka"]

    def logits_and_features(net, *inputs, **named_inputs):
        features = []
        hook = net.last.register_forward_pre_hook(lambda _m, args: features.append(args[0]))
        logits = net(*inputs, **named_inputs)
        hook.remove()
        pair = [
            of.detach().flatten(2).mean(2) if of.dim() > 2 else of for of in (logits, features[0])
        ]
        return [of.detach().numpy() for of in pair]

    of_student = logits_and_features(toy.student, inputs[target])
    of_teacher = logits_and_features(toy.nets["multimodal"], **inputs)
    for of, one, other in zip(("logits", "features"), of_student, of_teacher, strict=True):
        expected = linear_cka(one, other)
        assert found["multimodal teacher", of] == pytest.approx(expected, rel=1e-9)
    specialist = toy.ensemble.logits(inputs)[:, 0].detach()
    flat = specialist.flatten(2).mean(2) if specialist.dim() > 2 else specialist
    expected = linear_cka(of_student[0], flat.numpy())
    assert found[toy.ensemble.names[0], "logits"] == pytest.approx(expected, rel=1e-9)
