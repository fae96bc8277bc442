"""A folder of bundles: replaced as a whole, also where it is a link."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.datasets import ModelBundlesDataset


def bundles(*names: str) -> dict[str, ModelBundle]:
    return {
        name: ModelBundle.of(nn.Linear(2, 3), {"in_features": 2, "out_features": 3})
        for name in names
    }


@pytest.mark.parametrize("linked", [False, True])
def test_saving_replaces_the_folder_and_a_link_to_it_stays(tmp_path: Path, linked: bool) -> None:
    folder = tmp_path / "members"
    if linked:
        (tmp_path / "other disk").mkdir()
        folder.symlink_to(tmp_path / "other disk", target_is_directory=True)
    dataset = ModelBundlesDataset(path=str(folder))
    for names in (("one", "a/b"), ("two",)):
        dataset.save(bundles(*names))
        assert set(dataset.load()) == set(names)
    assert folder.is_symlink() == linked
    assert sorted(tmp_path.iterdir()) == sorted({folder, folder.resolve()})
