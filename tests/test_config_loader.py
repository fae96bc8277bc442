"""Environments replace whole blocks; the command line changes single keys of what comes of it."""

from __future__ import annotations

import pytest

from mst_distill.config_loader import ConfigLoader

BASE = """
target: image
train: {epochs: 3, rate: 0.1}
judge: {bins: 5, draws: 9}
"""


@pytest.fixture
def load(tmp_path):
    for name, text in {"base": BASE, "other": "train: {epochs: 7}\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "parameters.yml").write_text(text)

    def parameters(env, **given):
        loader = ConfigLoader(str(tmp_path), env, given, base_env="base", default_run_env="base")
        return loader["parameters"]

    return parameters


def test_a_block_of_an_environment_replaces_that_of_base(load):
    assert load("other") == {
        "target": "image",
        "train": {"epochs": 7},
        "judge": {"bins": 5, "draws": 9},
    }


@pytest.mark.parametrize("env", ["base", "other"])
def test_a_key_from_the_command_line_leaves_the_rest_of_its_block(load, env):
    found = load(env, judge={"bins": 6}, target="audio")
    assert found["judge"] == {"bins": 6, "draws": 9}
    assert found["target"] == "audio"


def test_a_key_of_a_block_that_the_environment_has(load):
    assert load("other", train={"rate": 0.5})["train"] == {"epochs": 7, "rate": 0.5}


def test_what_the_command_line_gives_is_still_there_for_the_catalog(load, tmp_path):
    (tmp_path / "base" / "catalog.yml").write_text("a: {path: '${runtime_params:seed, 0}'}\n")
    loader = ConfigLoader(str(tmp_path), "other", {"seed": 4}, base_env="base")
    loader["parameters"]
    assert loader["catalog"] == {"a": {"path": 4}}
