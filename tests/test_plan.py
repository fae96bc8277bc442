"""All parameters of a run: what is wrong with them is stated at once, key by key."""

from __future__ import annotations

from typing import Any

import pytest

from mst_distill.plan import Plan, protocol_in_path, read_plan
from toy_runs import make_plan


def parameters(**changes: Any) -> dict[str, Any]:
    plain = make_plan().model_dump()
    return plain | {
        name: {**plain.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in changes.items()
    }


def test_the_metric_that_decides_is_kept_with_a_network() -> None:
    plans = [make_plan(), read_plan(parameters(evaluate={"metric": "nll"}))]
    assert [plan.validated for plan in plans] == [
        ("accuracy", "ce"),
        ("log_likelihood", "accuracy", "ce"),
    ]


def test_parameters_without_faults_are_a_plan() -> None:
    assert read_plan(parameters()) == make_plan()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"techers": {}}, "unknown parameter 'techers'; .*did you mean 'teachers'"),
        (
            {"teachers": {"epoch": 5}},
            "teachers: unknown parameter 'epoch'; .*did you mean 'epochs'",
        ),
        ({"teachers": {"epochs": 0}}, "teachers.epochs is 0: input should be greater than 0"),
        ({"protocol": "held-out"}, "^unknown protocol 'held-out'; .*did you mean 'heldout'"),
        ({"fold": "1/5"}, "^fold is '1/5', and protocol is 'heldout': set protocol=grouped"),
        ({"protocol": "grouped", "fold": "5/4"}, "^fold is '5/4'; it must be I/K with I in"),
        ({"protocol": "grouped", "fold": 3}, "^fold is 3, which Kedro has read as a number"),
        ({"protocol": "grouped", "fold": "2of5"}, "^fold is '2of5'; it must be I/K or the name"),
        ({"protocol": "grouped", "fold": "seed-0"}, "^fold is 'seed-0'; it must be I/K or the"),
        (
            {"protocol": "grouped", "fold": "../a"},
            "^fold is '../a'; it must be I/K or the name of a group",
        ),
        ({"run": "../other"}, "^run is '../other'; it is part of paths: up to 100 letters"),
        ({"run": ".."}, "^run is '..'; it is"),
        ({"run": ""}, "^run is ''; it is"),
        ({"run": "x" * 101}, "^run is 'x+'; it is"),
        ({"run": ["a"]}, r"^run is \['a'\]; it is"),
        ({"run": None}, "^run is None; it is"),
        ({"run": 7}, "^run is 7, which Kedro has read .* for example --params=run=run-7$"),
        ({"run": True}, "^run is True, which Kedro has read"),
        ({"seed": True}, "^seed is True; it must"),
        ({"teachers": {"epochs": True}}, "^teachers: epochs is True; it must be a number"),
        ({"route": {"learning_rate": float("inf")}}, "route.learning_rate is inf: .*finite"),
        ({"route": {"preset": ["paper"]}}, r"route.preset is \['paper'\]: "),
        ({"training": "stron"}, "^training: unknown preset 'stron'; .*did you mean 'strong'"),
        ({"training": 7}, "^training: unknown preset '7'; available: published, strong"),
        ({"training": {"preset": ["strong"]}}, "^training: unknown preset "),
        ({"training": {"shedule": "cosine"}}, "^training: unknown parameter 'shedule'; .*schedule"),
        ({"training": {"warmup": 0.1}}, "^training: warmup is set and schedule is constant"),
        ({"training": {"warmup": 1}}, "^training.warmup is 1: input should be less than 1"),
        ({"training": {"gradient_clip": 0}}, "^training.gradient_clip is 0: input should be gr"),
        (
            {"training": {"optimizer": {"arguments": {"lr": 1}}}},
            "^training.optimizer.arguments: remove 'lr': each stage has its own learning_rate",
        ),
        ({"compare": {"targets": "IMAGE"}}, "^unknown compare.targets 'IMAGE'; .*did you mean"),
        ({"compare": {"only": 1}}, "compare: compare.only is 1; it must be 'all' or names"),
        ({"compare": {"only": ""}}, "compare: compare.only is ''; it must be"),
        ({"compare": {"only": "baseline kd"}}, "^compare: unknown method in compare.only 'kd'"),
        (
            {"compare": {"methods": {"a/b": {"type": "x.Y"}}}},
            "compare.methods has the name 'a/b'",
        ),
        ({"limit": 0}, "^limit is 0; it must be an integer above 0, or 'all'$"),
        ({"limit": True}, "^limit is True; it must"),
        ({"seed": -1}, "^seed is -1; it must"),
        ({"seed": 1.5}, "^seed is 1.5; it must"),
        ({"target": "imag"}, "^unknown target 'imag'; .*did you mean 'image'"),
        ({"route": {"chosen": 5}}, "^route.chosen is 5, but .*'image'.* 4"),
    ],
)
def test_a_fault_is_named_with_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plan(parameters(**changes))


