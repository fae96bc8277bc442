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


def test_the_catalog_still_receives_the_runtime_parameters(load, tmp_path):
    (tmp_path / "base" / "catalog.yml").write_text("a: {path: '${runtime_params:seed, 0}'}\n")
    loader = ConfigLoader(str(tmp_path), "other", {"seed": 4}, base_env="base")
    loader["parameters"]
    assert loader["catalog"] == {"a": {"path": 4}}
