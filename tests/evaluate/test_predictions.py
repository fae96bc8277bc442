"""One pass over the held-out split, against the nets called by hand and numpy in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mst_distill.data.samples import Samples, rows_of
from mst_distill.evaluate import calibration
from mst_distill.evaluate.calibration import draw_positions, fit_temperature
from mst_distill.evaluate.predictions import (
    EvaluatedModels,
    HeldOutResults,
    evaluate_models,
    evaluate_nets,
    fit_temperatures,
    predict_validation,
)
from mst_distill.mst.ensemble import SpecialistEnsemble
from mst_distill.mst.masks import MapMask, VectorMask
from mst_distill.mst.split_teacher import specialise
from mst_distill.nets.digits import DigitAudioNet, DigitFusionNet, DigitImageNet
from mst_distill.parameters import Runtime
from mst_distill.training.run import Run
from toys import make_samples

pytestmark = pytest.mark.usefixtures("float64")

SPECIALISTS = ("multimodal/fusion", "multimodal/hidden", "audio/hidden")
NETS = ["multimodal teacher", "audio teacher", *SPECIALISTS, "student", "baseline"]
TAU = 3.0


class Dropping(DigitImageNet):
    """A net whose accuracy would be lower if it were evaluated in training mode."""

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(image), 0.5, self.training)


class DenseNet(nn.Module):
    """A net from one or two ``(B, 1, H, W)`` maps to logits ``(B, C, H, W)``."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(inputs, 6, 3, padding=1)
        self.logits = nn.Conv2d(6, classes, 1)

    def forward(self, image: Tensor, depth: Tensor | None = None) -> Tensor:
        maps = image if depth is None else torch.cat([image, depth], dim=1)
        return self.logits(self.hidden(maps).relu())


