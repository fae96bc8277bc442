"""Import of classes and functions by path, and the errors for paths that do not exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from mst_distill.benchmarks.digits import Digits
from mst_distill.benchmarks.source import SampleSource
from mst_distill.import_path import resolve, resolve_function
from mst_distill.nets.digits import DigitImageNet
from mst_distill.nets.nyudepthv2 import small_xavier


def test_a_class_is_found_by_its_path() -> None:
    assert resolve("mst_distill.nets.digits.DigitImageNet", nn.Module) is DigitImageNet
    assert resolve("torch.nn.Identity", nn.Module) is nn.Identity
    assert resolve("mst_distill.benchmarks.digits.Digits", SampleSource) is Digits


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mst_distill.nest.digits.DigitImageNet", "No module named 'mst_distill.nest'"),
        ("mst_distill.nets.digit.DigitImageNet", "No module named 'mst_distill.nets.digit'"),
        ("no_such_package.Net", "No module named 'no_such_package'"),
        ("DigitImageNet", "expected package.module.Name"),
        ("", "expected package.module.Name"),
    ],
)
def test_an_unknown_module_is_an_error_that_names_it(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^'{path}' cannot be imported: .*{message}"):
        resolve(path, nn.Module)


@pytest.mark.parametrize("name", ["DigitImageNets", "digitimagenet", "ImageNet"])
def test_an_unknown_class_is_an_error_that_names_the_nearest(name: str) -> None:
    with pytest.raises(ValueError, match="did you mean 'DigitImageNet'") as error:
        resolve(f"mst_distill.nets.digits.{name}", nn.Module)
    text = str(error.value)
    assert text.startswith(f"unknown class in mst_distill.nets.digits '{name}'")
    assert "available: DigitImageNet, DigitAudioNet, DigitFusionNet" in text


def test_only_subclasses_of_the_base_are_suggested() -> None:
    # The module also imports SampleSource itself, Path and pandas, which are not suggested.
    with pytest.raises(ValueError, match="available: Digits; did you mean 'Digits'"):
        resolve("mst_distill.benchmarks.digits.Numbers", SampleSource)
    with pytest.raises(ValueError, match=r"available: none$"):
        resolve("mst_distill.benchmarks.splits.Digits", SampleSource)


@pytest.mark.parametrize(
    ("path", "base", "name"),
    [
        ("mst_distill.benchmarks.digits.Digits", nn.Module, "torch.nn.modules.module.Module"),
        ("torch.nn.functional.relu", nn.Module, "torch.nn.modules.module.Module"),
        ("torch.nn.functional", nn.Module, "torch.nn.modules.module.Module"),
        ("torch.nn.Linear", SampleSource, "mst_distill.benchmarks.source.SampleSource"),
        (
            "mst_distill.benchmarks.source.SampleSource",
            SampleSource,
            "mst_distill.benchmarks.source.SampleSource",
        ),
    ],
)
def test_an_object_that_is_not_derived_from_the_base_is_an_error(
    path: str, base: type, name: str
) -> None:
    with pytest.raises(TypeError, match=f"^'{path}' must be derived from {name}"):
        resolve(path, base)


def test_a_function_is_found_by_its_path() -> None:
    assert resolve_function("mst_distill.nets.nyudepthv2.small_xavier") is small_xavier
    assert resolve_function("torch.nn.init.zeros_") is nn.init.zeros_


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mst_distill.nets.nyudepth.small_xavier", "No module named 'mst_distill.nets.nyudepth'"),
        ("no_such_package.start", "No module named 'no_such_package'"),
        ("small_xavier", "expected package.module.Name"),
        ("", "expected package.module.Name"),
    ],
)
def test_an_unknown_module_of_a_function_is_an_error_that_names_it(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^'{path}' cannot be imported: .*{message}"):
        resolve_function(path)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("small_xavie", "small_xavier"),
        ("imagenet", "imagenet_encoders"),
        ("FuseNet", None),  # a class, not a function
        ("WIDTHS", None),
        ("nn", None),
    ],
)
def test_an_unknown_function_is_an_error_that_names_the_available_ones(
    name: str, nearest: str | None
) -> None:
    with pytest.raises(ValueError, match="imagenet_encoders, small_xavier") as error:
        resolve_function(f"mst_distill.nets.nyudepthv2.{name}")
    message = str(error.value)
    assert message.startswith(f"unknown function in mst_distill.nets.nyudepthv2 {name!r}")
    if nearest:
        assert message.endswith(f"did you mean {nearest!r}?") or message.endswith(f"{nearest!r}")


def test_the_error_for_a_module_without_functions_lists_none() -> None:
    with pytest.raises(ValueError, match=r"unknown function in mst_distill.nets.*available: none$"):
        resolve_function("mst_distill.nets.start")


def test_only_public_functions_of_the_module_are_suggested() -> None:
    with pytest.raises(ValueError, match="available: imagenet_encoders, small_xavier;"):
        resolve_function("mst_distill.nets.nyudepthv2.start")


def test_a_module_of_another_package_is_named_with_its_file() -> None:
    """A module of the user may have the name of one that is installed."""
    with pytest.raises(ValueError, match=r"class in emoji 'Mine'.*emoji is .*PYTHONPATH"):
        resolve("emoji.Mine", nn.Module)


def test_an_error_in_the_code_of_a_module_keeps_its_type_and_names_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError) as error:
        resolve("broken_module.Net", nn.Module)
    assert error.value.__notes__ == ["This happened when 'broken_module.Net' was imported."]
