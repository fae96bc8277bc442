"""The plain schedule: the same mathematics step by step, as one would write it down first.

A loader over single samples; every specialist a full forward pass with its graph, once per mask,
per step, per epoch, its mask put on by a hook; attention with its weights; an Adam for every mask;
every loss fetched at every step. It uses the project's weights and none of its loops.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from bench.cases import Case
from mst_distill.data.samples import Samples, rows_of
from mst_distill.mst.features import Observed
from mst_distill.mst.masks import MapMask, VectorMask
from mst_distill.mst.networks import build_members, forward
from mst_distill.mst.stage2_masks import build_masks
from mst_distill.mst.stage3_route import build_router
from mst_distill.parameters import Training
from mst_distill.training.batches import Inputs
from mst_distill.training.device import resolve_device
from mst_distill.training.loop import Row
from mst_distill.training.seeding import generator

Nets = Mapping[str, nn.Module]
Sample = tuple[Inputs, Tensor]


class SingleSamples(Dataset[Sample]):
    """A split, sample by sample."""

    def __init__(self, samples: Samples, rows: np.ndarray) -> None:
        self._samples = samples
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Sample:
        row = self._rows[place]
        arrays = self._samples.modalities
        inputs = {name: torch.from_numpy(np.array(array[row])) for name, array in arrays.items()}
        return inputs, torch.as_tensor(self._samples.labels[row])


class Shuffled(Sampler[int]):
    """A new order every pass, as the project draws it: `RandomSampler` draws one more a pass."""

    def __init__(self, count: int, chance: torch.Generator) -> None:
        self._count = count
        self._chance = chance

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self._count, generator=self._chance).tolist())


class Means:
    """Means of named figures over samples, each fetched when it is added."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, value: Tensor, size: int) -> None:
        """Take in a mean over `size` samples."""
        self._sums[name] += value.item() * size
        self._counts[name] += size

    def row(self) -> Row:
        """All means by name."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}


def train_members(case: Case) -> Iterator[Row]:
    """Stage 1, an epoch at a time."""
    nets = _nets(case)
    optimiser = torch.optim.Adam(
        [weight for net in nets.values() for weight in net.parameters()],
        lr=case.teachers.learning_rate,
    )
    train, valid = _loaders(case, "teachers", case.teachers)
    while True:
        means = Means()
        _set_training(nets, True)
        for inputs, label in _batches(case, train):
            logits = {name: forward(net, name, inputs) for name, net in nets.items()}
            loss = torch.zeros((), device=label.device)
            for name, of in logits.items():
                term = _cross_entropy(case, of, label)
                means.add(f"train_ce_{name}", term, len(label))
                loss = loss + term
            pairs = list(permutations(logits.values(), 2))
            for to, of in pairs:
                loss = loss + 6 / max(len(pairs), 6) * _kd(to, of, case.teachers.temperature)
            means.add("train_loss", loss, len(label))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        _set_training(nets, False)
        with torch.no_grad():
            for inputs, label in _batches(case, valid):
                for name, net in nets.items():
                    of = forward(net, name, inputs)
                    means.add(f"valid_ce_{name}", _cross_entropy(case, of, label), len(label))
        yield means.row()


def train_masks(case: Case) -> Iterator[Row]:
    """Stage 2, an epoch at a time."""
    nets = _nets(case)
    masks = _masks(case, nets)
    optimisers = {
        name: torch.optim.Adam(mask.parameters(), lr=case.masks.learning_rate)
        for name, mask in masks.items()
    }
    target, temperature = case.run.target, case.masks.temperature
    train, valid = _loaders(case, "masks", case.masks)
    _set_training(nets, False)
    best, kept = float("inf"), {}
    while True:
        means = Means()
        _set_training(masks, True)
        for inputs, label in _batches(case, train):
            student = nets[target](inputs[target]).detach()
            for name, mask in masks.items():
                loss = _kd(_specialist(nets, name, mask, inputs), student, temperature)
                means.add(f"train_kd_{name}", loss, len(label))
                optimisers[name].zero_grad()
                loss.backward()
                optimisers[name].step()
        _set_training(masks, False)
        with torch.no_grad():
            for inputs, label in _batches(case, valid):
                student = nets[target](inputs[target])
                for name, mask in masks.items():
                    loss = _kd(_specialist(nets, name, mask, inputs), student, temperature)
                    means.add(f"valid_kd_{name}", loss, len(label))
        row = means.row()
        judged = sum(value for name, value in row.items() if name.startswith("valid_"))
        if judged < best:
            best = judged
            kept = {name: copy.deepcopy(mask.state_dict()) for name, mask in masks.items()}
        assert kept
        yield row


def train_student(case: Case) -> Iterator[Row]:
    """Stage 3, an epoch at a time."""
    nets = _nets(case)
    masks = _masks(case, nets)
    router = build_router(case.run, case.route, nets[case.run.target], len(masks)).to(_device(case))
    route, target = case.route, case.run.target
    student = nets[target]
    optimiser = torch.optim.Adam(
        [*student.parameters(), *router.parameters()], lr=route.learning_rate
    )
    train, valid = _loaders(case, "route", route)
    _set_training(nets, False)
    _set_training(masks, False)
    while True:
        means = Means()
        _set_training({"student": student, "router": router}, True)
        for inputs, label in _batches(case, train):
            specialists = torch.stack(
                [_specialist(nets, name, mask, inputs) for name, mask in masks.items()], dim=1
            ).detach()
            logits = student(inputs[target])
            log_weights = router(Observed(logits)).log_softmax(dim=1)
            chosen = specialists[range(len(label)), log_weights.argmax(dim=1)]
            log_mean = log_weights.logsumexp(dim=0) - np.log(len(label))
            terms = {
                "ce": _cross_entropy(case, logits, label),
                "kd": _kd(logits, chosen, route.temperature),
                "balance": -log_mean.mean() - np.log(len(masks)),
            }
            loss = torch.stack(list(terms.values())).sum()
            for name, term in {"loss": loss, **terms}.items():
                means.add(f"train_{name}", term, len(label))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        _set_training({"student": student, "router": router}, False)
        with torch.no_grad():
            for inputs, label in _batches(case, valid):
                ce = _cross_entropy(case, student(inputs[target]), label)
                means.add("valid_ce", ce, len(label))
        yield means.row()


def train_alone(case: Case) -> Iterator[Row]:
    """The bare loop that stage 3 is held against: the student alone, its split in one tensor."""
    device, target = _device(case), case.run.target
    net = _nets(case)[target]
    samples, size = case.run.samples, case.route.batch_size

    def of(split: str) -> tuple[Tensor, Tensor]:
        rows = rows_of(case.run.splits, split)
        inputs = torch.from_numpy(np.array(samples.modalities[target][rows]))
        return inputs.to(device), torch.from_numpy(samples.labels[rows]).to(device)

    (inputs, labels), (unseen, truth) = of("train"), of("valid")
    optimiser = torch.optim.Adam(net.parameters(), lr=case.route.learning_rate)
    while True:
        means = Means()
        net.train()
        for place in torch.randperm(len(labels)).to(device).split(size):
            loss = _cross_entropy(case, net(inputs[place]), labels[place])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        net.eval()
        with torch.no_grad():
            for start in range(0, len(truth), size):
                part = slice(start, start + size)
                right = (net(unseen[part]).argmax(dim=1) == truth[part]).double().mean()
                means.add("valid_accuracy", right, len(truth[part]))
        yield means.row()


def _device(case: Case) -> torch.device:
    # Not `Run.device`, which prepares the process.
    return resolve_device(case.run.runtime.device)


def _nets(case: Case) -> Nets:
    nets = build_members(case.run, case.plain_members, case.masks)
    return {name: net.to(_device(case)) for name, net in nets.items()}


def _masks(case: Case, nets: Nets) -> Nets:
    masks = build_masks(case.run, nets, case.members, case.masks)
    return {name: mask.to(_device(case)) for name, mask in masks.items()}


def _loaders(
    case: Case, stage: str, settings: Training
) -> tuple[DataLoader[Sample], DataLoader[Sample]]:
    run = case.run
    train = SingleSamples(run.samples, rows_of(run.splits, "train"))
    valid = SingleSamples(run.samples, rows_of(run.splits, "valid"))
    order = Shuffled(len(train), generator(run.seed, stage, "order"))
    size = settings.batch_size
    return DataLoader(train, size, sampler=order), DataLoader(valid, size)


def _batches(case: Case, loader: DataLoader[Sample]) -> Iterator[Sample]:
    device = _device(case)
    for inputs, label in loader:
        yield {name: tensor.to(device) for name, tensor in inputs.items()}, label.to(device)


def _set_training(nets: Nets, mode: bool) -> None:
    for net in nets.values():
        net.train(mode)


def _specialist(nets: Nets, name: str, mask: nn.Module, inputs: Inputs) -> Tensor:
    """The whole teacher, a mask on the output of its layer."""
    teacher, layer = name.split("/")
    hook = (
        nets[teacher]
        .get_submodule(layer)
        .register_forward_hook(lambda _module, _inputs, output: _masked(mask, output))
    )
    try:
        return forward(nets[teacher], teacher, inputs)
    finally:
        hook.remove()


def _masked(mask: nn.Module, feature: Tensor) -> Tensor:
    if isinstance(mask, MapMask):
        weights = _mask_weights(mask.channels, mask.pool(feature))
        return weights[:, :, None, None] * feature
    assert isinstance(mask, VectorMask)
    return _mask_weights(mask, feature.flatten(1)).view(feature.shape) * feature


def _mask_weights(mask: VectorMask, feature: Tensor) -> Tensor:
    tokens = mask.embed(feature).view(-1, mask.width, mask.token)
    seen, _ = mask.attention(tokens, tokens, tokens, need_weights=True)
    return mask.weigh(seen).squeeze(-1).sigmoid()


def _kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    own, other = (F.log_softmax(of / temperature, dim=1) for of in (student, teacher))
    divergence = F.kl_div(own, other, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * divergence.mean()


def _cross_entropy(case: Case, logits: Tensor, label: Tensor) -> Tensor:
    ignored = case.run.samples.ignored_label
    return F.cross_entropy(logits, label, ignore_index=-100 if ignored is None else ignored)
