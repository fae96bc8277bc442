"""C2KD against scipy's ranks and loops over the samples on which two nets agree."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from scipy.stats import kendalltau
from torch import nn

from mst_distill.compare.methods.c2kd import C2KD, kendall
from mst_distill.mst.features import Observed
from mst_distill.training.batches import Batch

TAU = 4.0
CLASSES = 5
LABELS = [0, 3, 2, 3, 1, 4]


class Speaker:
    """Says the same of every batch."""

    def __init__(self, said: Observed | None = None) -> None:
        self.net = nn.Linear(2, 2)
        self.said = said

    def dry(self, samples: object) -> Observed:
        return self.said


def fake_setup(ignored: int | None = None, dense: bool = False) -> SimpleNamespace:
    torch.manual_seed(1)  # the proxies' weights
    places = (1, 1) if dense else ()
    speakers = [Speaker(Observed(torch.empty(0), torch.ones(2, d, *places))) for d in (3, 4, 4)]
    samples = SimpleNamespace(dense=dense)
    return SimpleNamespace(
        student=speakers[0],
        new_teacher=lambda: speakers[1],
        frozen_teacher=speakers[2],
        run=SimpleNamespace(place=lambda module: module.double(), samples=samples),
        weight=0.5,
        temperature=TAU,
        ignored=ignored,
        classes=CLASSES,
    )


def kl(teacher: np.ndarray, student: np.ndarray) -> float:
    """KL(teacher || student) of two distributions."""
    return float(rel_entr(teacher, student).sum())


def pair(seed: int, shape: tuple[int, ...] = (6, CLASSES)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=shape), 2 * rng.normal(size=shape)


def observed(*arrays: np.ndarray) -> Observed:
    return Observed(*(torch.from_numpy(array) for array in arrays))


@pytest.mark.parametrize("ties", [False, True])
def test_kendall_is_scipy_s_tau_b(ties):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4, (2, 40, 7)) if ties else rng.normal(size=(2, 40, 7))
    found = kendall(*(torch.from_numpy(one.astype(float)) for one in rows))
    wanted = [kendalltau(a, b, variant="b").statistic for a, b in zip(*rows, strict=True)]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_kendall_of_opposite_and_of_tied_rows():
    row = torch.tensor([[0.3, -1.0, 2.0, 0.9]])
    assert kendall(row, 2 * row + 1).item() == 1
    assert kendall(row, -row).item() == -1
    assert kendall(row, torch.ones(1, 4)).item() == 0
    assert kendall(torch.ones(1, 4), torch.ones(1, 4)).item() == 0


def non_target(own: np.ndarray, towards: np.ndarray, label: int) -> float:
    """KD among the classes that are not the target."""
    others = [k for k in range(CLASSES) if k != label]
    return TAU**2 * kl(softmax(towards[others] / TAU), softmax(own[others] / TAU))


def proxies_of(method: C2KD) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        name: tuple(
            weight.detach().numpy().reshape(weight.shape[:2])
            for weight in method.trainable[f"proxy_of_{name}"].state_dict().values()
        )
        for name in ("student", "teacher")
    }


def logits_of(embedding: np.ndarray, linear: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return embedding @ linear[0].T + linear[1]


def ranked_pair() -> tuple[np.ndarray, np.ndarray]:
    """Logits of which samples 1, 3 and 4 are ranked alike by both."""
    student, teacher = pair(6)
    for row in range(6):
        order = student[row].argsort().argsort()
        up = np.sort(teacher[row])
        teacher[row] = up[order] if row in (1, 3, 4) else up[::-1][order]
    return student, teacher


def alike(student: np.ndarray, teacher: np.ndarray) -> list[int]:
    """Samples whose logits the proxies rank alike: some, and not all."""
    taus = [kendalltau(*rows, variant="b").statistic for rows in zip(student, teacher, strict=True)]
    chosen = [row for row, tau in enumerate(taus) if tau > 0]
    assert 0 < len(chosen) < len(taus)
    return chosen


def both(own: np.ndarray, other: np.ndarray) -> float:
    """KD from each to the other, mean over the samples."""
    p, q = softmax(own / TAU, axis=1), softmax(other / TAU, axis=1)
    return TAU**2 * np.mean([kl(a, b) + kl(b, a) for a, b in zip(p, q, strict=True)])


def test_the_terms_of_c2kd_go_through_proxies_and_from_samples_ranked_alike():
    student, teacher = ranked_pair()
    rng = np.random.default_rng(7)
    embeddings = {"student": rng.normal(size=(6, 3)), "teacher": rng.normal(size=(6, 4))}
    method = C2KD(fake_setup(), epochs=10)
    proxies = proxies_of(method)
    s, t = (logits_of(embeddings[name], proxies[name]) for name in ("student", "teacher"))
    own = observed(student, embeddings["student"])
    other = observed(teacher, embeddings["teacher"])
    terms = method.through_proxies(own, other, Batch({}, torch.tensor(LABELS)))
    wanted = {
        "kd_student": both(student, s),
        "kd_teacher": both(teacher, t),
        "kd_proxies": sum(
            non_target(s[i], t[i], LABELS[i]) + non_target(t[i], s[i], LABELS[i])
            for i in alike(s, t)
        )
        / 6,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-10)


def test_in_c2kd_what_is_learned_from_is_held_fast():
    student, teacher = ranked_pair()
    method = C2KD(fake_setup(), epochs=10)
    rng = np.random.default_rng(8)
    own = Observed(
        torch.from_numpy(student).requires_grad_(), torch.from_numpy(rng.normal(size=(6, 3)))
    )
    other = observed(teacher, rng.normal(size=(6, 4)))
    s, t = (
        logits_of(one.embedding.numpy(), proxies_of(method)[name])
        for name, one in (("student", own), ("teacher", other))
    )
    terms = method.through_proxies(own, other, Batch({}, torch.tensor(LABELS)))
    p, q = softmax(student / TAU, axis=1), softmax(s / TAU, axis=1)
    proxy = method.trainable["proxy_of_student"].bias
    pulls = torch.autograd.grad(terms["kd_student"], (own.logits, proxy), retain_graph=True)
    np.testing.assert_allclose(pulls[0].numpy(), TAU * (p - q) / 6, atol=1e-12)
    np.testing.assert_allclose(pulls[1].numpy(), TAU * (q - p).mean(axis=0), atol=1e-12)
    both_proxies = (proxy, method.trainable["proxy_of_teacher"].bias)
    pulls = torch.autograd.grad(terms["kd_proxies"], both_proxies)
    wanted = np.zeros(CLASSES)
    for i in alike(s, t):
        others = [k for k in range(CLASSES) if k != LABELS[i]]
        wanted[others] += TAU * (softmax(s[i, others] / TAU) - softmax(t[i, others] / TAU)) / 6
    np.testing.assert_allclose(pulls[0].numpy(), wanted, atol=1e-12)
    np.testing.assert_allclose(pulls[1].numpy(), -wanted, atol=1e-12)


def test_c2kd_s_proxies_are_silent_where_no_sample_is_ranked_alike():
    student, _ = pair(9)
    method = C2KD(fake_setup(), epochs=10)
    with torch.no_grad():
        up = torch.arange(CLASSES, dtype=torch.float64)
        for name, bias in (("student", up), ("teacher", -up)):
            method.trainable[f"proxy_of_{name}"].weight.zero_()
            method.trainable[f"proxy_of_{name}"].bias.copy_(bias)
    own = observed(student, np.ones((6, 3)))
    other = observed(student, np.ones((6, 4)))
    term = method.through_proxies(own, other, Batch({}, torch.tensor(LABELS)))["kd_proxies"]
    term.backward()
    assert term.item() == 0
    assert method.trainable["proxy_of_student"].weight.grad.abs().sum() == 0


def test_of_dense_labels_c2kd_s_proxies_hear_one_another_at_judged_places_of_samples_alike():
    rng = np.random.default_rng(10)
    student, teacher = rng.normal(size=(2, 3, CLASSES, 2, 2))
    label = rng.integers(0, CLASSES, (3, 2, 2))
    label[0, 0, 1] = label[2, 1, 1] = 255
    embeddings = {
        "student": rng.normal(size=(3, 3, 1, 1)),
        "teacher": rng.normal(size=(3, 4, 2, 2)),
    }
    method = C2KD(fake_setup(255, dense=True), epochs=10)
    proxies = {name: (w, b.reshape(-1)) for name, (w, b) in dense_proxies(method).items()}
    s = logits_of(embeddings["student"][:, :, 0, 0], proxies["student"])
    terms = method.through_proxies(
        observed(student, embeddings["student"]),
        observed(teacher, embeddings["teacher"]),
        Batch({}, torch.from_numpy(label)),
    )
    means = [logits_of(of.mean(axis=(1, 2)), proxies["teacher"]) for of in embeddings["teacher"]]
    chosen = alike(s, np.array(means))
    parts = []
    for b, y, x in np.ndindex(label.shape):
        if b in chosen and label[b, y, x] != 255:
            t = logits_of(embeddings["teacher"][b, :, y, x], proxies["teacher"])
            parts.append(non_target(s[b], t, label[b, y, x]) + non_target(t, s[b], label[b, y, x]))
    wanted = np.mean(parts) * len(chosen) / 3
    assert terms["kd_proxies"].item() == pytest.approx(wanted, rel=1e-10)


def dense_proxies(method: C2KD) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        name: (
            method.trainable[f"proxy_of_{name}"].weight.detach().numpy()[:, :, 0, 0],
            method.trainable[f"proxy_of_{name}"].bias.detach().numpy(),
        )
        for name in ("student", "teacher")
    }


def test_c2kd_starts_from_the_trained_teacher_and_its_rate_falls_with_a_power():
    setup = fake_setup()
    method = C2KD(setup, epochs=4)
    for name, weight in method.trainable["teacher"].state_dict().items():
        assert torch.equal(weight.double(), setup.frozen_teacher.net.state_dict()[name].double())
    optimiser = method.optimiser(0.01)
    rates = []
    for epoch in range(4):
        rates.append(optimiser.param_groups[0]["lr"])
        method.end_epoch(epoch)
    assert rates == pytest.approx([0.01 * x**0.9 for x in (1, 0.75, 0.5, 0.25)], rel=1e-12)
