"""The README of an exported student: its model card, and how to use the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mst_distill.artifacts.student_input import StudentInput

FILES = {
    "student.onnx": "logits from tensors, for any ONNX runtime",
    "student.pt2": "the same as a program of torch.export, which needs PyTorch alone",
    "student.json, student.safetensors": "the net and its origin, which need mst-distill",
    "student_input.json, student_input.safetensors": "how an input is read, and the classes",
    "predict.py": "predictions from tensors, which needs NumPy and ONNX Runtime alone",
    "check.json": "how near ONNX and pt2 come to the net on random inputs",
}
"""What the files of an export are for."""

INT8_FILES = {
    "student_int8.onnx": "student.onnx with 8 bits for each weight instead of 32",
    "int8.json": "what int8 costs and gains on the test split",
}
"""The same for an export with int8."""


def usage(
    card: str,
    description: StudentInput,
    multiple: int | None,
    check: dict[str, Any],
    int8: Mapping[str, Any] | None = None,
) -> str:
    """Write the README of an export.

    Args:
        card: The model card, as Markdown; a title stands in place of an empty one.
        description: The student's input.
        multiple: The number of which a free height and width are multiples; None if they are fixed.
        check: See `check_export`.
        int8: The content of ``int8.json``, if the export has it.
    """
    reader = description.reader
    reading = (
        f"as `{reader.type}` of mst-distill reads them from raw values"
        if reader
        else "as the source of the benchmark makes them from raw files; they have no reader"
    )
    free = "" if multiple is None else f"; other heights and widths are multiples of {multiple}"
    per = "pixel" if description.dense else "sample"
    onnx = check["student.onnx"]
    more = INT8_FILES if int8 else {}
    files = "\n".join(f"| {name} | {what} |" for name, what in {**FILES, **more}.items())
    return f"""{card.strip() or f"# A student of {description.modality}"}

## Files

| file | what it is |
|---|---|
{files}

```sh
pip install numpy onnxruntime
python predict.py TENSORS.npy > predictions.csv
```

- Input `{description.modality}`: float32, (batch, {", ".join(map(str, description.shape))}){free},
  {reading}.
- Output `logits`: one number for each of the {len(description.classes)} classes of a {per}, in the
  order of `classes` in student_input.json.
- Probabilities: softmax(logits / {description.temperature:.6g}), the temperature of
  student_input.json.

On random inputs the logits of ONNX differ from those of the net by at most
{onnx["difference"]:.1e} of the largest logit, and {onnx["share_of_other_classes"]:.2%} of the
{per}s get another class.
{_int8_section(int8) if int8 else ""}"""


def _int8_section(report: Mapping[str, Any]) -> str:
    """The section on int8, with a table of what it costs and gains."""
    models = [report["float32"], report["int8"]]
    rows = [
        [title, *(format(model[metric], form) for model in models)]
        for metric, (title, form) in METRICS.items()
        if metric in models[0]
    ]
    rows.append(["bytes", *(f"{model['bytes']:,}" for model in models)])
    for batch in models[0]["milliseconds"]:
        times = (model["milliseconds"][batch] for model in models)
        cells = (f"{each['median']:.3g} ({each['p95']:.3g})" for each in times)
        rows.append([f"ms a sample, {batch} at a time", *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""
## int8

```sh
python predict.py --int8 TENSORS.npy > predictions.csv
```

{report["summary"]}

| on {report["samples"]} test samples | float32 | int8 |
|---|---|---|
{table}

Both files were run with ONNX Runtime. Both have the temperature of student_input.json, which was
fitted in float32. Times are of one thread on the machine of the export: the median, and in brackets
the 95th percentile. The ranges of int8 were found on {report["calibration_samples"]}
training samples.
"""


METRICS = {
    "accuracy": ("accuracy", ".2%"),
    "mean_iou": ("mean intersection over union", ".2%"),
    "nll": ("negative log-likelihood, in nats", ".4f"),
    "nll_scaled": ("negative log-likelihood with the temperature", ".4f"),
    "calibration_error": ("expected calibration error", ".2%"),
    "calibration_error_scaled": ("expected calibration error with the temperature", ".2%"),
}
"""The metrics of the table, with their titles and formats."""
