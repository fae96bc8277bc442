"""The method written plainly: the same mathematics step by step, as one would write it down first.

A loader over single samples; every specialist a full forward pass with its graph, once for each
mask, step and epoch, its mask applied by a hook; attention with its weights; an Adam for every
mask; every loss fetched at every step. It uses the project's networks and start weights, and none
of its training code. `test_plain` shows that both agree, and the bench times one against the other.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice, permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from mst_distill.data.samples import Samples, rows_of
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.masks import MapMask, VectorMask
from mst_distill.mst.networks import build_members, forward
from mst_distill.mst.stage2_masks import build_masks
from mst_distill.mst.stage3_route import build_router
from mst_distill.parameters import Training
from mst_distill.plan import Plan
from mst_distill.training.batches import Inputs
from mst_distill.training.device import resolve_device
from mst_distill.training.loop import Row
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream, generator

Nets = Mapping[str, nn.Module]
Sample = tuple[Inputs, Tensor]


def run_plainly(run: Run, plan: Plan) -> nn.Module:
    """All three stages, with the presets `default` and `paper`: the student of the last epoch."""
    nets = on_device(run, build_members(run, plan))
    _finish(train_members(run, plan, nets), plan.teachers)
    masks = on_device(run, build_masks(run, plan, nets))
    best: dict[str, dict[str, Tensor]] = {}
    _finish(train_masks(run, plan, nets, masks, best), plan.masks)
    for name, mask in masks.items():
        mask.load_state_dict(best[name])
    _finish(train_student(run, plan, nets, masks), plan.route)
    return nets[run.target].eval()


def train_members(run: Run, plan: Plan, nets: Nets) -> Iterator[Row]:
    """Stage 1, an epoch at a time: L1 = sum of CE(i) + w sum over pairs of KD(i <- j)."""
    settings = plan.teachers
    optimiser = torch.optim.Adam(_weights(nets), lr=settings.learning_rate)
    train, valid = _loaders(run, Stream.TEACHERS, settings)
    while True:
        means = Means()
        _set_training(nets, True)
        for inputs, label in _batches(run, train):
            logits = {name: forward(net, name, inputs) for name, net in nets.items()}
            loss = torch.zeros((), device=label.device)
            for name, of in logits.items():
                term = _cross_entropy(run, of, label)
                means.add(f"train_ce_{name}", term, len(label))
                loss = loss + term
            pairs = list(permutations(logits.values(), 2))
            for student, teacher in pairs:
                kd = _kd(student, teacher, settings.temperature)
                loss = loss + 6 / max(len(pairs), 6) * kd
            means.add("train_loss", loss, len(label))
            _step(optimiser, loss)
        _set_training(nets, False)
        with torch.no_grad():
            for inputs, label in _batches(run, valid):
                for name, net in nets.items():
                    of = forward(net, name, inputs)
                    means.add(f"valid_ce_{name}", _cross_entropy(run, of, label), len(label))
        yield means.row()


def train_masks(
    run: Run, plan: Plan, nets: Nets, masks: Nets, best: dict[str, dict[str, Tensor]]
) -> Iterator[Row]:
    """Stage 2, an epoch at a time: L2(m) = KD(specialist of m <- student).

    `best` always has the weights of the epoch with the smallest validation loss: the sum over
    teachers of the mean over their masks.
    """
    settings = plan.masks
    optimisers = {
        name: torch.optim.Adam(mask.parameters(), lr=settings.learning_rate)
        for name, mask in masks.items()
    }
    train, valid = _loaders(run, Stream.MASKS, settings)
    _set_training(nets, False)
    smallest = float("inf")
    while True:
        means = Means()
        _set_training(masks, True)
        for inputs, label in _batches(run, train):
            student = nets[run.target](inputs[run.target]).detach()
            for name, mask in masks.items():
                loss = _kd(_specialist(nets, name, mask, inputs), student, settings.temperature)
                means.add(f"train_kd_{name}", loss, len(label))
                _step(optimisers[name], loss)
        _set_training(masks, False)
        with torch.no_grad():
            for inputs, label in _batches(run, valid):
                student = nets[run.target](inputs[run.target])
                for name, mask in masks.items():
                    loss = _kd(_specialist(nets, name, mask, inputs), student, settings.temperature)
                    means.add(f"valid_kd_{name}", loss, len(label))
        row = means.row()
        joint = _sum_of_teachers_means(row)
        if joint < smallest:
            smallest = joint
            best |= {name: copy.deepcopy(mask.state_dict()) for name, mask in masks.items()}
        yield row


def train_student(run: Run, plan: Plan, nets: Nets, masks: Nets) -> Iterator[Row]:
    """Stage 3, an epoch at a time: L3 = CE(S) + w_kd (1/k) sum KD(S <- e) + w_lb KL(U || mean c).

    c = softmax(G(S(x))), and the sum is over the k specialists of largest c.
    """
    settings, student = plan.route, nets[run.target]
    router = build_router(run, settings, student, len(masks)).to(_device(run))
    learning = {"student": student, "router": router}
    optimiser = torch.optim.Adam(_weights(learning), lr=settings.learning_rate)
    train, valid = _loaders(run, Stream.ROUTE, settings)
    _set_training(nets, False)
    _set_training(masks, False)
    w_kd, w_lb, epoch = 1.0, 1.0, 0
    while True:
        means = Means()
        _set_training(learning, True)
        for inputs, label in _batches(run, train):
            specialists = torch.stack(
                [_specialist(nets, name, mask, inputs) for name, mask in masks.items()], dim=1
            ).detach()
            logits = student(inputs[run.target])
            log_c = router(ModelOutput(logits)).log_softmax(dim=1)
            kd = torch.zeros((), device=label.device)
            for selected in log_c.topk(settings.chosen, dim=1).indices.unbind(dim=1):
                teacher = specialists[range(len(label)), selected]
                kd = kd + _kd(logits, teacher, settings.temperature) / settings.chosen
            log_mean = log_c.logsumexp(dim=0) - np.log(len(label))
            terms = {
                "ce": _cross_entropy(run, logits, label),
                "kd": kd,
                "balance": -log_mean.mean() - np.log(len(masks)),
            }
            loss = terms["ce"] + w_kd * terms["kd"] + w_lb * terms["balance"]
            for name, term in {"loss": loss, **terms}.items():
                means.add(f"train_{name}", term, len(label))
            _step(optimiser, loss)
        _set_training(learning, False)
        with torch.no_grad():
            for inputs, label in _batches(run, valid):
                ce = _cross_entropy(run, student(inputs[run.target]), label)
                means.add("valid_ce", ce, len(label))
        epoch += 1
        w_kd *= 0.5 if epoch % 30 == 0 else 1
        w_lb *= 0.9 if epoch % 10 == 0 else 1
        yield means.row()


def train_baseline(run: Run, plan: Plan, nets: Nets) -> Iterator[Row]:
    """The bare loop that stage 3 is timed against: cross-entropy alone, the split in one tensor."""
    device, net, settings = _device(run), nets[run.target], plan.route

    def of(split: str) -> tuple[Tensor, Tensor]:
        rows = rows_of(run.splits, split)
        inputs = torch.from_numpy(np.array(run.samples.modalities[run.target][rows]))
        return inputs.to(device), torch.from_numpy(run.samples.labels[rows]).to(device)

    (inputs, labels), (unseen, truth) = of("train"), of("valid")
    optimiser = torch.optim.Adam(net.parameters(), lr=settings.learning_rate)
    while True:
        means = Means()
        net.train()
        for rows in torch.randperm(len(labels)).to(device).split(settings.batch_size):
            _step(optimiser, _cross_entropy(run, net(inputs[rows]), labels[rows]))
        net.eval()
        with torch.no_grad():
            for start in range(0, len(truth), settings.batch_size):
                some = slice(start, start + settings.batch_size)
                correct = (net(unseen[some]).argmax(dim=1) == truth[some]).double().mean()
                means.add("valid_accuracy", correct, len(truth[some]))
        yield means.row()


def on_device(run: Run, nets: Nets) -> Nets:
    """The networks on the run's device."""
    return {name: net.to(_device(run)) for name, net in nets.items()}