class DenseFusion(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = DenseNet(2, classes)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        return self.net(image, depth)


def ensemble_of(
    teachers: dict[str, nn.Module], masks: dict[str, nn.Module], samples: Samples
) -> SpecialistEnsemble:
    """Build the specialists of `masks`, which are named ``teacher/layer``."""
    layers: dict[str, dict[str, nn.Module]] = {name: {} for name in teachers}
    for name, mask in masks.items():
        teacher, layer = name.split("/")
        layers[teacher][layer] = mask.eval()
    return SpecialistEnsemble(
        {name: specialise(name, net, layers[name], samples) for name, net in teachers.items()}
    )


def make_models(samples: Samples) -> EvaluatedModels:
    torch.manual_seed(0)
    teachers = {"multimodal": DigitFusionNet(3), "audio": DigitAudioNet(3)}
    students = {"student": Dropping(3), "baseline": DigitImageNet(3)}
    for net in (*teachers.values(), *students.values()):
        # The logits of untrained nets are nearly 0, so that the nets would hardly differ.
        net.logits.weight.data *= 20
    masks = {
        "multimodal/fusion": VectorMask(96, 8, 3),
        "multimodal/hidden": VectorMask(48, 4, 3),
        "audio/hidden": VectorMask(48, 4, 3),
    }
    ensemble = ensemble_of(teachers, masks, samples)
    return EvaluatedModels(teachers, ensemble, "image", students)


@pytest.fixture(scope="module")
def run(float64: None) -> Run:
    samples, splits = make_samples(35, seed=4)
    return Run(samples, splits, "image", 0, Runtime(device="cpu"))


@pytest.fixture(scope="module")
def models(run: Run) -> EvaluatedModels:
    return make_models(run.samples)


@pytest.fixture(scope="module")
def results(run: Run, models: EvaluatedModels) -> HeldOutResults:
    # 7 held-out samples: batches of 3 and 4.
    for net in (*models.teachers.values(), *models.students.values()):
        net.train()
    return evaluate_models(run, models, batch_size=3, bins=5, temperature=TAU)


@pytest.fixture(scope="module")
def logits(run: Run, models: EvaluatedModels, results: HeldOutResults) -> dict[str, np.ndarray]:
    """Return the logits of all models for the held-out samples, computed in one batch."""
    rows = rows_of(run.splits, "test")
    inputs = {name: torch.from_numpy(of[rows]) for name, of in run.samples.modalities.items()}
    fusion, audio = models.teachers["multimodal"].eval(), models.teachers["audio"].eval()
    with torch.no_grad():
        tensors = {
            "multimodal teacher": fusion(**inputs),
            "audio teacher": audio(inputs["audio"]),
            **{name: net.eval()(inputs["image"]) for name, net in models.students.items()},
            **dict(specialists_by_hand(models, inputs)),
        }
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def specialists_by_hand(
    models: EvaluatedModels, inputs: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the logits of each specialist: its teacher with one mask hooked on one layer."""
    for name in SPECIALISTS:
        teacher, layer = name.split("/")
        tail = models.ensemble.teachers[teacher].tails[layer]
        mask = next(module for module in tail.modules() if isinstance(module, VectorMask))
        net = models.teachers[teacher]
        hook = net.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, mask=mask: mask(output)
        )
        yield name, net(**inputs) if teacher == "multimodal" else net(inputs[teacher])
        hook.remove()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def mean_kd(student: np.ndarray, teacher: np.ndarray) -> float:
    p, q = softmax(teacher / TAU), softmax(student / TAU)
    return float(TAU**2 * (p * np.log(p / q)).sum(axis=1).mean())


def test_every_model_is_evaluated_on_every_held_out_sample(
    run: Run, results: HeldOutResults
) -> None:
    held_out = run.splits[run.splits["split"] == "test"]
    assert len(held_out) == 7
    assert set(results.predictions["model"]) == set(NETS) == set(results.metric_counts)
    for model, rows in results.predictions.groupby("model"):
        assert rows["id"].tolist() == held_out["id"].tolist(), model
        assert rows["label"].tolist() == held_out["label"].tolist(), model
        assert (rows["labelled"] == 1).all()


@pytest.mark.parametrize("model", NETS)
def test_rows_equal_the_outcomes_by_numpy(
    run: Run, results: HeldOutResults, logits: dict[str, np.ndarray], model: str
) -> None:
    label = run.samples.labels[rows_of(run.splits, "test")]
    probability = softmax(logits[model])
    rows = results.predictions[results.predictions["model"] == model]
    guess = probability.argmax(axis=1)
    assert rows["prediction"].tolist() == guess.tolist()
    assert rows["correct"].tolist() == (guess == label).astype(int).tolist()
    assert rows["confidence"].to_numpy() == pytest.approx(probability.max(axis=1), rel=1e-10)
    nll = -np.log(probability[np.arange(7), label])
    assert rows["nll"].to_numpy() == pytest.approx(nll, rel=1e-10)
    counts = results.metric_counts[model]
    assert counts["nll"] == pytest.approx(nll.mean(), rel=1e-10)
    assert np.trace(counts["confusion"]) == (guess == label).sum()
    assert sum(counts["calibration"]["count"]) == 7
    assert len(counts["calibration"]["count"]) == 5


def test_models_differ_so_that_other_tests_would_notice_a_mix_up(
    logits: dict[str, np.ndarray],
) -> None:
    values = list(logits.values())
    for index, one in enumerate(values):
        for other in values[index + 1 :]:
            assert np.abs(one - other).max() > 0.05


def test_disagreement_has_all_ordered_pairs_within_each_group(results: HeldOutResults) -> None:
    pairs = results.disagreement[["group", "model", "from"]].itertuples(index=False, name=None)
    teachers = ("multimodal teacher", "audio teacher")
    assert set(pairs) == {
        *(("teachers", one, other) for one in teachers for other in teachers if one != other),
        *(
            ("specialists", one, other)
            for one in SPECIALISTS
            for other in SPECIALISTS
            if one != other
        ),
    }


def test_disagreement_is_the_mean_kd_of_one_model_from_the_other(
    results: HeldOutResults, logits: dict[str, np.ndarray]
) -> None:
    found = results.disagreement.set_index(["model", "from"])["kl"]
    assert len(found) == 8
    for (model, source), value in found.items():
        expected = mean_kd(logits[model], logits[source])
        assert value == pytest.approx(expected, rel=1e-10), (model, source)
    one, other = "multimodal teacher", "audio teacher"
    assert found[one, other] != pytest.approx(found[other, one], rel=1e-3)


def test_the_batch_size_does_not_change_the_results(
    run: Run, models: EvaluatedModels, results: HeldOutResults
) -> None:
    whole = evaluate_models(run, models, batch_size=100, bins=5, temperature=TAU)
    order = ["model", "id"]
    one, other = (of.predictions.sort_values(order) for of in (whole, results))
    assert one["prediction"].tolist() == other["prediction"].tolist()
    np.testing.assert_allclose(one["nll"], other["nll"], rtol=1e-10)
    np.testing.assert_allclose(whole.disagreement["kl"], results.disagreement["kl"], rtol=1e-10)


def test_the_error_for_logits_that_are_not_finite_names_model_and_sample(
    run: Run, models: EvaluatedModels
) -> None:
    rows = rows_of(run.splits, "test")
    arrays = {name: of.copy() for name, of in run.samples.modalities.items()}
    arrays["image"][rows[4]] = np.inf  # like a product that overflows float32
    run = replace(run, samples=replace(run.samples, modalities=arrays))
    sample = run.splits["id"].iloc[rows[4]]
    with pytest.raises(FloatingPointError, match=f"'multimodal.+' for .* sample '{sample}'"):
        evaluate_models(run, models, batch_size=3, bins=5, temperature=TAU)
    with pytest.raises(FloatingPointError, match=f"'image net selected by ce'.*sample '{sample}'"):
        evaluate_nets(run, {"ce": models.students["baseline"]}, "image", 3, 5)


def test_dense_models_are_evaluated_on_their_pixels() -> None:
    samples, splits = make_samples(
        10, {"image": (1, 4, 4), "depth": (1, 4, 4)}, classes=3, dense=(4, 4), ignored=2
    )
    torch.manual_seed(1)
    teachers = {"multimodal": DenseFusion(3), "depth": DenseNet(1, 3)}
    mask = MapMask(6, 1, 3)
    ensemble = SpecialistEnsemble(
        {
            "multimodal": specialise(
                "multimodal", teachers["multimodal"], {"net.hidden": mask.eval()}, samples
            ),
            "depth": specialise("depth", teachers["depth"], {}, samples),
        }
    )
    student = DenseNet(1, 3)
    models = EvaluatedModels(teachers, ensemble, "image", {"student": student})
    run = Run(samples, splits, "image", 0, Runtime(device="cpu"))
    results = evaluate_models(run, models, batch_size=1, bins=4, temperature=TAU)
    rows = results.predictions[results.predictions["model"] == "student"]
    assert (rows["prediction"] == -1).all()
    assert (rows["label"] == -1).all()
    held_out = rows_of(splits, "test")
    with torch.no_grad():
        logits = {
            "student": student(torch.from_numpy(samples.modalities["image"][held_out])),
            "depth": teachers["depth"](torch.from_numpy(samples.modalities["depth"][held_out])),
            "both": teachers["multimodal"](
                **{name: torch.from_numpy(of[held_out]) for name, of in samples.modalities.items()}
            ),
        }
    label = samples.labels[held_out]
    right = (logits["student"].numpy().argmax(axis=1) == label) & (label != 2)
    assert rows["correct"].tolist() == right.sum(axis=(1, 2)).tolist()
    assert rows["labelled"].tolist() == (label != 2).sum(axis=(1, 2)).tolist()
    pixels = {
        name: np.moveaxis(of.double().numpy(), 1, -1).reshape(-1, 3) for name, of in logits.items()
    }
    found = results.disagreement.set_index(["model", "from"])["kl"]
    expected = mean_kd(pixels["depth"], pixels["both"])
    assert found["depth teacher", "multimodal teacher"] == pytest.approx(expected, rel=1e-10)


def validation_logits(run: Run, models: EvaluatedModels) -> dict[str, np.ndarray]:
    """Return the logits of all models for the validation samples, computed in one batch."""
    rows = rows_of(run.splits, "valid")
    models.place(run)
    inputs = {name: torch.from_numpy(of[rows]) for name, of in run.samples.modalities.items()}
    with torch.no_grad():
        return {name: of.double().numpy() for name, of in models.logits(inputs).items()}


def test_temperatures_are_those_of_the_validation_split(run: Run, models: EvaluatedModels) -> None:
    labels = run.samples.labels[rows_of(run.splits, "valid")]
    models.students["student"].train()
    models.place(run)
    found = fit_temperatures(run, models.logits, run.modalities, 3)
    expected = {
        name: fit_temperature(of, labels) for name, of in validation_logits(run, models).items()
    }
    assert found == pytest.approx(expected, rel=1e-6)
    assert set(found) == set(NETS)
    assert len(set(found.values())) == len(NETS)


def test_scaled_rows_equal_the_outcomes_by_numpy(
    run: Run, models: EvaluatedModels, logits: dict[str, np.ndarray]
) -> None:
    fitted = {name: 0.5 + 0.25 * place for place, name in enumerate(NETS)}
    results = evaluate_models(run, models, 3, 5, TAU, fitted)
    label = run.samples.labels[rows_of(run.splits, "test")]
    for model, rows in results.predictions.groupby("model"):
        probability = softmax(logits[model] / fitted[model])
        nll = -np.log(probability[np.arange(7), label])
        assert rows["nll_scaled"].to_numpy() == pytest.approx(nll, rel=1e-10)
        assert rows["confidence_scaled"].to_numpy() == pytest.approx(probability.max(axis=1))
        assert results.metric_counts[model]["temperature"] == fitted[model]
        assert results.metric_counts[model]["nll_scaled"] == pytest.approx(nll.mean(), rel=1e-10)


def test_validation_predictions_are_scaled_and_in_the_order_of_the_split(
    run: Run, models: EvaluatedModels
) -> None:
    valid = run.splits[run.splits["split"] == "valid"]
    table = predict_validation(run, "student", models.students["student"], 2.0, 3)
    assert table["id"].tolist() == valid["id"].tolist()
    assert table["label"].tolist() == valid["label"].tolist()
    assert set(table["model"]) == {"student"}
    logits = validation_logits(run, models)["student"]
    guess = logits.argmax(axis=1)
    assert table["prediction"].tolist() == guess.tolist()
    assert table["correct"].tolist() == (guess == valid["label"]).astype(int).tolist()
    expected = softmax(logits / 2).max(axis=1)
    assert table["confidence_scaled"].to_numpy() == pytest.approx(expected, rel=1e-10)


def test_nets_are_evaluated_with_their_own_temperatures(run: Run, models: EvaluatedModels) -> None:
    nets = {"ce": models.students["student"], "last": models.students["baseline"]}
    counts = evaluate_nets(run, nets, "image", 3, 5)
    models.place(run)
    temperatures = fit_temperatures(run, models.logits, run.modalities, 3)
    found = {name: of["temperature"] for name, of in counts.items()}
    expected = {"ce": temperatures["student"], "last": temperatures["baseline"]}
    assert found == pytest.approx(expected, rel=1e-6)
    results = evaluate_models(run, models, 3, 5, TAU, temperatures).metric_counts
    assert counts["ce"]["nll_scaled"] == pytest.approx(results["student"]["nll_scaled"], rel=1e-6)
    assert counts["ce"]["nll"] == pytest.approx(results["student"]["nll"], rel=1e-10)


@pytest.mark.parametrize("batch_size", [1, 2, 10])
@pytest.mark.parametrize("ignored", [2, None])
def test_temperatures_of_dense_models_use_a_fixed_draw_of_labelled_pixels(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, ignored: int | None
) -> None:
    samples, splits = make_samples(25, {"image": (1, 8, 8)}, 3, (8, 8), ignored)
    noise = np.random.default_rng(0).normal(size=samples.labels.shape)
    samples.modalities["image"][:, 0] = samples.labels + noise

    def logits_of(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"net": -((inputs["image"] - torch.arange(3).view(1, 3, 1, 1)) ** 2)}

    run = Run(samples, splits, "image", 7, Runtime(device="cpu"))
    monkeypatch.setattr(calibration, "LARGEST_DRAW", 60)
    found = fit_temperatures(run, logits_of, ["image"], batch_size, hidden=True)
    rows = rows_of(splits, "valid")
    logits = logits_of({"image": torch.from_numpy(samples.modalities["image"][rows])})["net"]
    pixels = logits.movedim(1, -1).reshape(-1, 3).numpy()
    labels = samples.labels[rows].reshape(-1)
    labelled = labels != ignored if ignored is not None else np.ones(len(labels), dtype=bool)
    drawn = draw_positions(int(labelled.sum()), 7)
    assert len(drawn) == 60 < labelled.sum()
    expected = fit_temperature(pixels[labelled][drawn], labels[labelled][drawn])
    assert found["net"] == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx(fit_temperature(pixels[labelled], labels[labelled]), rel=1e-3)


def test_a_validation_sample_with_logits_that_are_not_finite_is_named(run: Run) -> None:
    sample = run.splits.query("split == 'valid'")["id"].iloc[4]

    def logits_of(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits = torch.zeros(len(inputs["image"]), 3)
        broken = run.samples.modalities["image"][run.splits["id"] == sample][0]
        logits[(inputs["image"].numpy() == broken).all(axis=(1, 2, 3)), 1] = torch.nan
        return {"student": logits}

    with pytest.raises(FloatingPointError, match=f"'student' for the validation .* '{sample}'"):
        fit_temperatures(run, logits_of, ["image"], 3)
