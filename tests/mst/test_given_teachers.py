"""Given teachers: the same as a net that was trained here, and checked before training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from mst_distill.benchmarks.splits import keep_labels
from mst_distill.given_teacher import GivenTeacher
from mst_distill.mst import given_teachers
from mst_distill.mst.ensemble import assemble_ensemble, tabulate_logits
from mst_distill.mst.given_teachers import (
    check_given,
    check_given_definitions,
    labels_seen,
    seen_ids,
    with_given,
)
from mst_distill.mst.linear_head import fit_linear_head
from mst_distill.mst.networks import build_members
from mst_distill.mst.run_stages import run_stages
from mst_distill.mst.stage2_masks import prepare_masks
from mst_distill.parameters import TrainingRecipe
from mst_distill.plan import Plan
from mst_distill.training.batches import Frozen
from mst_distill.training.run import Run
from toy_given import give, logits_file, outputs, teaching_net, true_logits, weights_file
from toy_runs import make_run
from toys import make_samples

AUDIO = {"net": "toy_nets.Audio", "modality": "audio"}


def checked(run: Run, plan: Plan) -> None:
    check_given(run, plan.given, plan.masks)


def test_a_run_without_given_teachers_is_left_alone():
    run, plan = make_run()
    assert with_given(run, plan.given) is run


def test_logits_from_a_file_stand_in_the_order_of_the_store(tmp_path):
    run, plan = make_run()
    logits = true_logits(run)
    ids = run.samples.index["id"].to_numpy()
    order = np.random.default_rng(0).permutation(len(ids))
    file = logits_file(tmp_path / "t.parquet", run, logits[order], ids[order])
    run, plan = give(run, plan, outside={"logits": file})
    assert run.modalities == ("image", "audio")
    assert run.inputs == ("image", "audio", "outside")
    np.testing.assert_array_equal(run.samples.recorded["outside"], logits.astype(np.float32))
    checked(run, plan)
    frozen = {"t": Frozen(("outside",), lambda inputs: (inputs["outside"],))}
    for batch in run.batches("train", ["image"], 8, shuffle="order", frozen=frozen):
        rows = run.rows("train")[batch.place.numpy()]
        np.testing.assert_array_equal(batch.frozen["t"][0], logits[rows].astype(np.float32))


@pytest.mark.parametrize("member", ["audio", "image", "multimodal"])
def test_a_given_net_is_the_net_of_its_file(tmp_path, member):
    run, plan = make_run()
    net = teaching_net(run, plan, member)
    of = plan.members.all_of("image")[member]
    file = weights_file(tmp_path / "net.safetensors", net)
    parameters = {"net": of.type, "arguments": of.arguments, "weights": file, "modality": member}
    run, plan = give(run, plan, outside=parameters)
    checked(run, plan)
    given = run.given["outside"]
    assert given.member == member
    assert not given.net.training
    assert not any(weight.requires_grad for weight in given.net.parameters())
    np.testing.assert_array_equal(outputs(run, given.net, member), outputs(run, net, member))


def test_embeddings_get_a_head_from_the_labelled_training_samples_of_the_run(tmp_path):
    run, plan = make_run()
    run = Run(
        run.samples, keep_labels(run.splits, {"train": 0.5, "valid": 1}, 0), "image", 0, run.runtime
    )
    embeddings = np.asarray(run.samples.modalities["audio"]).reshape(len(run.samples), -1)[:, :20]
    file = tmp_path / "e.npz"
    np.savez(file, ids=run.samples.index["id"].to_numpy().astype(str), embeddings=embeddings)
    run, plan = give(run, plan, outside={"embeddings": file})
    train = run.rows("train")
    train = train[~run.unlabelled[train]]
    assert 0 < len(train) < len(run.rows("train"))
    valid, labels = run.rows("valid"), run.samples.labels
    head = fit_linear_head(
        (embeddings[train], labels[train]), (embeddings[valid], labels[valid]), 3
    )
    assert run.given["outside"].net.weight.equal(head.weight)
    again, _ = give(run, plan, outside={"embeddings": file})
    assert again.given["outside"].net is run.given["outside"].net  # fitted once in a process
    balanced = Run(
        run.samples,
        run.splits,
        "image",
        0,
        run.runtime,
        recipe=TrainingRecipe(class_weights="balanced"),
    )
    other, _ = give(balanced, plan, outside={"embeddings": file})
    assert other.given["outside"].net is not run.given["outside"].net


def test_an_unmasked_teacher_is_one_specialist_and_takes_no_part_in_stage_2(tmp_path):
    run, plan = make_run()
    logits = true_logits(run)
    file = logits_file(tmp_path / "t.parquet", run, logits)
    run, plan = give(run, plan, outside={"logits": file})
    nets = build_members(run, plan)
    masks, stage = prepare_masks(run, plan, nets)
    before, _ = make_run()
    assert list(masks) == list(prepare_masks(before, plan, build_members(before, plan))[0])
    batch = next(iter(stage.train))
    assert "outside" not in batch.frozen
    ensemble = assemble_ensemble(run, plan, nets, masks)
    assert ensemble.names[-1] == "outside/unmasked"
    table = tabulate_logits(run, ensemble, 8)
    own = table[table["specialist"] == "outside/unmasked"]
    np.testing.assert_array_equal(own[list(run.samples.classes)], logits.astype(np.float32))


def test_a_masked_teacher_has_a_mask_for_each_layer_which_stage_2_trains(tmp_path):
    run, plan = make_run()
    file = weights_file(tmp_path / "net.safetensors", teaching_net(run, plan, "audio"))
    layers = ("first", "second")
    run, plan = give(run, plan, outside={**AUDIO, "weights": file, "masked_layers": layers})
    checked(run, plan)
    done = run_stages(run, plan)
    assert {"outside/first", "outside/second"} < set(done.masks)
    assert "valid_kd_outside/first" in done.student.fit.history or done.masks
    start = prepare_masks(run, plan, build_members(run, plan))[0]["outside/first"]
    changed = done.masks["outside/first"]
    assert any(
        not one.equal(other)
        for one, other in zip(
            start.state_dict().values(), changed.state_dict().values(), strict=True
        )
    )


@pytest.mark.parametrize("preset", ["default", "merit"])
@pytest.mark.parametrize("frozen", ["cached", "online"])
def test_a_student_learns_from_given_teachers_in_stage_3(tmp_path, preset, frozen):
    run, plan = make_run(frozen=frozen)
    route = type(plan.route).model_validate({**plan.route.model_dump(), "preset": preset})
    plan = plan.model_copy(update={"route": route})
    alone = run_stages(run, plan).student.students["last"].state_dict()
    file = logits_file(tmp_path / "t.parquet", run, true_logits(run))
    run, plan = give(run, plan, outside={"logits": file})
    done = run_stages(run, plan)
    assert "outside/unmasked" in set(done.student.load["specialist"])
    state = done.student.students["last"].state_dict()
    assert any(not state[name].equal(alone[name]) for name in state)
    # Stages 1 and 2 do not depend on a teacher without masks.
    before, _ = make_run(frozen=frozen)
    members = run_stages(before, plan).members
    assert all(
        one.equal(other)
        for name in members
        for one, other in zip(
            members[name].state_dict().values(),
            done.members[name].state_dict().values(),
            strict=True,
        )
    )


def test_cached_and_online_logits_teach_the_same(tmp_path):
    states = []
    for frozen in ("cached", "online"):
        run, plan = make_run(frozen=frozen)
        file = logits_file(tmp_path / "t.parquet", run, true_logits(run))
        run, plan = give(run, plan, outside={"logits": file})
        states.append(run_stages(run, plan).student.students["last"].state_dict())
    assert all(states[0][name].equal(states[1][name]) for name in states[0])


def test_with_views_a_file_gives_the_same_logits_for_every_view(tmp_path):
    run, plan = make_run()
    recipe = TrainingRecipe.model_validate(
        {"views": 2, "transforms": {"image": ["toy_transforms.Noise"]}}
    )
    run = Run(run.samples, run.splits, "image", 0, run.runtime, recipe=recipe)
    logits = true_logits(run)
    run, plan = give(
        run, plan, outside={"logits": logits_file(tmp_path / "t.parquet", run, logits)}
    )
    frozen = {"t": Frozen(("outside",), lambda inputs: (inputs["outside"],))}
    batches = run.batches("train", ["image"], 8, frozen=frozen, in_views=True)
    images = []
    for view in (0, 1):
        (first, *_) = batches.start(0, epoch=view)
        images.append(first.inputs["image"])
        rows = run.rows("train")[first.place.numpy()]
        np.testing.assert_array_equal(first.frozen["t"][0], logits[rows].astype(np.float32))
    assert not images[0].equal(images[1])


def larger_run(classes: int = 3, order: str = "mixed") -> tuple[Run, Plan]:
    """A run with enough samples for the test of agreement; labels are mixed or sorted."""
    samples, splits = make_samples(400, classes=classes)
    if order == "sorted":
        labels = np.sort(samples.labels)
        index = samples.index.assign(label=labels)
        samples = dataclasses.replace(samples, labels=labels, index=index)
        splits = splits.assign(label=labels)
    run, plan = make_run()
    return Run(samples, splits, "image", 0, run.runtime), plan


@pytest.mark.parametrize("kind", ["logits", "embeddings"])
def test_permuted_ids_are_rejected(tmp_path, kind):
    run, plan = larger_run()
    ids = np.random.default_rng(1).permutation(run.samples.index["id"].to_numpy()).astype(str)
    values = true_logits(run)
    if kind == "embeddings":  # many, so that the linear layer fits any labels of training samples
        values = np.hstack([values, np.random.default_rng(2).normal(size=(len(values), 300))])
    arrays = {"ids": ids, kind: values, "classes": np.array(run.samples.classes)}
    np.savez(tmp_path / "t.npz", **arrays)
    run, plan = give(run, plan, outside={kind: tmp_path / "t.npz"})
    message = (
        r"teachers.given.outside: it predicts the label of \d+ of \d+ labelled samples, and \d+"
    )
    if kind == "logits":
        with pytest.raises(ValueError, match=message):
            checked(run, plan)
        return
    # 80 validation samples are too few to reject a weak teacher.
    checked(run, plan)


def test_embeddings_are_tested_on_samples_on_which_they_were_not_fitted(tmp_path, monkeypatch):
    run, plan = larger_run()
    ids = np.random.default_rng(1).permutation(run.samples.index["id"].to_numpy()).astype(str)
    values = np.random.default_rng(2).normal(size=(len(ids), 300))
    np.savez(tmp_path / "t.npz", ids=ids, embeddings=values)
    run, plan = give(run, plan, outside={"embeddings": tmp_path / "t.npz"})
    monkeypatch.setattr(given_teachers, "FEWEST", 50)
    with pytest.raises(ValueError, match="of 80 labelled samples"):
        checked(run, plan)


@pytest.mark.parametrize("order", ["mixed", "sorted"])
@pytest.mark.parametrize("scale", [0.7, 5.0])
def test_a_teacher_that_is_better_than_chance_is_accepted(tmp_path, order, scale):
    run, plan = larger_run(order=order)
    file = logits_file(tmp_path / "t.parquet", run, true_logits(run, scale))
    run, plan = give(run, plan, outside={"logits": file})
    checked(run, plan)


def test_a_teacher_that_finds_three_samples_of_a_rare_class_is_accepted(tmp_path):
    run, plan = larger_run(classes=2)
    labels = np.zeros(400, dtype=np.int64)
    labels[np.flatnonzero(run.splits["split"] == "train")[:3]] = 1
    samples = dataclasses.replace(
        run.samples, labels=labels, index=run.samples.index.assign(label=labels)
    )
    run = Run(samples, run.splits.assign(label=labels), "image", 0, run.runtime)
    file = logits_file(tmp_path / "t.parquet", run, true_logits(run, 9.0))
    run, plan = give(run, plan, outside={"logits": file})
    checked(run, plan)


def test_with_few_labels_the_agreement_is_only_logged(tmp_path, caplog):
    run, plan = make_run()
    ids = np.random.default_rng(1).permutation(run.samples.index["id"].to_numpy())
    file = logits_file(tmp_path / "t.parquet", run, true_logits(run), ids)
    run, plan = give(run, plan, outside={"logits": file})
    with caplog.at_level("INFO"):
        checked(run, plan)
    assert "given teacher 'outside': it predicts the label of" in caplog.text


def test_a_net_with_start_weights_is_rejected(tmp_path):
    run, plan = larger_run()
    net = build_members(run, plan)["audio"]
    with torch.no_grad():
        net.last.weight.zero_()
    file = weights_file(tmp_path / "net.safetensors", net)
    run, plan = give(run, plan, outside={**AUDIO, "weights": file})
    with pytest.raises(ValueError, match="by chance: its ids or classes are mixed up"):
        checked(run, plan)


def test_the_order_of_given_teachers_decides_nothing(tmp_path):
    run, plan = make_run()
    files = {
        name: {"logits": logits_file(tmp_path / f"{name}.parquet", run, true_logits(run, scale))}
        for name, scale in (("b", 2.0), ("a", 4.0))
    }
    one, _ = give(run, plan, **files)
    other, _ = give(run, plan, **dict(reversed(files.items())))
    assert list(one.given) == list(other.given) == ["a", "b"]
    assert list(one.samples.recorded) == list(other.samples.recorded)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_teacher_that_has_seen_other_labels_than_those_of_training_is_rejected(tmp_path, split):
    run, plan = make_run()
    index = run.samples.index
    seen = index.loc[index["split"].isin(["train", split]), ["id"]]
    seen.to_csv(tmp_path / "seen.csv", index=False)
    file = logits_file(tmp_path / "t.parquet", run, true_logits(run))
    teacher = {"logits": file, "seen_labels": tmp_path / "seen.csv"}
    run, plan = give(run, plan, outside=teacher)
    ids = index.loc[index["split"] == split, "id"].tolist()
    message = rf"it has seen labels of validation and test .*8 ids in all .*{ids[0]}"
    with pytest.raises(ValueError, match=message):
        checked(run, plan)


def test_the_training_split_is_that_of_heldout_whatever_the_protocol(tmp_path):
    run, plan = make_run()
    file = logits_file(tmp_path / "t.parquet", run, true_logits(run))
    run, plan = give(run, plan, outside={"logits": file, "seen_labels": "train"})
    checked(run, plan)
    splits = run.splits.assign(split=np.roll(run.splits["split"].to_numpy(), 1))
    other = Run(run.samples, splits, "image", 0, run.runtime, given=run.given)
    with pytest.raises(ValueError, match="has seen labels of validation"):
        checked(other, plan)


def test_labels_that_a_teacher_has_seen_and_the_run_hides_are_stated(tmp_path):
    run, plan = make_run()
    file = logits_file(tmp_path / "t.parquet", run, true_logits(run))
    _, plan = give(run, plan, a={"logits": file, "seen_labels": "train"}, b={"logits": file})
    assert labels_seen(run.samples, run.splits, plan.given) == []
    splits = keep_labels(run.splits, {"train": 0.5, "valid": 0.5}, 0)
    hidden = Run(run.samples, splits, "image", 0, run.runtime)
    count = int(hidden.unlabelled[hidden.rows("train")].sum())
    (sentence,) = labels_seen(run.samples, splits, plan.given)
    assert sentence.startswith(f"The given teacher 'a' has seen {count} training labels")


def test_the_file_of_seen_labels_needs_a_column_of_ids(tmp_path):
    run, _ = make_run()
    teacher = GivenTeacher(logits=tmp_path / "t.parquet", seen_labels=tmp_path / "seen.csv")
    with pytest.raises(FileNotFoundError, match="does not exist: declare which labels"):
        seen_ids(teacher, run.samples)
    pd.DataFrame({"name": ["s001"]}).to_csv(tmp_path / "seen.csv", index=False)
    with pytest.raises(ValueError, match="no column 'id' with ids, only 'name'"):
        seen_ids(teacher, run.samples)
    pd.DataFrame({"id": ["s001.png"]}).to_csv(tmp_path / "seen.csv", index=False)
    with pytest.raises(ValueError, match=r"1 id of no sample \('s001.png'\), and no other"):
        seen_ids(teacher, run.samples)
    pd.DataFrame({"id": ["s001", "x"]}).to_csv(tmp_path / "seen.csv", index=False)
    assert seen_ids(teacher, run.samples) == {"s001", "x"}
    (tmp_path / "seen.csv").write_bytes("id\nÄ\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"seen.csv cannot be read as CSV"):
        seen_ids(teacher, run.samples)


def test_weights_that_do_not_all_fit_are_rejected(tmp_path):
    run, plan = make_run()
    net = teaching_net(run, plan, "audio")
    state = {name: of for name, of in net.state_dict().items() if not name.startswith("last")}
    file = tmp_path / "net.pt"
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"outside: .*has no weights that fit for last"):
        give(run, plan, outside={**AUDIO, "weights": file})


def test_dense_labels_need_a_net(tmp_path):
    run, plan = make_run("dense labels")
    np.savez(tmp_path / "t.npz", ids=run.samples.index["id"].to_numpy().astype(str))
    with pytest.raises(ValueError, match=r"one row for each sample.*dense: give the net"):
        give(run, plan, outside={"logits": tmp_path / "t.npz"})
    file = weights_file(tmp_path / "net.safetensors", teaching_net(run, plan, "depth"))
    of = plan.members.modalities["depth"]
    teacher = {"net": of.type, "arguments": of.arguments, "weights": file, "modality": "depth"}
    run, plan = give(run, plan, outside=teacher)
    checked(run, plan)
    assert "outside/unmasked" in run_stages(run, plan).student.load["specialist"].unique()


def test_a_multimodal_net_does_not_get_what_is_recorded(tmp_path):
    run, plan = make_run("three modalities")
    net = teaching_net(run, plan, "multimodal")
    of = plan.members.multimodal
    teachers: dict[str, Any] = {
        "fused": {
            "net": of.type,
            "arguments": of.arguments,
            "weights": weights_file(tmp_path / "net.safetensors", net),
            "modality": "multimodal",
        },
        "outside": {"logits": logits_file(tmp_path / "t.parquet", run, true_logits(run))},
    }
    run, plan = give(run, plan, **teachers)
    checked(run, plan)
    done = run_stages(run, plan)
    assert list(done.student.load["specialist"].unique()[-2:]) == [
        "fused/unmasked",
        "outside/unmasked",
    ]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "none of logits, probabilities, embeddings and net is set"),
        ({"logits": "a.npz", "embeddings": "b.npz"}, "logits and embeddings of .* exactly one"),
        ({"logits": "a.npz", "modality": "audio"}, "modality is set, which only a net has"),
        ({"net": "toy_nets.Audio", "modality": "audio"}, "a given net needs weights"),
        ({"net": "toy_nets.Audio", "weights": "a.pt"}, "a given net needs modality"),
        ({"logit": "a.npz"}, "'logit'.*'logits'"),
    ],
)
def test_parameters_that_contradict_one_another_are_rejected(parameters, message):
    with pytest.raises(ValidationError, match=message):
        GivenTeacher.model_validate({"seen_labels": "none", **parameters})


@pytest.mark.parametrize("seen", [{}, {"seen_labels": False}, {"seen_labels": None}])
def test_what_a_teacher_has_seen_must_be_declared(seen):
    with pytest.raises(ValidationError, match=r"seen_labels is \w+; declare which labels"):
        GivenTeacher.model_validate({"logits": "a.npz", **seen})


@pytest.mark.parametrize(
    ("name", "modality", "message"),
    [
        ("image", "audio", "has the name 'image'"),
        ("student", "audio", "has the name 'student'"),
        ("specialists", "audio", "has the name 'specialists'"),
        ("my-clip", "audio", "has the name 'my-clip'"),
        ("clip", "sound", "unknown teachers.given.clip.modality 'sound'"),
    ],
)
def test_names_and_modalities_are_checked_with_the_plan(name, modality, message):
    _, plan = make_run()
    net = {"net": "toy_nets.Audio", "modality": modality, "weights": "a.pt", "seen_labels": "none"}
    teachers = {**plan.teachers.model_dump(), "given": {name: net}}
    with pytest.raises(ValidationError, match=message):
        Plan.model_validate({**dict(plan), "teachers": teachers})


def test_files_and_classes_are_checked_before_samples_are_read(tmp_path):
    file = tmp_path / "a.npz"
    teacher = GivenTeacher(logits=file, seen_labels="none")
    with pytest.raises(FileNotFoundError, match=r"teachers.given.clip: .*a.npz does not exist"):
        check_given_definitions({"clip": teacher})
    file.touch()
    check_given_definitions({"clip": teacher})
    seen = teacher.model_copy(update={"seen_labels": tmp_path / "seen.csv"})
    with pytest.raises(FileNotFoundError, match=r"seen.csv does not exist"):
        check_given_definitions({"clip": seen})
    net = GivenTeacher(net="toy_nets.Audios", weights=file, modality="audio", seen_labels="none")
    with pytest.raises(ValueError, match=r"teachers.given.clip.*toy_nets.*Audio"):
        check_given_definitions({"clip": net})
    run, plan = make_run()
    weights = weights_file(tmp_path / "net.safetensors", teaching_net(run, plan, "audio", 1))
    good = net.model_copy(update={"net": "toy_nets.Audio", "weights": weights})
    check_given_definitions({"clip": good})
    layer = good.model_copy(update={"masked_layers": ("frist",)})
    with pytest.raises(ValueError, match="did you mean 'first'"):
        check_given_definitions({"clip": layer})
    other = good.model_copy(update={"net": "toy_nets.Image"})
    with pytest.raises(ValueError, match=r"clip.*net.safetensors does not fit"):
        check_given_definitions({"clip": other})
    argument = good.model_copy(update={"arguments": {"width": 3}})
    with pytest.raises(TypeError, match=r"clip.*width"):
        check_given_definitions({"clip": argument})
