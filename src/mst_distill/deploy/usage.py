"""The README of an exported student: its model card, and how to use the files."""

from __future__ import annotations

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


def usage(card: str, description: StudentInput, multiple: int | None, check: dict[str, Any]) -> str:
    """Write the README of an export.

    Args:
        card: The model card, as Markdown; a title stands in place of an empty one.
        description: The student's input.
        multiple: The number of which a free height and width are multiples; None if they are fixed.
        check: See `check_export`.
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
    files = "\n".join(f"| {name} | {what} |" for name, what in FILES.items())
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
"""
