"""Views: what random transforms make of a training sample, the same in every epoch and stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mst_distill.data.samples import Samples
from mst_distill.import_path import resolve
from mst_distill.parameters import JOINT, TrainingRecipe, Transform
from mst_distill.training.seeding import Stream, seeded

TRIED = 8
"""The number of samples on which transforms are tried before anything is trained."""

CODE = 2**20
"""Added to dense labels while they are transformed, so that no fill value is the code of a class.
Float32, through which torchvision moves masks, holds the sums exactly."""

Transforms = Sequence[Callable[[Any], Any]]


class Views:
    """K views of every training sample, of which view 0 is the sample itself.

    The transforms draw from PyTorch's generator on the CPU, which is seeded for each modality, each
    sample and each view. A view is therefore the same for all nets, in all epochs and stages, and
    whether it is kept in memory or made again for each batch. That teacher and student see the same
    view is the consistent teaching of Beyer et al., "Knowledge distillation: a good teacher is
    patient and consistent", CVPR 2022; that the views are finite lets frozen nets be asked once
    for each, as in Shen and Xing, "A Fast Knowledge Distillation Framework", ECCV 2022.

    Args:
        samples: The store.
        recipe: The number of views and the transforms.
        seed: The seed of the run.

    Attributes:
        count: K.

    Raises:
        ValueError, TypeError: A transform cannot be built, does not suit the modality or breaks the
            rules of `Transform`; the first samples of each modality show it.
    """

    def __init__(self, samples: Samples, recipe: TrainingRecipe, seed: int) -> None:
        self.count = recipe.views
        self._samples = samples
        self._seed = seed
        self._names = {name: _names(of) for name, of in recipe.transforms.items()}
        self._transforms: dict[str, Transforms] = {}
        for name, transforms in recipe.transforms.items():
            with seeded(seed, Stream.VIEW, name):  # a transform may have random weights
                self._transforms[name] = [build_transform(name, of) for of in transforms]
        self._pictures = [name for name, array in samples.modalities.items() if array.ndim == 4]
        # What joint transforms move.
        self._together = [*self._pictures, *(["label"] if samples.dense else [])]
        self._check(recipe)

    def make(
        self, names: Iterable[str], rows: np.ndarray, views: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Make views of some samples.

        Args:
            names: Modalities, and ``label`` for the labels.
            rows: ``(B,)``, rows of the store.
            views: ``(B,)``, the view of each sample, in [0, K).

        Returns:
            Arrays ``(B, ...)`` by name.

        Raises:
            ValueError: A transform breaks the rules of `Transform`; the message names it, the
                modality and the sample.
        """
        names = list(names)
        made = {name: self._array(name)[rows] for name in names}
        for position, (row, view) in enumerate(zip(rows, views, strict=True)):
            if view:
                for name, tensor in self._view(names, int(row), int(view)).items():
                    made[name][position] = tensor.numpy()
        return made

    def _array(self, name: str) -> np.ndarray:
        return self._samples.labels if name == "label" else self._samples.inputs[name]

    def _view(self, names: Sequence[str], row: int, view: int) -> dict[str, Tensor]:
        """What the transforms change of a sample, by name."""
        joint = JOINT in self._transforms and not {*names}.isdisjoint(self._together)
        changed = self._joint_view(row, view) if joint else {}
        for name in names:
            if name in self._transforms and self._has(name, row):
                before = changed.get(name, self._tensor(name, row))
                changed[name] = self._apply(name, before, row, view)
        return {name: changed[name] for name in names if name in changed}

    def _has(self, name: str, row: int) -> bool:
        return bool(self._samples.have([name])[row]) if self._samples.present else True

    def _tensor(self, name: str, row: int) -> Tensor:
        return torch.from_numpy(np.array(self._array(name)[row]))

    def _apply(self, name: str, before: Tensor, row: int, view: int) -> Tensor:
        """The view of one modality."""
        after = self._transform(name, before.clone(), row, view)
        self._compare(name, name, before, after, row)
        return after

    def _joint_view(self, row: int, view: int) -> dict[str, Tensor]:
        """The pictures of a sample, and its dense labels, transformed together."""
        from torchvision import tv_tensors

        before = {name: self._tensor(name, row) for name in self._pictures if self._has(name, row)}
        given: dict[str, Tensor] = {name: tv_tensors.Image(of) for name, of in before.items()}
        if not given:
            return {}
        if self._samples.dense:
            before["label"] = CODE + self._tensor("label", row).long()
            given["label"] = tv_tensors.Mask(before["label"].clone())
        after = self._transform(JOINT, given, row, view)
        if not isinstance(after, dict) or list(after) != list(before):
            raise ValueError(
                f"{self._which(JOINT)} must return a dict with the keys {list(before)}, as it "
                f"received"
            )
        for name, of in before.items():
            self._compare(JOINT, name, of, after[name], row)
        after = {name: of.as_subclass(Tensor) for name, of in after.items()}
        if self._samples.dense:
            after["label"] = self._decoded(before["label"], after["label"], row)
        return after

    def _decoded(self, before: Tensor, after: Tensor, row: int) -> Tensor:
        """The labels of codes; what is no code is a pixel that the transforms have uncovered."""
        ignored, uncovered = self._samples.ignored_label, after < CODE // 2
        if not torch.isin(after[~uncovered], before).all():
            raise ValueError(
                f"{self._which(JOINT)} makes new labels of sample {self._id(row)!r}: labels must "
                f"be moved by the nearest neighbour, as torchvision moves a tv_tensors.Mask"
            )
        if ignored is None and uncovered.any():
            raise ValueError(
                f"{self._which(JOINT)} uncovers pixels of sample {self._id(row)!r}, and the "
                f"benchmark has no label for pixels without a target: choose transforms that "
                f"uncover none, such as flips and crops"
            )
        return (after - CODE).masked_fill(uncovered, ignored or 0)

    def _transform(self, name: str, value: Any, row: int, view: int) -> Any:
        """Apply transforms one after the other, with the random numbers of the view."""
        with torch.no_grad(), seeded(self._seed, Stream.VIEW, name, self._id(row), str(view)):
            for transform in self._transforms[name]:
                try:
                    value = transform(value)
                except MemoryError:
                    raise
                except Exception as error:  # a transform may raise anything
                    raise ValueError(
                        f"{self._which(name)} cannot be applied to sample {self._id(row)!r}: "
                        f"{type(error).__name__}: {error}"
                    ) from error
        return value

    def _compare(self, key: str, name: str, before: Tensor, after: object, row: int) -> None:
        """Reject a view that could not take the place of its sample."""
        which = f"{self._which(key)} turns {name!r} of sample {self._id(row)!r}"
        shape = tuple(before.shape)
        if not isinstance(after, Tensor):
            raise ValueError(f"{which} into a {type(after).__name__}; it must return a tensor")
        if after.shape != before.shape or after.dtype != before.dtype:
            raise ValueError(
                f"{which} from {before.dtype} {shape} into {after.dtype} {tuple(after.shape)}: "
                f"shape and type must stay"
            )
        if after.is_floating_point() and not after.isfinite().all():
            raise ValueError(f"{which} into values that are not finite")

    def _check(self, recipe: TrainingRecipe) -> None:
        """Try the transforms on the first samples of each modality.

        Raises:
            ValueError: See the class.
        """
        if JOINT in self._transforms:
            self._check_pictures()
        for name, transforms in recipe.transforms.items():
            if name != JOINT and (axes := self._array(name).ndim - 1) < 3:
                for transform in transforms:
                    if transform.type.startswith("torchvision."):
                        raise ValueError(
                            f"training.transforms.{name}: {transform.type} is for pictures "
                            f"(C, H, W), and a sample of {name!r} has only {axes} "
                            f"{'axis' if axes == 1 else 'axes'}"
                        )
            self._try(name)

    def _check_pictures(self) -> None:
        """Reject pictures that cannot be moved together."""
        shapes = {name: of.shape[1:] for name, of in self._samples.modalities.items()}
        sizes = {shapes[name][1:] for name in self._pictures}
        if self._samples.dense:
            sizes.add(self._samples.labels.shape[1:])
        if not self._pictures or len(sizes) > 1:
            raise ValueError(
                f"training.transforms.{JOINT} moves all modalities of the shape (C, H, W), and "
                f"dense labels, together: they must have one height and width, but the samples "
                f"have {shapes}. Transforms of one modality stand under its name"
            )

    def _try(self, name: str) -> None:
        """Apply the transforms of a modality to a few samples, twice."""
        names = self._together if name == JOINT else [name]
        having = [row for row in range(len(self._samples)) if self._has(names[0], row)][:TRIED]
        passes = [[self._view(names, row, view=1) for row in having] for _ in range(2)]
        for row, first, second in zip(having, *passes, strict=True):
            if any(not first[key].equal(second[key]) for key in first):
                raise ValueError(
                    f"{self._which(name)} has two results for one seed: it must draw its random "
                    f"numbers from PyTorch's generator on the CPU alone, not from NumPy or "
                    f"`random`, and must not depend on earlier samples"
                )
            for key, after in first.items():
                self._check_range(name, key, after, row)

    def _check_range(self, name: str, key: str, after: Tensor, row: int) -> None:
        """Reject a transform that clamps, as colour transforms of torchvision do."""
        before = self._tensor(key, row)
        wide = before.is_floating_point() and (before.min() < 0 or before.max() > 1)
        if wide and after.min() >= 0 and after.max() <= 1:
            raise ValueError(
                f"{self._which(name)} limits {key!r} of sample {self._id(row)!r} to [0, 1], while "
                f"its values are from {before.min():.3g} to {before.max():.3g}: it is for pictures "
                f"that are not standardised"
            )

    def _id(self, row: int) -> str:
        return str(self._samples.index["id"].iat[row])

    def _which(self, name: str) -> str:
        return f"training.transforms.{name} ({self._names[name]})"


def check_transforms(recipe: TrainingRecipe) -> None:
    """Build all transforms, before hours are spent on samples.

    Raises:
        ValueError, TypeError: As in `build_transform`.
    """
    for name, transforms in recipe.transforms.items():
        for transform in transforms:
            build_transform(name, transform)


def build_transform(modality: str, transform: Transform) -> Callable[[Any], Any]:
    """Build a transform.

    Raises:
        ValueError, TypeError: Its class does not exist, does not take its arguments, or cannot be
            called; the message names it.
    """
    which = f"training.transforms.{modality}"
    try:
        kind: Callable[..., Any] = resolve(transform.type, object)
        built = kind(**transform.arguments)
    except Exception as error:  # the constructor of a user's class
        raise ValueError(f"{which}: {transform.type}: {error}") from error
    if not callable(built):
        raise TypeError(f"{which}: {transform.type} cannot be called with a tensor")
    return built


def _names(transforms: Sequence[Transform]) -> str:
    return ", ".join(of.type.rpartition(".")[2] for of in transforms)