@pytest.mark.parametrize("only", ["second first", ["second", "first"]])
def test_only_some_methods_may_be_compared(only: Any) -> None:
    methods = {name: {"type": "x.Y"} for name in ("first", "second", "third")}
    plan = read_plan(parameters(compare={"methods": methods, "only": only}))
    assert list(plan.compare.methods) == ["second", "first"]
    assert list(read_plan(parameters(compare={"methods": methods})).compare.methods) == [*methods]


def test_all_faults_are_named_at_once() -> None:
    faults = {"teachers": {"epochs": 0}, "masks": {"heads": "three"}, "seed": -1}
    with pytest.raises(ValueError, match=r"teachers\.epochs") as error:
        read_plan(parameters(**faults))
    assert "masks.heads is 'three'" in str(error.value)
    assert "seed is -1" in str(error.value)


def test_teachers_without_masked_layers_make_no_specialists() -> None:
    plain = parameters()
    for member in (plain["members"]["multimodal"], plain["members"]["modalities"]["audio"]):
        member["masked_layers"] = ()
    with pytest.raises(ValueError, match=r"'image'.*multimodal, audio"):
        read_plan(plain)


def test_a_part_of_a_plan_has_no_other_fields() -> None:
    part: Plan = make_plan().only(["seed", "route"])
    assert (part.seed, part.route.epochs) == (0, 3)
    for name in set(Plan.model_fields) - {"seed", "route"}:
        with pytest.raises(AttributeError, match=name):
            getattr(part, name)


def test_transforms_are_of_a_modality() -> None:
    training = {"views": 2, "transforms": {"imag": ["torch.nn.Dropout"]}}
    with pytest.raises(ValueError, match=r"modality in training\.transforms 'imag'.*'image'"):
        read_plan({**make_plan().model_dump(), "training": training})


def test_a_fold_is_part_of_paths_and_the_seed_only_without_one() -> None:
    plan = read_plan(parameters(protocol="grouped", fold="2/5"))
    assert plan.data_name == "grouped-2of5-all"
    assert plan.deal == {"fold": "2/5"}
    by_seed = read_plan(parameters(protocol="grouped", seed=7))
    assert by_seed.data_name == "grouped-seed-7-all"
    assert by_seed.deal == {"seed": 7}
    assert read_plan(parameters(protocol="grouped", fold="7")).fold == "7"  # a group named 7
    assert read_plan(parameters(protocol="grouped", fold="02/05")).data_name == plan.data_name
    assert protocol_in_path("grouped", "02/05", 0) == "grouped-2of5"
    only = plan.only(["deal", "target"])
    assert only.deal == plan.deal
    assert make_plan().data_name == "heldout-all"
    assert make_plan().deal == {}


def test_the_columns_of_evaluate_are_a_list_or_separated_by_spaces() -> None:
    assert read_plan(parameters(evaluate={"by": "source group"})).evaluate.by == ("source", "group")
    assert read_plan(parameters(evaluate={"by": ["source"]})).evaluate.by == ("source",)
