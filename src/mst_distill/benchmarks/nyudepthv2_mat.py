"""The labelled NYU-Depth-V2 file: HDF5 that MATLAB wrote, read image by image."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import scipy.io

CHUNK_CACHE_BYTES = 20 * 2**20
"""HDF5 unpacks whole chunks of many images: with these kept, for each of the three arrays, none is
unpacked twice in a row."""


class LabelledMat:
    """``nyu_depth_v2_labeled.mat``, open for reading.

    Its arrays are MATLAB's, so here every image lies on its side: ``images`` (N, 3, W, H) bytes,
    ``depths`` (N, W, H) in metres, and ``labels40`` (N, W, H) or else ``labels`` (N, W, H), which a
    mapping brings to 40 classes.

    Args:
        path: The file.
        mapping: ``classMapping40.mat`` of Gupta et al., with ``mapClass``: the class in 1 to 40 of
            each raw label from 1 on. Not needed where there is ``labels40``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is no whole HDF5 or MATLAB file, or lacks an array, or the arrays do not
            fit together; the message names file and key.
    """

    def __init__(self, path: Path, mapping: Path | None) -> None:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path.absolute()} is missing: put nyu_depth_v2_labeled.mat there (2.8 GB, from "
                f"the NYU Depth Dataset V2 page)"
            )
        try:
            self._file = h5py.File(path, rdcc_nbytes=CHUNK_CACHE_BYTES)
        except OSError as error:
            raise ValueError(f"{path}: no whole HDF5 file ({error})") from error
        self._path = path
        self._images = self._array("images", 4, "uint8")
        self._depths = self._array("depths", 3)
        self._labels = self._array("labels40" if "labels40" in self._file else "labels", 3)
        self._check_shapes()
        self._classes = None if "labels40" in self._file else read_mapping(mapping, path)

    def __len__(self) -> int:
        return len(self._images)

    def scene_types(self) -> list[str]:
        """The kind of room of each image, such as ``kitchen``; empty texts where it is not told.

        Raises:
            ValueError: It is told of another number of images, or not by references to texts.
        """
        if "sceneTypes" not in self._file:
            return [""] * len(self)
        try:
            references = np.asarray(self._file["sceneTypes"]).ravel()
            scenes = ["".join(map(chr, np.asarray(self._file[r]).ravel())) for r in references]
        except Exception as error:  # whatever h5py meets in references that are none
            raise ValueError(
                f"{self._path}: 'sceneTypes' must be references to texts ({error})"
            ) from error
        if len(references) != len(self):
            raise ValueError(
                f"{self._path}: 'sceneTypes' has {len(references)} entries for {len(self)} images"
            )
        return scenes

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colour ``(H, W, 3)`` bytes, depth ``(H, W)`` in metres, classes ``(H, W)``, 0 to 40.

        Raises:
            ValueError: The image cannot be unpacked, or has a raw label that is not mapped.
        """
        try:
            image, depth, label = (a[row] for a in (self._images, self._depths, self._labels))
        except OSError as error:
            raise ValueError(f"{self._path}, image {row + 1}: {error}") from error
        where = f"{self._path}, image {row + 1}"
        if len(broken := label[label != np.floor(label)]):  # MATLAB's numbers are doubles
            raise ValueError(f"{where}: label {broken[0]} is no whole number")
        if label.min() < 0:
            raise ValueError(f"{where}: label {label.min()}, expected 0 or more")
        if self._classes is not None:
            if label.max() >= len(self._classes):
                raise ValueError(
                    f"{where}: label {label.max()}, but the mapping ends at "
                    f"{len(self._classes) - 1}"
                )
            label = self._classes[label.astype(np.int64)]
        return image.transpose(2, 1, 0), depth.T, label.T

    def _array(self, key: str, dimensions: int, kind: str = "a real number") -> h5py.Dataset:
        if key not in self._file:
            raise ValueError(f"{self._path}: lacks {key!r}; it holds {', '.join(self._file)}")
        array = self._file[key]
        if not isinstance(array, h5py.Dataset):
            raise ValueError(f"{self._path}: {key!r} is no array")
        if array.ndim != dimensions:
            raise ValueError(f"{self._path}: {key!r} has shape {array.shape}, not {dimensions}-D")
        if array.dtype != kind if kind == "uint8" else array.dtype.kind not in "iuf":
            raise ValueError(f"{self._path}: {key!r} is {array.dtype}, expected {kind}")
        return array

    def _check_shapes(self) -> None:
        count, channels, *size = self._images.shape
        if channels != 3:
            raise ValueError(f"{self._path}: images have {channels} channels, not 3")
        for array in (self._depths, self._labels):
            if array.shape != (count, *size):
                raise ValueError(
                    f"{self._path}: {array.name} has shape {array.shape}; {(count, *size)} would "
                    f"fit the images"
                )


def read_mapping(path: Path | None, labelled: Path) -> np.ndarray:
    """Class in 0 to 40, bytes, of every raw label from 0 (void) on.

    Raises:
        FileNotFoundError: The file is missing or none is named.
        ValueError: It is no MATLAB file, lacks ``mapClass``, or maps to something else.
    """
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"{labelled} has no 'labels40': its raw labels need classMapping40.mat (from Gupta et "
            f"al.'s rcnn-depth), and benchmark.arguments.mapping is {path}"
        )
    classes = _load_numbers(path, "mapClass")
    if not np.isin(classes, range(1, 41)).all():
        raise ValueError(f"{path}: mapClass holds {classes.min()} to {classes.max()}, not 1 to 40")
    return np.concatenate([[0], classes]).astype(np.uint8)


def read_official_split(path: Path, count: int) -> np.ndarray:
    """Whether each of `count` images is one of the publisher's training images.

    Raises:
        FileNotFoundError: ``splits.mat`` is missing.
        ValueError: It is no MATLAB file, lacks ``trainNdxs`` or ``testNdxs``, or they are not all
            of 1 to `count`, each once.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.absolute()} is missing: put splits.mat there (the official split, from the NYU "
            f"Depth Dataset V2 page)"
        )
    train, test = (_load_numbers(path, key) for key in ("trainNdxs", "testNdxs"))
    numbers, times = np.unique([*train, *test, *range(1, count + 1)], return_counts=True)
    if len(wrong := numbers[(times != 2) | (numbers < 1) | (numbers > count)]):
        raise ValueError(
            f"{path}: {len(train)} training and {len(test)} test images are not the images 1 to "
            f"{count}, each once: image {wrong[0]} is there "
            f"{np.count_nonzero(np.r_[train, test] == wrong[0])} times"
        )
    return np.isin(np.arange(1, count + 1), train)


def _load_numbers(path: Path, key: str) -> np.ndarray:
    """One of the file's arrays, flat."""
    found = _load_mat(path, key).ravel()
    if found.dtype.kind not in "iuf" or (found != np.floor(found)).any():
        raise ValueError(f"{path}: {key!r} must hold whole numbers, and is {found.dtype}")
    return found.astype(np.int64)


def _load_mat(path: Path, key: str) -> np.ndarray:
    try:
        arrays = scipy.io.loadmat(path, variable_names=[key])
    except Exception as error:  # whatever scipy meets in a damaged file
        raise ValueError(f"{path}: no MATLAB 5 file that can be read ({error})") from error
    if key not in arrays:
        raise ValueError(f"{path}: lacks {key!r}")
    found: np.ndarray = arrays[key]
    return found
