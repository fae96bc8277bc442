"""Environments replace whole blocks; the command line changes single keys of the result."""

from __future__ import annotations

import pytest

from mst_distill.config_loader import ConfigLoader

BASE = """
target: image
train: {epochs: 3, rate: 0.1}
evaluate: {bins: 5, draws: 9}
"""


@pytest.fixture
def load(tmp_path):
    for name, text in {"base": BASE, "other": "train: {epochs: 7}\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "parameters.yml").write_text(text)

    def parameters(env, **runtime_params):
        loader = ConfigLoader(
            str(tmp_path), env, runtime_params, base_env="base", default_run_env="base"
        )
        return loader["parameters"]

    return parameters


def test_a_block_of_an_environment_replaces_the_block_of_base(load):
    assert load("other") == {
        "target": "image",
        "train": {"epochs": 7},
        "evaluate": {"bins": 5, "draws": 9},
    }


@pytest.mark.parametrize("env", ["base", "other"])
def test_a_key_from_the_command_line_does_not_change_the_rest_of_its_block(load, env):
    found = load(env, evaluate={"bins": 6}, target="audio")
    assert found["evaluate"] == {"bins": 6, "draws": 9}
    assert found["target"] == "audio"


def test_the_command_line_adds_a_key_to_a_block_of_the_environment(load):
    assert load("other", train={"rate": 0.5})["train"] == {"epochs": 7, "rate": 0.5}


def test_a_part_of_paths_is_set_in_globals_alone(load, tmp_path):
    (tmp_path / "base" / "globals.yml").write_text("target: image\nbenchmark: digits\n")
    (tmp_path / "other" / "parameters.yml").write_text("target: audio\nbenchmark: {type: a.B}\n")
    with pytest.raises(ValueError, match=r"sets target to 'audio'.*under 'image'.*target=audio"):
        load("other")
    assert load("other", target="audio")["target"] == "audio"
    assert load("other", target="image")["target"] == "image"
    (tmp_path / "other" / "globals.yml").write_text("target: audio\n")
    assert load("other")["target"] == "audio"


def test_single_keys_change_the_preset_of_a_recipe(load, tmp_path):
    (tmp_path / "other" / "parameters.yml").write_text("training: strong\n")
    assert load("other")["training"] == "strong"
    found = load("other", training={"gradient_clip": 1.0})["training"]
    assert found == {"preset": "strong", "gradient_clip": 1.0}
    assert load("other", training="published")["training"] == "published"


def test_the_catalog_still_receives_the_runtime_parameters(load, tmp_path):
    (tmp_path / "base" / "catalog.yml").write_text("a: {path: '${runtime_params:seed, 0}'}\n")
    loader = ConfigLoader(str(tmp_path), "other", {"seed": 4}, base_env="base")
    loader["parameters"]
    assert loader["catalog"] == {"a": {"path": 4}}


TABLE = """
benchmark:
  type: mst_distill.benchmarks.table.Table
  arguments:
    table: index.csv
    modalities: {words: text, counts: {type: numbers, column: [a, b]}}
members: auto
"""


def nets_of(parameters):
    members = parameters["members"]
    return {name: net["type"].split(".")[-1] for name, net in members["modalities"].items()}


def test_the_networks_of_a_benchmark_replace_auto(load, tmp_path):
    (tmp_path / "other" / "parameters.yml").write_text(TABLE)
    members = load("other")["members"]
    assert nets_of({"members": members}) == {"words": "VectorNet", "counts": "VectorNet"}
    assert members["multimodal"]["arguments"] == {
        "branches": {"words": "vector", "counts": "vector"}
    }


def test_auto_follows_the_benchmark_of_the_command_line(load, tmp_path):
    (tmp_path / "other" / "parameters.yml").write_text(TABLE)
    picture = {"arguments": {"modalities": {"picture": "image"}}}
    assert nets_of(load("other", benchmark=picture)) == {
        "words": "VectorNet", "counts": "VectorNet", "picture": "MapNet",
    }  # fmt: skip


def test_keys_of_members_from_the_command_line_change_the_networks_of_auto(load, tmp_path):
    (tmp_path / "other" / "parameters.yml").write_text(TABLE)
    words = {"arguments": {"hidden": 32}}
    changed = load("other", members={"modalities": {"words": words}})["members"]
    expected = load("other")["members"]
    expected["modalities"]["words"]["arguments"] = {"hidden": 32}
    assert changed == expected


def test_auto_on_the_command_line_replaces_the_members_of_the_environment(load, tmp_path):
    listed = TABLE.replace("members: auto", "members: {multimodal: {type: a.B}}")
    (tmp_path / "other" / "parameters.yml").write_text(listed)
    assert set(load("other", members="auto")["members"]) == {"multimodal", "modalities"}


def test_auto_is_an_error_for_a_benchmark_without_default_networks(load, tmp_path):
    digits = "benchmark: {type: mst_distill.benchmarks.digits.Digits}\nmembers: auto\n"
    (tmp_path / "other" / "parameters.yml").write_text(digits)
    with pytest.raises(ValueError, match=r"digits\.Digits has no default networks"):
        load("other")


def test_auto_stays_if_the_benchmark_is_not_valid(load, tmp_path):
    (tmp_path / "other" / "parameters.yml").write_text("benchmark: {typ: a.B}\nmembers: auto\n")
    assert load("other")["members"] == "auto"
