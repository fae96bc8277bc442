"""The model card: its header, its licence, and what it must not contain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from mst_distill.artifacts.student_input import ReaderRecord, StudentInput
from mst_distill.data.summary import describe
from mst_distill.parameters import Card
from mst_distill.report.model_card import CardContents, model_card
from toy_diagnoses import finished
from toy_reports import evaluated

STATED = Card(
    license="cc-by-nc-sa-4.0",
    data_license="CC BY-NC-SA 4.0",
    uses="Comparing methods.",
    not_for="Recognising the emotions of people.",
    contact="someone@example.org",
)
NAMES = ("<script>alert(1)</script>", "a|b", "c_d")


def header_of(page: str) -> Any:
    """The header of a card, as the library of the Hub reads it."""
    return ModelCard(page).data


def description_of(samples, target, reader=None) -> StudentInput:
    shape = tuple(samples.modalities[target].shape[1:])
    return StudentInput(
        target, shape, samples.dense, samples.classes, None, 0.52, "ab" * 32, reader
    )


def card_of(kind="two modalities", card=STATED, names=(), reader=None):
    samples, results = evaluated(kind, names)
    report = describe(samples, finished(kind).run.splits)
    contents = CardContents(
        card=card,
        benchmark="mst_distill.benchmarks.digits.Digits",
        student=("mst_distill.nets.digits.DigitImageNet", 29914, "ab" * 32),
        training={"route": "60 epochs"},
        samples_report=report,
        protocol="heldout",
        limit="all",
        student_input=description_of(samples, results.target, reader),
    )
    return model_card(results, contents), samples, results


def test_the_header_is_read_by_the_library_of_the_hub() -> None:
    page, _, results = card_of()
    data = header_of(page)
    assert data.license == "cc-by-nc-sa-4.0"
    assert data.tags == ["knowledge-distillation", "cross-modal", "image"]
    assert data.model_name == "Digits image student"
    by_metric = {result.metric_type: result.metric_value for result in data.eval_results}
    student = results.models["student"]
    assert by_metric["accuracy"] == round(student["accuracy"], 5)
    assert by_metric["nll"] == round(student["nll"], 5)
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_without_a_stated_licence_it_is_other_and_never_that_of_the_code() -> None:
    page, _, _ = card_of(card=Card())
    assert header_of(page).license == "other"
    assert "Licence of the data: not stated." in page
    assert "None is stated for this network." in page
    assert page.count("Not stated.") == 2  # what it is for, and what it is not for


def test_what_was_stated_is_in_the_card() -> None:
    page, _, _ = card_of()
    for text in (STATED.data_license, STATED.uses, STATED.not_for, STATED.contact):
        assert text in page
    assert "Not stated" not in page


def test_the_verdict_the_tables_and_the_limits_are_in_the_card() -> None:
    page, _, results = card_of()
    assert f"> {results.metrics['verdict']}\n" in page
    assert "| input | image, float32, batch x 1 x 8 x 8 |" in page
    assert "| weights | 29,914, 0.12 MB as float32 |" in page
    assert "| test | 8 | 8 |" in page
    assert "- The test split has only 8 groups (" in page
    assert "| route | 60 epochs |" in page
    assert "abababab" in page
    assert "\n\n\n" not in page


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    page, _, _ = card_of(names=NAMES)
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 6
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1, block


def test_class_names_are_escaped() -> None:
    page, _, _ = card_of(names=NAMES)
    assert "<script" not in page
    shown = "&lt;script&gt;alert(1)&lt;/script&gt;, a&#124;b, c_d."
    assert f"Classes, in the order of the logits: {shown}" in page


def test_a_card_has_no_sample_no_id_and_no_path(tmp_path) -> None:
    page, samples, _ = card_of()
    assert not any(name in page for name in samples.index["id"])
    assert "data/" not in page
    assert "file:" not in page


def test_dense_labels_are_of_pixels() -> None:
    page, _, _ = card_of("dense labels")
    assert "Classes, in the order of the logits of every pixel: class 0" in page
    assert "test pixels" in page
    results = header_of(page).eval_results
    assert {result.task_type for result in results} == {"image-segmentation"}
    assert "mean_iou" in {result.metric_type for result in results}


@pytest.mark.parametrize("known", [True, False])
def test_how_the_input_is_read_is_stated_if_it_is_known(known: bool) -> None:
    reader = ReaderRecord("mine.Spectrogram", {}, {"mean": np.zeros(1)}) if known else None
    page, _, _ = card_of(reader=reader)
    assert "| temperature | 0.520; divide the logits by it |" in page
    assert ("| reader | mine.Spectrogram |" in page) == known


def test_a_card_describes_its_benchmark_and_no_other() -> None:
    embedded = Card(benchmark="mst_distill.benchmarks.digits.Digits", license="cc-by-sa-4.0")
    assert embedded.of("mst_distill.benchmarks.digits.Digits") is embedded
    assert embedded.of("mine.Own") == Card()
    assert STATED.of("mine.Own") is STATED
