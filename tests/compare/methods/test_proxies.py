"""C2KD against scipy's tau-b and loops over the samples of equal ranking."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from scipy.stats import kendalltau
from torch import nn

from mst_distill.compare.methods.c2kd import C2KD, kendall
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.supervision import Supervision
from mst_distill.parameters import TrainingRecipe
from mst_distill.training.batches import Batch

TAU = 4.0
CLASSES = 5
LABELS = [0, 3, 2, 3, 1, 4]


class FixedModel:
    """A model with the same output for every batch."""

    def __init__(self, output: ModelOutput | None = None) -> None:
        self.net = nn.Linear(2, 2)
        self.output = output

    def dry(self, samples: object) -> ModelOutput:
        return self.output


def fake_context(ignored: int | None = None, dense: bool = False) -> SimpleNamespace:
    torch.manual_seed(1)  # the proxies' weights
    spatial = (1, 1) if dense else ()
    models = [
        FixedModel(ModelOutput(torch.empty(0), torch.ones(2, d, *spatial))) for d in (3, 4, 4)
    ]
    samples = SimpleNamespace(dense=dense)
    return SimpleNamespace(
        student=models[0],
        new_teacher=lambda: models[1],
        frozen_teacher=models[2],
        run=SimpleNamespace(place=lambda module: module.double(), samples=samples),
        weight=0.5,
        temperature=TAU,
        supervision=Supervision(ignored),
        classes=CLASSES,
    )


def kl(teacher: np.ndarray, student: np.ndarray) -> float:
    """Compute KL(teacher || student) of two distributions."""
    return float(rel_entr(teacher, student).sum())


def logit_pair(seed: int, shape: tuple[int, ...] = (6, CLASSES)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=shape), 2 * rng.normal(size=shape)


def make_output(*arrays: np.ndarray) -> ModelOutput:
    return ModelOutput(*(torch.from_numpy(array) for array in arrays))


@pytest.mark.parametrize("ties", [False, True])
def test_kendall_matches_scipy_s_tau_b(ties):
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


def non_target_kd(own: np.ndarray, towards: np.ndarray, label: int, tau: float = TAU) -> float:
    """Compute KD among the classes that are not the target."""
    others = [k for k in range(CLASSES) if k != label]
    return tau**2 * kl(softmax(towards[others] / tau), softmax(own[others] / tau))


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


def ranked_logit_pair() -> tuple[np.ndarray, np.ndarray]:
    """Make logits of which samples 1, 3 and 4 have the same ranking in both nets."""
    student, teacher = logit_pair(6)
    for row in range(6):
        order = student[row].argsort().argsort()
        up = np.sort(teacher[row])
        teacher[row] = up[order] if row in (1, 3, 4) else up[::-1][order]
    return student, teacher


def similar(student: np.ndarray, teacher: np.ndarray) -> list[int]:
    """Find the samples with a tau-b above 0, which are some but not all."""
    taus = [kendalltau(*rows, variant="b").statistic for rows in zip(student, teacher, strict=True)]
    selected = [row for row, tau in enumerate(taus) if tau > 0]
    assert 0 < len(selected) < len(taus)
    return selected


def mutual_kd(own: np.ndarray, other: np.ndarray, tau: float = TAU) -> float:
    """Compute KD in both directions, mean over the samples."""
    p, q = softmax(own / tau, axis=1), softmax(other / tau, axis=1)
    return tau**2 * np.mean([kl(a, b) + kl(b, a) for a, b in zip(p, q, strict=True)])


def test_the_proxy_terms_of_c2kd_match_loops_over_samples_of_similar_ranking():
    student, teacher = ranked_logit_pair()
    rng = np.random.default_rng(7)
    embeddings = {"student": rng.normal(size=(6, 3)), "teacher": rng.normal(size=(6, 4))}
    method = C2KD(fake_context(), temperature=TAU)
    proxies = proxies_of(method)
    s, t = (logits_of(embeddings[name], proxies[name]) for name in ("student", "teacher"))
    own = make_output(student, embeddings["student"])
    other = make_output(teacher, embeddings["teacher"])
    terms = method.proxy_terms(own, other, Batch({}, torch.tensor(LABELS)))
    wanted = {
        "kd_student": mutual_kd(student, s),
        "kd_teacher": mutual_kd(teacher, t),
        "kd_proxies": sum(
            non_target_kd(s[i], t[i], LABELS[i]) + non_target_kd(t[i], s[i], LABELS[i])
            for i in similar(s, t)
        )
        / 6,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-10)


def test_the_source_of_each_c2kd_term_has_no_gradient():
    student, teacher = ranked_logit_pair()
    method = C2KD(fake_context(), temperature=TAU)
    rng = np.random.default_rng(8)
    own = ModelOutput(
        torch.from_numpy(student).requires_grad_(), torch.from_numpy(rng.normal(size=(6, 3)))
    )
    other = make_output(teacher, rng.normal(size=(6, 4)))
    s, t = (
        logits_of(one.embedding.numpy(), proxies_of(method)[name])
        for name, one in (("student", own), ("teacher", other))
    )
    terms = method.proxy_terms(own, other, Batch({}, torch.tensor(LABELS)))
    p, q = softmax(student / TAU, axis=1), softmax(s / TAU, axis=1)
    proxy = method.trainable["proxy_of_student"].bias
    gradients = torch.autograd.grad(terms["kd_student"], (own.logits, proxy), retain_graph=True)
    np.testing.assert_allclose(gradients[0].numpy(), TAU * (p - q) / 6, atol=1e-12)
    np.testing.assert_allclose(gradients[1].numpy(), TAU * (q - p).mean(axis=0), atol=1e-12)
    both_proxies = (proxy, method.trainable["proxy_of_teacher"].bias)
    gradients = torch.autograd.grad(terms["kd_proxies"], both_proxies)
    wanted = np.zeros(CLASSES)
    for i in similar(s, t):
        others = [k for k in range(CLASSES) if k != LABELS[i]]
        wanted[others] += TAU * (softmax(s[i, others] / TAU) - softmax(t[i, others] / TAU)) / 6
    np.testing.assert_allclose(gradients[0].numpy(), wanted, atol=1e-12)
    np.testing.assert_allclose(gradients[1].numpy(), -wanted, atol=1e-12)


def test_c2kd_s_proxy_term_is_0_if_no_sample_has_a_similar_ranking():
    student, _ = logit_pair(9)
    method = C2KD(fake_context(), temperature=TAU)
    with torch.no_grad():
        up = torch.arange(CLASSES, dtype=torch.float64)
        for name, bias in (("student", up), ("teacher", -up)):
            method.trainable[f"proxy_of_{name}"].weight.zero_()
            method.trainable[f"proxy_of_{name}"].bias.copy_(bias)
    own = make_output(student, np.ones((6, 3)))
    other = make_output(student, np.ones((6, 4)))
    term = method.proxy_terms(own, other, Batch({}, torch.tensor(LABELS)))["kd_proxies"]
    term.backward()
    assert term.item() == 0
    assert method.trainable["proxy_of_student"].weight.grad.abs().sum() == 0


def test_with_dense_labels_c2kd_s_proxy_term_is_a_mean_over_labelled_pixels():
    rng = np.random.default_rng(10)
    student, teacher = rng.normal(size=(2, 3, CLASSES, 2, 2))
    label = rng.integers(0, CLASSES, (3, 2, 2))
    label[0, 0, 1] = label[2, 1, 1] = 255
    embeddings = {
        "student": rng.normal(size=(3, 3, 1, 1)),
        "teacher": rng.normal(size=(3, 4, 2, 2)),
    }
    method = C2KD(fake_context(255, dense=True), temperature=TAU)
    proxies = {name: (w, b.reshape(-1)) for name, (w, b) in dense_proxies(method).items()}
    s = logits_of(embeddings["student"][:, :, 0, 0], proxies["student"])
    terms = method.proxy_terms(
        make_output(student, embeddings["student"]),
        make_output(teacher, embeddings["teacher"]),
        Batch({}, torch.from_numpy(label)),
    )
    means = [logits_of(of.mean(axis=(1, 2)), proxies["teacher"]) for of in embeddings["teacher"]]
    selected = similar(s, np.array(means))
    losses = []
    for b, y, x in np.ndindex(label.shape):
        if b in selected and label[b, y, x] != 255:
            t = logits_of(embeddings["teacher"][b, :, y, x], proxies["teacher"])
            losses.append(
                non_target_kd(s[b], t, label[b, y, x]) + non_target_kd(t, s[b], label[b, y, x])
            )
    wanted = np.mean(losses) * len(selected) / 3
    assert terms["kd_proxies"].item() == pytest.approx(wanted, rel=1e-10)


def dense_proxies(method: C2KD) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        name: (
            method.trainable[f"proxy_of_{name}"].weight.detach().numpy()[:, :, 0, 0],
            method.trainable[f"proxy_of_{name}"].bias.detach().numpy(),
        )
        for name in ("student", "teacher")
    }


def test_c2kd_has_the_temperature_of_its_authors_by_default():
    student, teacher = ranked_logit_pair()
    rng = np.random.default_rng(7)
    method = C2KD(fake_context())
    own, other = (
        make_output(student, rng.normal(size=(6, 3))),
        make_output(teacher, rng.normal(size=(6, 4))),
    )
    terms = method.proxy_terms(own, other, Batch({}, torch.tensor(LABELS)))
    s, t = (
        logits_of(one.embedding.numpy(), proxies_of(method)[name])
        for name, one in (("student", own), ("teacher", other))
    )
    p, q = softmax(student, axis=1), softmax(s, axis=1)
    wanted = {
        "kd_student": np.mean([kl(a, b) + kl(b, a) for a, b in zip(p, q, strict=True)]),
        "kd_teacher": mutual_kd(teacher, t, 1.0),
        "kd_proxies": sum(
            non_target_kd(s[i], t[i], LABELS[i], 1.0) + non_target_kd(t[i], s[i], LABELS[i], 1.0)
            for i in similar(s, t)
        )
        / 6,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-10)


def test_c2kd_starts_from_the_trained_teacher_and_has_polynomial_decay():
    context = fake_context()
    method = C2KD(context)
    method.epochs = 4
    for name, weight in method.trainable["teacher"].state_dict().items():
        assert torch.equal(weight.double(), context.frozen_teacher.net.state_dict()[name].double())
    optimiser = method.optimiser(0.5, TrainingRecipe())  # the run's rate, which C2KD does not take
    rates = []
    for epoch in range(4):
        rates.append(optimiser.param_groups[0]["lr"])
        method.end_epoch(epoch)
    assert rates == pytest.approx([0.01 * x**0.9 for x in (1, 0.75, 0.5, 0.25)], rel=1e-12)
