"""Reading the publisher's files of NYU-Depth-V2: an HDF5 file by MATLAB, image by image."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import scipy.io

CHUNK_CACHE_BYTES = 20 * 2**20
"""Cache for each of the three arrays. HDF5 decompresses whole chunks, which contain many images;
with this cache, no chunk is decompressed twice in succession."""


class LabelledMat:
    """``nyu_depth_v2_labeled.mat``, open for reading.

    MATLAB's order of the axes makes all images transposed: ``images`` is (N, 3, W, H) bytes,
    ``depths`` is (N, W, H) in metres, and ``labels40`` is (N, W, H). If there is no ``labels40``,
    ``labels`` (N, W, H) is mapped to 40 classes.

    An HDF5 file can refer to other files of the machine. These are not read.

    Args:
        path: The file.
        mapping: ``classMapping40.mat`` of Gupta et al., with ``mapClass``: the class, 1 to 40, of
            each raw label, starting with label 1. Not needed if the file has ``labels40``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is not a complete HDF5 or MATLAB file, lacks an array, or has arrays of
            shapes that do not match; the message names the file and the key.
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
            raise ValueError(f"{path}: not a complete HDF5 file ({error})") from error
        self._path = path
        self._images = self._array("images", 4, "uint8")
        self._depths = self._array("depths", 3)
        mapped = "labels40" in self._file
        self._labels = self._array("labels40" if mapped else "labels", 3)
        self._check_shapes()
        self._classes = None if mapped else read_mapping(mapping, path)

    def __len__(self) -> int:
        return len(self._images)

    def scene_types(self) -> list[str]:
        """Return the kind of room of each image, such as ``kitchen``.

        If the file does not contain the kinds of rooms, all strings are empty.

        Raises:
            ValueError: The entries are not references to strings, or their number is not the number
                of images.
        """
        if "sceneTypes" not in self._file:
            return [""] * len(self)
        references = np.asarray(self._own("sceneTypes")).ravel()
        try:
            scenes = ["".join(map(chr, np.asarray(self._own(r)).ravel())) for r in references]
        except Exception as error:  # h5py raises errors of many types for invalid references
            raise ValueError(
                f"{self._path}: 'sceneTypes' must be references to strings ({error})"
            ) from error
        if len(references) != len(self):
            raise ValueError(
                f"{self._path}: 'sceneTypes' has {len(references)} entries for {len(self)} images"
            )
        return scenes

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return colour ``(H, W, 3)`` bytes, depth ``(H, W)`` in metres and classes ``(H, W)``.

        The classes are 0 to 40.

        Args:
            row: Index of the image, from 0.

        Raises:
            ValueError: The image cannot be decompressed, or the mapping has no class for one of its
                raw labels.
        """
        try:
            image, depth, label = (a[row] for a in (self._images, self._depths, self._labels))
        except OSError as error:
            raise ValueError(f"{self._path}, image {row + 1}: {error}") from error
        where = f"{self._path}, image {row + 1}"
        if len(broken := label[label != np.floor(label)]):  # MATLAB stores numbers as doubles
            raise ValueError(f"{where}: label {broken[0]} is not a whole number")
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
            raise ValueError(f"{self._path}: lacks {key!r}; it contains {', '.join(self._file)}")
        array = self._own(key)
        if array.ndim != dimensions:
            raise ValueError(f"{self._path}: {key!r} has shape {array.shape}, not {dimensions}-D")
        if array.dtype != kind if kind == "uint8" else array.dtype.kind not in "iuf":
            raise ValueError(f"{self._path}: {key!r} is {array.dtype}, expected {kind}")
        return array

    def _own(self, key: str | h5py.Reference) -> h5py.Dataset:
        """Return an array whose values are in the file itself."""
        if isinstance(key, str) and not isinstance(
            self._file.get(key, getlink=True), h5py.HardLink
        ):
            raise ValueError(f"{self._path}: {key!r} is a link; the array must be in the file")
        array = self._file[key]
        if not isinstance(array, h5py.Dataset):
            raise ValueError(f"{self._path}: {key!r} is not an array")
        if array.external or array.is_virtual:
            raise ValueError(f"{self._path}: the values of {array.name!r} are stored elsewhere")
        return array

    def _check_shapes(self) -> None:
        count, channels, *size = self._images.shape
        if channels != 3:
            raise ValueError(f"{self._path}: images have {channels} channels, not 3")
        for array in (self._depths, self._labels):
            if array.shape != (count, *size):
                raise ValueError(
                    f"{self._path}: {array.name} has shape {array.shape}, expected "
                    f"{(count, *size)} as for the images"
                )


def read_mapping(path: Path | None, labelled: Path) -> np.ndarray:
    """Return the class, 0 to 40, of each raw label, starting with label 0 (void), as bytes.

    Args:
        path: The mapping; None raises an error.
        labelled: The file that needs the mapping, for the error.

    Raises:
        FileNotFoundError: The file is missing, or `path` is None.
        ValueError: The file is not a MATLAB file, lacks ``mapClass``, or maps to numbers outside 1
            to 40.
    """
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"{labelled} has no 'labels40': its raw labels need classMapping40.mat (from Gupta et "
            f"al.'s rcnn-depth), and benchmark.arguments.mapping is {path}"
        )
    classes = _load_numbers(path, "mapClass")
    if not np.isin(classes, range(1, 41)).all():
        raise ValueError(
            f"{path}: mapClass has values {classes.min()} to {classes.max()}, not 1 to 40"
        )
    return np.concatenate([[0], classes]).astype(np.uint8)


def read_official_split(path: Path, count: int) -> np.ndarray:
    """Return ``(count,)``, whether each image is one of the publisher's training images.

    Args:
        path: ``splits.mat``.
        count: Number of images in the labelled file.

    Raises:
        FileNotFoundError: `path` is missing.
        ValueError: The file is not a MATLAB file, lacks ``trainNdxs`` or ``testNdxs``, or these do
            not contain each number from 1 to `count` exactly once.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.absolute()} is missing: put splits.mat there (the official split, from the NYU "
            f"Depth Dataset V2 page)"
        )
    train, test = (_load_numbers(path, key) for key in ("trainNdxs", "testNdxs"))
    numbers, times = np.unique([*train, *test, *range(1, count + 1)], return_counts=True)
    if len(invalid := numbers[(times != 2) | (numbers < 1) | (numbers > count)]):
        raise ValueError(
            f"{path}: {len(train)} training and {len(test)} test images must be the images 1 to "
            f"{count}, each once, but image {invalid[0]} appears "
            f"{np.count_nonzero(np.r_[train, test] == invalid[0])} times"
        )
    return np.isin(np.arange(1, count + 1), train)


def _load_numbers(path: Path, key: str) -> np.ndarray:
    """Return one array of the file, flattened, as int64."""
    numbers = _load_mat(path, key).ravel()
    if numbers.dtype.kind not in "iuf" or (numbers != np.floor(numbers)).any():
        raise ValueError(f"{path}: {key!r} must contain whole numbers, but is {numbers.dtype}")
    return numbers.astype(np.int64)


def _load_mat(path: Path, key: str) -> np.ndarray:
    try:
        arrays = scipy.io.loadmat(path, variable_names=[key])
    except Exception as error:  # scipy raises errors of many types for a damaged file
        raise ValueError(f"{path}: not a readable MATLAB 5 file ({error})") from error
    if key not in arrays:
        raise ValueError(f"{path}: lacks {key!r}")
    found: np.ndarray = arrays[key]
    return found