class Means:
    """Means of named metrics over samples, each fetched when it is added."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, value: Tensor, size: int) -> None:
        """Add a mean over `size` samples."""
        self._sums[name] += value.item() * size
        self._counts[name] += size

    def row(self) -> Row:
        """All means by name."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}


class SingleSamples(Dataset[Sample]):
    """A split, sample by sample."""

    def __init__(self, samples: Samples, rows: np.ndarray) -> None:
        self._samples = samples
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[index]
        arrays = self._samples.modalities
        inputs = {name: torch.from_numpy(np.array(array[row])) for name, array in arrays.items()}
        return inputs, torch.as_tensor(self._samples.labels[row])


class Shuffled(Sampler[int]):
    """A new order every pass, as the project draws it: `RandomSampler` draws one more a pass."""

    def __init__(self, count: int, rng: torch.Generator) -> None:
        self._count = count
        self._rng = rng

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self._count, generator=self._rng).tolist())


def _finish(epochs: Iterator[Row], settings: Training) -> None:
    for _ in islice(epochs, settings.epochs):
        pass


def _device(run: Run) -> torch.device:
    # Not `Run.device`, which prepares the process.
    return resolve_device(run.runtime.device)


def _weights(nets: Nets) -> list[nn.Parameter]:
    return [weight for net in nets.values() for weight in net.parameters()]


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _loaders(
    run: Run, stream: Stream, settings: Training
) -> tuple[DataLoader[Sample], DataLoader[Sample]]:
    train = SingleSamples(run.samples, rows_of(run.splits, "train"))
    valid = SingleSamples(run.samples, rows_of(run.splits, "valid"))
    order = Shuffled(len(train), generator(run.seed, stream, Stream.ORDER))
    size = settings.batch_size
    return DataLoader(train, size, sampler=order), DataLoader(valid, size)


