"""Classes by import path, and what is said of a path that leads nowhere."""

from __future__ import annotations

import pytest
from torch import nn

from mst_distill.benchmarks.digits import Digits
from mst_distill.benchmarks.source import SampleSource
from mst_distill.imports import resolve
from mst_distill.nets.digits import DigitImageNet


def test_a_class_is_found_by_its_path() -> None:
    assert resolve("mst_distill.nets.digits.DigitImageNet", nn.Module) is DigitImageNet
    assert resolve("torch.nn.Identity", nn.Module) is nn.Identity
    assert resolve("mst_distill.benchmarks.digits.Digits", SampleSource) is Digits


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("mst_distill.nest.digits.DigitImageNet", "No module named 'mst_distill.nest'"),
        ("mst_distill.nets.digit.DigitImageNet", "No module named 'mst_distill.nets.digit'"),
        ("no_such_package.Net", "No module named 'no_such_package'"),
        ("DigitImageNet", "Empty module name"),
        ("", "Empty module name"),
    ],
)
def test_an_unknown_module_is_named(path: str, rule: str) -> None:
    with pytest.raises(ValueError, match=f"^'{path}' cannot be imported: .*{rule}"):
        resolve(path, nn.Module)


@pytest.mark.parametrize("name", ["DigitImageNets", "digitimagenet", "ImageNet"])
def test_an_unknown_class_is_named_beside_the_nearest(name: str) -> None:
    with pytest.raises(ValueError, match="did you mean 'DigitImageNet'") as error:
        resolve(f"mst_distill.nets.digits.{name}", nn.Module)
    message = str(error.value)
    assert message.startswith(f"unknown class in mst_distill.nets.digits '{name}'")
    assert "there are: DigitImageNet, DigitAudioNet, DigitFusionNet" in message


def test_only_fitting_classes_are_suggested() -> None:
    # The module imports SampleSource itself, Path and pandas; none of them is a benchmark.
    with pytest.raises(ValueError, match="there are: Digits; did you mean 'Digits'"):
        resolve("mst_distill.benchmarks.digits.Numbers", SampleSource)
    with pytest.raises(ValueError, match=r"there are: none$"):
        resolve("mst_distill.benchmarks.splits.Digits", SampleSource)


@pytest.mark.parametrize(
    ("path", "base", "rule"),
    [
        ("mst_distill.benchmarks.digits.Digits", nn.Module, "is no torch.nn.modules.module.Module"),
        ("torch.nn.functional.relu", nn.Module, "is no torch.nn.modules.module.Module"),
        ("torch.nn.functional", nn.Module, "is no torch.nn.modules.module.Module"),
        ("torch.nn.Linear", SampleSource, "is no mst_distill.benchmarks.source.SampleSource"),
        (
            "mst_distill.benchmarks.source.SampleSource",
            SampleSource,
            "is no mst_distill.benchmarks.source.SampleSource",
        ),
    ],
)
def test_what_is_no_such_class_is_refused(path: str, base: type, rule: str) -> None:
    with pytest.raises(TypeError, match=f"^'{path}' {rule}"):
        resolve(path, base)
