"""Typed parameters: default values, presets, and errors with a hint."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mst_distill.errors import did_you_mean
from mst_distill.parameters import (
    Benchmark,
    Card,
    Diagnose,
    Evaluate,
    ExportSettings,
    LabelCurve,
    Masks,
    Member,
    Members,
    Route,
    Runtime,
    Teachers,
    TrainingRecipe,
)

LENGTH = {"epochs": 3, "batch_size": 4, "learning_rate": 0.1}
NETS = {name: {"type": f"nets.{name}"} for name in ("image", "audio", "depth")}


def members(**modalities: Any) -> Members:
    return Members(multimodal={"type": "nets.fusion"}, modalities=modalities or NETS)


@pytest.mark.parametrize(
    ("block", "values", "key", "nearest"),
    [
        (Benchmark, {"type": "a.B", "argument": {}}, "argument", "arguments"),
        (Member, {"type": "a.B", "masked_layer": ["x"]}, "masked_layer", "masked_layers"),
        (Members, {"multi_modal": {}, "modalities": NETS}, "multi_modal", "multimodal"),
        (Teachers, {**LENGTH, "epoch": 5}, "epoch", "epochs"),
        (ExportSettings, {"int_8": True}, "int_8", "int8"),
        (Masks, {**LENGTH, "factors": 2}, "factors", "factor"),
        (Route, {**LENGTH, "kd_wieght": 2}, "kd_wieght", "kd_weight"),
        (Route, {**LENGTH, "scaled_ballance": True}, "scaled_ballance", "scaled_balance"),
        (Evaluate, {"resample": 10}, "resample", "resamples"),
        (Card, {"licence": "mit"}, "licence", "license"),
        (Diagnose, {"sample": 10}, "sample", "samples"),
        (Runtime, {"precission": "float32"}, "precission", "precision"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_key(
    block: type[BaseModel], values: dict[str, Any], key: str, nearest: str
) -> None:
    with pytest.raises(ValidationError, match=f"unknown parameter '{key}'") as error:
        block.model_validate(values)
    assert f"did you mean '{nearest}'?" in str(error.value)
    assert ", ".join(block.model_fields) in str(error.value)


def test_an_unknown_key_of_a_nested_block_is_named_with_its_path() -> None:
    with pytest.raises(ValidationError, match="unknown parameter 'tpye'") as error:
        members(image=NETS["image"], audio={"tpye": "nets.audio"})
    assert "modalities.audio" in str(error.value)
    assert "did you mean 'type'?" in str(error.value)


@pytest.mark.parametrize(
    ("block", "values", "field"),
    [
        (Teachers, {"epochs": 0}, "epochs"),
        (Teachers, {"batch_size": -1}, "batch_size"),
        (Teachers, {"learning_rate": 0}, "learning_rate"),
        (Teachers, {"temperature": 0}, "temperature"),
        (Masks, {"factor": 0}, "factor"),
        (Route, {"kd_weight": -0.1}, "kd_weight"),
        (Route, {"chosen": 0}, "chosen"),
        (Route, {"selection": "loss"}, "selection"),
        (Route, {"preset": "papers"}, "preset"),
        (Route, {"balance": "entropy"}, "balance"),
    ],
)
def test_a_value_out_of_range_is_named(
    block: type[BaseModel], values: dict[str, Any], field: str
) -> None:
    block.model_validate(LENGTH)
    with pytest.raises(ValidationError, match=f"\n{field}\n"):
        block.model_validate(LENGTH | values)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_outside_0_and_1_is_an_error(confidence: float) -> None:
    with pytest.raises(ValidationError, match="confidence"):
        Evaluate(confidence=confidence)


@pytest.mark.parametrize("loss", [-0.01, 1.5])
def test_a_tolerated_loss_that_is_no_share_is_an_error(loss: float) -> None:
    with pytest.raises(ValidationError, match="tolerated_loss"):
        ExportSettings(tolerated_loss=loss)


@pytest.mark.parametrize("key", ["device", "precision", "frozen"])
def test_an_invalid_runtime_is_an_error(key: str) -> None:
    with pytest.raises(ValidationError, match=f"\n{key}\n"):
        Runtime.model_validate({key: 16})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(
        ValidationError, match="'learning_rate' is missing; a block in an environment"
    ):
        Teachers.model_validate({"epochs": 1, "batch_size": 1})


def test_blocks_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Teachers(**LENGTH).epochs = 9


def test_missing_keys_have_the_documented_defaults() -> None:
    assert Teachers(**LENGTH).temperature == 4
    assert (Masks(**LENGTH).factor, Masks(**LENGTH).heads) == (2, 3)
    assert Evaluate() == Evaluate(resamples=2000, confidence=0.95, calibration_bins=15)
    assert Runtime() == Runtime(device="auto", precision="float32", frozen="auto", tracking=True)
    assert Member(type="a.B") == Member(type="a.B", arguments={}, masked_layers=())


SWITCHES = ("selection", "stacked_masks", "scaled_balance", "early_decay")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ({}, ("metric", False, False, False)),
        ({"preset": "default"}, ("metric", False, False, False)),
        ({"preset": "paper"}, ("ce", False, False, False)),
        ({"preset": "reference"}, ("ce", True, True, True)),
    ],
)
def test_a_preset_sets_its_keys(preset: dict[str, str], expected: tuple[Any, ...]) -> None:
    route = Route(**LENGTH, **preset)
    assert tuple(getattr(route, name) for name in SWITCHES) == expected
    weights = (route.task_weight, route.kd_weight, route.balance_weight)
    assert (*weights, route.chosen, route.balance) == (1, 1, 1, 1, "kl")


@pytest.mark.parametrize("preset", ["default", "paper", "reference"])
@pytest.mark.parametrize(
    "changes", [{"selection": "last"}, {"stacked_masks": False}, {"early_decay": True}]
)
def test_a_key_overrides_the_preset(preset: str, changes: dict[str, Any]) -> None:
    unchanged = Route(**LENGTH, preset=preset).model_dump()
    assert Route(**LENGTH, preset=preset, **changes).model_dump() == unchanged | changes


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([0.3, 0.1], (0.1, 0.3)), ("1 0.1 0.1", (0.1, 1.0)), (0.1, (0.1,)), (1, (1.0,))],
)
def test_shares_of_labels_are_a_list_or_separated_by_spaces(
    shares: object, expected: tuple[float, ...]
) -> None:
    curve = LabelCurve.model_validate({"shares": shares, "methods": "baseline kd"})
    assert curve.shares == expected
    assert curve.methods == ("baseline", "kd")


@pytest.mark.parametrize("shares", ["", "0.1,0.3", 0, 1.5, "0 1"])
def test_invalid_shares_of_labels_are_an_error(shares: object) -> None:
    with pytest.raises(ValueError, match="shares"):
        LabelCurve.model_validate({"shares": shares, "methods": "baseline"})


@pytest.mark.parametrize("name", ["multimodal", "student", "label", "my audio", "a/b", "2d", ""])
def test_the_name_of_a_modality_is_an_identifier_and_not_reserved(name: str) -> None:
    with pytest.raises(ValidationError, match=f"no modality may be named '{name}'"):
        members(**{"image": NETS["image"], name: NETS["audio"]})


@pytest.mark.parametrize("names", [[], ["image"]])
def test_fewer_than_two_modalities_are_an_error(names: list[str]) -> None:
    with pytest.raises(ValidationError, match=r"modalities\n.*at least 2 items"):
        Members(multimodal={"type": "a.B"}, modalities={name: NETS[name] for name in names})


def test_the_multimodal_teacher_comes_before_the_crossmodal_teachers() -> None:
    teachers = members().teachers_of("audio")
    assert list(teachers) == ["multimodal", "image", "depth"]
    assert [net.type for net in teachers.values()] == ["nets.fusion", "nets.image", "nets.depth"]
    assert list(members().teachers_of("image")) == ["multimodal", "audio", "depth"]


def test_the_student_comes_after_its_teachers() -> None:
    all_members = members().all_of("audio")
    assert list(all_members) == ["multimodal", "image", "depth", "audio"]
    assert all_members["audio"].type == "nets.audio"


@pytest.mark.parametrize(("target", "nearest"), [("adio", "audio"), ("multimodal", None)])
def test_an_unknown_target_is_named_with_the_nearest(target: str, nearest: str | None) -> None:
    with pytest.raises(ValueError, match=f"unknown target '{target}'") as error:
        members().teachers_of(target)
    assert "available: image, audio, depth" in str(error.value)
    assert f"did you mean '{nearest}'" in str(error.value) or nearest is None


def test_an_unknown_name_is_reported_with_the_nearest_one() -> None:
    assert did_you_mean("fruit", "aple", ["pear", "apple"]) == (
        "unknown fruit 'aple'; available: pear, apple; did you mean 'apple'?"
    )
    assert did_you_mean("fruit", "aple", []) == "unknown fruit 'aple'; available: none"
    assert "did you mean" in did_you_mean("fruit", "zzz", ["apple"])


def test_a_text_is_the_preset_of_a_recipe_and_single_keys_override_it() -> None:
    strong = TrainingRecipe.model_validate("strong")
    assert (strong.optimizer.type, strong.schedule) == ("torch.optim.AdamW", "cosine")
    assert strong == TrainingRecipe(preset="strong")
    changed = TrainingRecipe(preset="strong", warmup=0.2, optimizer="torch.optim.NAdam")
    assert (changed.warmup, changed.schedule) == (0.2, "cosine")
    assert (changed.optimizer.type, changed.optimizer.arguments) == ("torch.optim.NAdam", {})
    assert TrainingRecipe.model_validate("published") == TrainingRecipe()


def test_a_recipe_is_stored_as_what_differs_from_the_published_one() -> None:
    assert TrainingRecipe().model_dump() == {}
    assert TrainingRecipe(schedule="cosine").model_dump() == {"schedule": "cosine"}
    strong = TrainingRecipe.model_validate("strong")
    assert TrainingRecipe.model_validate(strong.model_dump()) == TrainingRecipe(
        **strong.model_dump()
    )
    assert "preset" not in strong.model_dump()


def test_arguments_alone_are_those_of_the_optimiser_of_the_preset() -> None:
    changed = TrainingRecipe(preset="strong", optimizer={"arguments": {"weight_decay": 0.1}})
    assert changed.optimizer.type == "torch.optim.AdamW"
    assert changed.optimizer.arguments == {"weight_decay": 0.1}


def test_a_constant_rate_has_no_warmup() -> None:
    assert TrainingRecipe(preset="strong", schedule="constant").warmup == 0


def test_views_and_transforms_come_together() -> None:
    with pytest.raises(ValueError, match="views is 4 and there are no transforms"):
        TrainingRecipe(views=4)
    with pytest.raises(ValueError, match="transforms are set and views is 1"):
        TrainingRecipe(transforms={"image": ["torch.nn.Dropout"]})
    with pytest.raises(ValueError, match=r"transforms\.image is empty"):
        TrainingRecipe(views=2, transforms={"image": []})
    found = TrainingRecipe(views=2, transforms={"image": ["torch.nn.Dropout"]})
    assert TrainingRecipe.model_validate(found.model_dump()) == found