def _batches(run: Run, loader: DataLoader[Sample]) -> Iterator[Sample]:
    device = _device(run)
    for inputs, label in loader:
        yield {name: tensor.to(device) for name, tensor in inputs.items()}, label.to(device)


def _set_training(nets: Nets, mode: bool) -> None:
    for net in nets.values():
        net.train(mode)


def _sum_of_teachers_means(row: Row) -> float:
    """The sum over teachers of the mean over their masks' ``valid_kd_TEACHER/LAYER``."""
    losses: dict[str, list[float]] = defaultdict(list)
    for name, value in row.items():
        if name.startswith("valid_kd_"):
            losses[name.split("/")[0]].append(value)
    return sum(sum(of) / len(of) for of in losses.values())


def _specialist(nets: Nets, name: str, mask: nn.Module, inputs: Inputs) -> Tensor:
    """The whole teacher, with a mask on the output of its layer."""
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
    attended, _ = mask.attention(tokens, tokens, tokens, need_weights=True)
    return mask.weigh(attended).squeeze(-1).sigmoid()


def _kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """tau^2 KL(softmax(t / tau) || softmax(s / tau)), the mean over samples and pixels."""
    own, other = (F.log_softmax(of / temperature, dim=1) for of in (student, teacher))
    divergence = F.kl_div(own, other, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * divergence.mean()


def _cross_entropy(run: Run, logits: Tensor, label: Tensor) -> Tensor:
    ignored = run.samples.ignored_label
    return F.cross_entropy(logits, label, ignore_index=-100 if ignored is None else ignored)
