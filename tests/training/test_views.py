"""Views: what they are, that all nets see the same one, and that nothing else meets them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.data.samples import ABSENT, Samples
from mst_distill.mst.ensemble import SPECIALISTS, assemble_ensemble, tabulate_logits
from mst_distill.mst.networks import build_members
from mst_distill.mst.stage1_teachers import prepare_members
from mst_distill.mst.stage2_masks import build_masks, prepare_masks
from mst_distill.mst.stage3_route import prepare_student
from mst_distill.parameters import TrainingRecipe
from mst_distill.training.batches import Batches, Frozen
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed
from mst_distill.training.views import Views
from toy_runs import make_plan, make_run
from toys import in_precision, make_samples

SEED = 3


def recipe(views: int = 3, **transforms: Any) -> TrainingRecipe:
    """A recipe with views; by default noise of both modalities of a toy run."""
    noise = ["toy_transforms.Noise"]
    return TrainingRecipe(views=views, transforms=transforms or {"image": noise, "audio": noise})


def of_class(name: str, **arguments: Any) -> list[dict[str, Any]]:
    return [{"type": f"toy_transforms.{name}", "arguments": arguments}]


def view_of(samples: Samples, name: str, row: int, view: int, seed: int = SEED) -> np.ndarray:
    """The view that noise makes, computed here."""
    plain = torch.from_numpy(samples.modalities[name][row])
    if not view:
        return plain.numpy()
    key = derive_seed(seed, "view", name, samples.index["id"][row], str(view))
    generator = torch.Generator().manual_seed(key)
    return (plain + torch.randn(plain.shape, generator=generator, dtype=plain.dtype)).numpy()


def test_a_view_depends_on_seed_modality_sample_and_number_alone() -> None:
    samples, _ = make_samples()
    rows, numbers = np.array([4, 2, 4, 9]), np.array([1, 2, 2, 0])
    torch.manual_seed(11)
    before = torch.get_rng_state()
    made = Views(samples, recipe(), SEED).make(["audio", "image", "label"], rows, numbers)
    assert torch.get_rng_state().equal(before)
    for name in ("audio", "image"):
        for array, row, number in zip(made[name], rows, numbers, strict=True):
            np.testing.assert_array_equal(array, view_of(samples, name, row, number))
    np.testing.assert_array_equal(made["label"], samples.labels[rows])
    assert not np.array_equal(made["image"][0], made["image"][2])
    np.testing.assert_array_equal(made["image"][3], samples.modalities["image"][9])


def test_the_samples_of_the_store_stay_as_they_are() -> None:
    samples, _ = make_samples()
    before = {name: array.copy() for name, array in samples.modalities.items()}
    transforms = {"image": [{"type": "torch.nn.ReLU", "arguments": {"inplace": True}}]}
    Views(samples, recipe(**transforms), SEED).make(["image"], np.arange(5), np.ones(5, int))
    for name, array in samples.modalities.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.fixture(params=["image", "audio"])
def run(request: pytest.FixtureRequest) -> Run:
    plain, _ = make_run(target=request.param)
    return dataclasses.replace(plain, seed=SEED, recipe=recipe())


def epochs_of(batches: Batches, number: int) -> Iterator[tuple[int, Any]]:
    for epoch in range(number):
        for batch in batches.start(0, epoch):
            yield epoch, batch


@pytest.mark.parametrize("frozen", ["cached", "online"])
@pytest.mark.parametrize("resident", [True, False])
def test_epoch_e_shows_view_e_modulo_k_to_nets_in_training_and_to_frozen_nets(
    monkeypatch: pytest.MonkeyPatch, run: Run, resident: bool, frozen: Any
) -> None:
    monkeypatch.setattr("mst_distill.training.batches.fits", lambda *_: resident)
    settings = run.runtime.model_copy(update={"frozen": frozen})
    run = dataclasses.replace(run, runtime=settings)
    record = Frozen(("image", "audio"), lambda inputs: (inputs["image"], inputs["audio"]))
    batches = run.batches(
        "train", run.modalities, 5, shuffle="masks", frozen={"seen": record}, in_views=True
    )
    rows = run.rows("train")
    seen = set()
    for epoch, batch in epochs_of(batches, 5):
        for name, of_frozen in zip(("image", "audio"), batch.frozen["seen"], strict=True):
            assert of_frozen.equal(batch.inputs[name])
            for tensor, place in zip(of_frozen, batch.place.tolist(), strict=True):
                expected = view_of(run.samples, name, rows[place], epoch % 3)
                np.testing.assert_array_equal(tensor.numpy(), expected)
        assert batch.entry.tolist() == (epoch % 3 * len(rows) + batch.place).tolist()
        assert batch.label.tolist() == run.samples.labels[rows[batch.place]].tolist()
        again = batches.at(batch.entry)
        assert again.inputs["image"].equal(batch.inputs["image"])
        seen |= set(batch.entry.tolist())
    assert seen == set(range(3 * len(rows)))


def test_the_order_of_the_samples_is_that_without_views(run: Run) -> None:
    plain = dataclasses.replace(run, recipe=TrainingRecipe())
    orders = [
        [batch.place.tolist() for _, batch in epochs_of(batches, 3)]
        for batches in (
            of.batches("train", [run.target], 5, shuffle="masks", in_views=True)
            for of in (run, plain)
        )
    ]
    assert orders[0] == orders[1]


def test_every_stage_trains_on_views_and_validates_on_the_samples(run: Run) -> None:
    plan = make_plan(target=run.target, runtime=run.runtime)
    nets, teachers = prepare_members(run, plan)
    masks, adaptation = prepare_masks(run, plan, nets)
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, 8)
    _, routing = prepare_student(run, plan, nets[run.target], ensemble, table)
    pool = TeacherPool(run, {}, plan.members, 8)
    of_methods = pool.batches("", "nothing", "compare")
    stages = [(stage.train, stage.valid) for stage in (teachers, adaptation, routing)]
    for train, valid in [*stages, of_methods]:
        for _, batch in epochs_of(train, 2):
            for name, inputs in batch.inputs.items():
                rows = run.rows("train")[batch.place]
                views = (batch.entry // train.count).tolist()
                for row, view, tensor in zip(rows, views, inputs, strict=True):
                    np.testing.assert_array_equal(tensor, view_of(run.samples, name, row, view))
        for _, batch in epochs_of(valid, 2):
            assert batch.entry.equal(batch.place)


@torch.no_grad()
def test_the_specialists_see_the_view_that_the_student_sees(run: Run) -> None:
    with in_precision("float64"):
        samples, splits = make_samples(40)
        run = dataclasses.replace(run, samples=samples, splits=splits)
        plan = make_plan(target=run.target, runtime=run.runtime)
        nets = build_members(run, plan)
        masks = build_masks(run, plan, nets)
        for mask in masks.values():
            mask.eval()  # as after stage 2
        ensemble = assemble_ensemble(run, plan, nets, masks)
        table = tabulate_logits(run, ensemble, 8)
        _, stage = prepare_student(run, plan, nets[run.target], ensemble, table)
        rows = run.rows("train")
        for epoch, batch in epochs_of(stage.train, 3):
            views = {
                name: torch.from_numpy(
                    np.stack([view_of(samples, name, rows[at], epoch) for at in batch.place])
                )
                for name in samples.modalities
            }
            expected = ensemble.logits(views)
            torch.testing.assert_close(batch.frozen[SPECIALISTS][0], expected, rtol=0, atol=1e-12)


def test_the_table_of_logits_is_of_the_samples(run: Run) -> None:
    tables = []
    for of in (run, dataclasses.replace(run, recipe=TrainingRecipe())):
        plan = make_plan(target=run.target, runtime=run.runtime)
        nets = build_members(of, plan)
        ensemble = assemble_ensemble(of, plan, nets, build_masks(of, plan, nets))
        tables.append(tabulate_logits(of, ensemble, 8))
    pd.testing.assert_frame_equal(*tables)


def test_tables_of_samples_are_not_accepted_with_views(run: Run) -> None:
    table = torch.zeros(len(run.rows("train")), 3)
    with pytest.raises(ValueError, match="must not be used with their views"):
        run.batches("train", [run.target], 5, tables={"a": table}, in_views=True)


def test_a_sample_without_a_modality_has_no_view_of_it() -> None:
    samples, _ = make_samples()
    absent = np.where(np.arange(len(samples)) == 4, "audio", "")
    audio = samples.modalities["audio"].copy()
    audio[4] = np.nan
    samples = dataclasses.replace(
        samples,
        index=samples.index.assign(**{ABSENT: absent}),
        modalities={**samples.modalities, "audio": audio},
    )
    made = Views(samples, recipe(), SEED).make(["audio"], np.array([4, 5]), np.array([1, 1]))
    assert np.isnan(made["audio"][0]).all()
    np.testing.assert_array_equal(made["audio"][1], view_of(samples, "audio", 5, 1))


BROKEN = {
    "shape": (
        of_class("Longer"),
        r"training.transforms.audio \(Longer\) turns 'audio' of sample 's000' from torch.float32 "
        r"\(13, 32\) into torch.float32 \(13, 64\): shape and type must stay",
    ),
    "type": (of_class("Doubled"), r"into torch.float64 \(13, 32\): shape and type must stay"),
    "infinite": (of_class("Infinite"), "'audio' of sample 's000' into values that are not finite"),
    "array": (of_class("NoTensor"), "into a ndarray; it must return a tensor"),
    "generator": (
        of_class("NoiseOfNumPy"),
        r"two results for one seed: .* not from NumPy or `random`",
    ),
    "failure": (
        of_class("Failing"),
        "cannot be applied to sample 's000': RuntimeError: no such axis",
    ),
    "class": (["toy_transforms.Nose"], "did you mean 'Noise'"),
    "argument": (of_class("Noise", size=1), "toy_transforms.Noise: .*'size'"),
    "picture": (
        ["torchvision.transforms.v2.RandomHorizontalFlip"],
        r"is for pictures \(C, H, W\), and a sample of 'audio' has only 2 axes",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_transform_that_breaks_a_rule_is_named_before_anything_is_trained(case: str) -> None:
    transforms, message = BROKEN[case]
    plain, plan = make_run()
    run = dataclasses.replace(plain, recipe=recipe(audio=transforms))
    with pytest.raises(ValueError, match=message):
        prepare_members(run, plan)


def test_what_cannot_be_called_is_no_transform() -> None:
    samples, _ = make_samples()
    with pytest.raises(TypeError, match=r"toy_transforms\.Uncallable cannot be called"):
        Views(samples, recipe(audio=of_class("Uncallable")), SEED)


def test_a_later_sample_for_which_a_transform_fails_is_named() -> None:
    samples, _ = make_samples()
    samples.modalities["audio"][9] = 50
    views = Views(samples, recipe(audio=of_class("Infinite", above=49)), SEED)
    with pytest.raises(ValueError, match="of sample 's009' into values that are not finite"):
        views.make(["audio"], np.arange(10), np.ones(10, int))


DENSE = {"rgb": (3, 8, 8), "depth": (1, 8, 8)}


def dense_samples(ignored: int | None) -> Samples:
    """Samples whose pictures show the label of each pixel, plus 1."""
    samples, _ = make_samples(20, DENSE, classes=4, dense=(8, 8), ignored=ignored)
    arrays = {
        name: np.broadcast_to(samples.labels[:, None] + 1, (20, *shape)).astype(np.float32)
        for name, shape in DENSE.items()
    }
    return dataclasses.replace(samples, modalities=arrays)


JOINT = {
    "flip": [{"type": "torchvision.transforms.v2.RandomHorizontalFlip", "arguments": {"p": 1}}],
    "crop": [
        {
            "type": "torchvision.transforms.v2.RandomResizedCrop",
            "arguments": {"size": [8, 8], "interpolation": 0},
        }
    ],
    "affine": [{"type": "torchvision.transforms.v2.RandomAffine", "arguments": {"degrees": 40}}],
    "own": ["toy_transforms.Shift"],
}


@pytest.mark.parametrize("ignored", [0, 3])
@pytest.mark.parametrize("case", JOINT)
def test_pictures_and_dense_labels_are_transformed_together(case: str, ignored: int) -> None:
    samples = dense_samples(ignored)
    views = Views(samples, recipe(joint=JOINT[case]), SEED)
    rows = np.arange(20)
    made = views.make(["rgb", "depth", "label"], rows, np.ones(20, int))
    uncovered = made["depth"][:, 0] == 0
    for name, shape in DENSE.items():
        shown = made[name] - 1
        assert shown.shape == (20, *shape)
        np.testing.assert_array_equal(
            np.where(uncovered[:, None], ignored, shown),
            np.broadcast_to(made["label"][:, None], (20, *shape)),
        )
    assert not np.array_equal(made["label"], samples.labels)
    assert uncovered.any() == (case in ("affine", "own"))
    # One modality alone is that of the same view.
    alone = views.make(["depth"], rows, np.ones(20, int))
    np.testing.assert_array_equal(alone["depth"], made["depth"])


@pytest.mark.parametrize("fill", [0, 1, 2, 127, 255])
@pytest.mark.parametrize("ignored", [None, 0, 3])
def test_no_fill_value_is_a_class(ignored: int | None, fill: float) -> None:
    samples = dense_samples(ignored)
    arguments = {"degrees": 40, "fill": fill}
    rotate = [{"type": "torchvision.transforms.v2.RandomAffine", "arguments": arguments}]
    if ignored is None:
        with pytest.raises(ValueError, match="uncovers pixels of sample"):
            Views(samples, recipe(joint=rotate), SEED)
        return
    views = Views(samples, recipe(joint=rotate), SEED)
    made = views.make(["depth", "label"], np.arange(20), np.ones(20, int))
    covered = made["label"] != ignored
    np.testing.assert_array_equal(made["depth"][:, 0][covered], made["label"][covered] + 1)
    assert (made["label"][:, 0, 0] == ignored).any()


def test_a_sample_without_pictures_has_no_joint_view() -> None:
    samples, _ = make_samples(6, {"image": (3, 8, 8), "text": (5,)})
    absent = np.where(np.arange(6) == 4, "image", "")
    samples = dataclasses.replace(samples, index=samples.index.assign(**{ABSENT: absent}))
    moved = recipe(joint=JOINT["crop"], text=of_class("Noise"))
    views = Views(samples, moved, SEED)
    rows, numbers = np.array([4, 5]), np.array([1, 1])
    made = views.make(["image", "text"], rows, numbers)
    np.testing.assert_array_equal(made["image"][0], samples.modalities["image"][4])
    for text, row in zip(made["text"], rows, strict=True):
        np.testing.assert_array_equal(text, view_of(samples, "text", row, 1))


def test_pictures_of_two_sizes_cannot_be_moved_together() -> None:
    samples, _ = make_samples(6, {"image": (3, 8, 8), "audio": (1, 6, 9)})
    with pytest.raises(ValueError, match=r"one height and width.*'audio': \(1, 6, 9\)"):
        Views(samples, recipe(joint=JOINT["flip"]), SEED)


def test_a_transform_that_clamps_is_not_for_standardised_pictures() -> None:
    samples, _ = make_samples(6, {"image": (3, 8, 8), "audio": (1, 6, 9)})
    noise = ["torchvision.transforms.v2.GaussianNoise"]
    with pytest.raises(ValueError, match=r"limits 'image' of sample 's000' to \[0, 1\]"):
        Views(samples, recipe(image=noise), SEED)
    pictures = {name: np.clip(of, 0, 1) for name, of in samples.modalities.items()}
    Views(dataclasses.replace(samples, modalities=pictures), recipe(image=noise), SEED)


@pytest.mark.parametrize("name", ["Coin", "Previous"])
def test_hidden_state_of_a_transform_is_found(name: str) -> None:
    samples, _ = make_samples()
    with pytest.raises(ValueError, match="two results for one seed"):
        Views(samples, recipe(audio=of_class(name)), SEED)


BROKEN_JOINT = {
    "LabelLost": r"must return a dict with the keys \['rgb', 'depth', 'label'\]",
    "LabelsMixed": "makes new labels of sample 's000': .* nearest neighbour",
    "Shift": "uncovers pixels of sample 's000', and the benchmark has no label",
}


@pytest.mark.parametrize("name", BROKEN_JOINT)
def test_labels_that_no_longer_fit_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=BROKEN_JOINT[name]):
        Views(dense_samples(None), recipe(joint=of_class(name)), SEED)


def test_blended_labels_are_an_error() -> None:
    samples = dense_samples(None)
    extremes = dataclasses.replace(samples, labels=np.where(samples.labels < 2, 0, 3))
    with pytest.raises(ValueError, match="makes new labels of sample 's000'"):
        Views(extremes, recipe(joint=of_class("LabelsBlended")), SEED)


def test_transforms_of_all_pictures_need_one() -> None:
    samples, _ = make_samples(modalities={"audio": (13, 32), "text": (5,)})
    with pytest.raises(ValueError, match=r"moves all modalities of the shape \(C, H, W\)"):
        Views(samples, recipe(joint=JOINT["flip"]), SEED)


def test_a_modality_has_its_own_transforms_after_the_joint_ones() -> None:
    samples = dense_samples(0)
    both = recipe(joint=JOINT["flip"], rgb=of_class("Noise", scale=0.01))
    made = Views(samples, both, SEED).make(["rgb", "depth"], np.array([1]), np.array([1]))
    flipped: Tensor = torch.from_numpy(samples.modalities["rgb"][1]).flip(-1)
    assert 0 < (torch.from_numpy(made["rgb"][0]) - flipped).abs().max() < 0.1
    np.testing.assert_array_equal(made["depth"][0], samples.modalities["depth"][1][..., ::-1])
