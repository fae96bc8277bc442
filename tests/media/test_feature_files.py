"""Arrays of features in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mst_distill.media.feature_files import ShapedFeatures
from mst_distill.media.readers import UnreadableValueError


def test_an_array_must_have_exactly_the_shape(tmp_path: Path) -> None:
    features = np.arange(6, dtype=np.float64).reshape(2, 3)
    np.save(tmp_path / "a.npy", features)
    np.testing.assert_array_equal(ShapedFeatures((2, 3)).read([tmp_path / "a.npy"])[0], features)
    scaled = ShapedFeatures((2, 3), scaled=True).read([tmp_path / "a.npy"])[0]
    np.testing.assert_allclose(scaled, features / 5, rtol=1e-6)
    np.save(tmp_path / "b.npy", features.T)
    with pytest.raises(UnreadableValueError, match=r"b\.npy: shape \(3, 2\), expected \(2, 3\)"):
        ShapedFeatures((2, 3)).read([tmp_path / "b.npy"])
