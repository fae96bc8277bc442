"""The export of a student: one folder, with which it is used without this package.

ONNX and pt2 come from one program of ``torch.export``. Neither holds an example of real data, a
path of the machine, or a pickle.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mst_distill.artifacts.atomic import replacing_folder
from mst_distill.artifacts.bundle import ModelBundle, save_bundle
from mst_distill.artifacts.provenance import sha256_of
from mst_distill.artifacts.student_input import StudentInput, save_student_input
from mst_distill.deploy.usage import usage

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

log = logging.getLogger(__name__)

LARGEST = 512
"""The largest number of multiples in a free height or width: 16,384 pixels for multiples of 32."""


@dataclass(frozen=True)
class Int8:
    """A student in int8.

    Attributes:
        original: The content of the ``student.onnx`` that was quantised.
        onnx: The content of ``student_int8.onnx``.
        report: The content of ``int8.json``: JSON values of `compare_int8`, with the costs.
    """

    original: bytes
    onnx: bytes
    report: dict[str, Any]


@dataclass(frozen=True)
class Export:
    """A student and what belongs to it.

    Attributes:
        student: Its net.
        student_input: How its input is read, and what its logits mean.
        card: The model card, as Markdown; may be empty.
        int8: The same student in int8, if it is to be exported as well.
    """

    student: ModelBundle
    student_input: StudentInput
    card: str = ""
    int8: Int8 | None = None


def export_student(export: Export, folder: Path) -> dict[str, Any]:
    """Write a student to a folder, and check the files against its net; see `usage` for the files.

    Args:
        export: The student.
        folder: It is written whole or not at all, and replaces an earlier export.

    Returns:
        The content of ``check.json``, see `check_export`.

    Raises:
        ValueError: The net and the description of its input do not belong together, the net
            cannot be exported, or the exported files compute something else; the message says
            what.
    """
    import torch

    from mst_distill.deploy.check import check_export, sizes_to_check

    description, int8 = export.student_input, export.int8
    net, program = _traced(export)
    multiple: int | None = getattr(net, "size_multiple", None)
    with replacing_folder(folder) as pending:
        _save_bundle(export, pending / "student.json")
        save_student_input(description, pending / "student_input.json")
        with _quiet():
            torch.export.save(program, pending / "student.pt2")
        if int8:
            (pending / "student.onnx").write_bytes(int8.original)
            (pending / "student_int8.onnx").write_bytes(int8.onnx)
            text = json.dumps(int8.report, indent=2) + "\n"
            (pending / "int8.json").write_text(text, encoding="utf-8")
        else:
            _save_onnx(program, description, multiple, pending / "student.onnx")
        page = Path(__file__).with_name("predict.py")
        shutil.copyfile(page, pending / page.name)
        sizes = sizes_to_check(description.shape, multiple)
        check = check_export(net, pending, sizes, description.dense)
        check["versions"] = {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
        text = json.dumps(check, indent=2) + "\n"
        (pending / "check.json").write_text(text, encoding="utf-8")
        text = usage(export.card, description, multiple, check, int8.report if int8 else None)
        (pending / "README.md").write_text(text, encoding="utf-8")
    log.info(
        "%s has the student, checked on random inputs: its ONNX differs from the net by at most "
        "%.1e of the largest logit, and %.2f%% of the classes are others",
        folder,
        check["student.onnx"]["difference"],
        100 * check["student.onnx"]["share_of_other_classes"],
    )
    return check


def save_onnx(export: Export, file: Path) -> None:
    """Write the ``student.onnx`` of an export alone.

    Raises:
        ValueError: As in `export_student`; that the file computes the same is not checked.
    """
    net, program = _traced(export)
    _save_onnx(program, export.student_input, getattr(net, "size_multiple", None), file)


def _traced(export: Export) -> tuple[nn.Module, ExportedProgram]:
    """Copy the net of a student, check that it takes its input, and trace it."""
    net = copy.deepcopy(export.student.net).cpu().eval()
    _check_input(net, export.student_input)
    multiple = getattr(net, "size_multiple", None)
    return net, _program_of(net, export.student_input, multiple)


def _check_input(net: nn.Module, description: StudentInput) -> None:
    """Call the net once, which also gives lazy layers their widths.

    Raises:
        ValueError: The net does not accept tensors of the described shape, or has other logits.
    """
    import torch

    kind = type(net).__qualname__
    try:
        with torch.no_grad():
            logits = net(torch.zeros(2, *description.shape))
    except Exception as error:  # a net of a user can raise any
        raise ValueError(
            f"the student {kind} does not accept the {description.modality} of the shape "
            f"{description.shape}: {error}"
        ) from error
    pixels = description.shape[-2:] if description.dense else ()
    wanted = (2, len(description.classes), *pixels)
    if tuple(logits.shape) != wanted:
        raise ValueError(
            f"the student {kind} has logits of the shape {tuple(logits.shape)} for two samples; "
            f"{len(description.classes)} classes need {wanted}"
        )


def _save_bundle(export: Export, path: Path) -> None:
    """Save net and origin.

    Raises:
        ValueError: The description of the input belongs to other weights.
    """
    save_bundle(export.student, path)
    saved, recorded = sha256_of(path.with_suffix(".safetensors")), export.student_input.weights
    if saved != recorded:
        raise ValueError(
            f"the input and the student do not belong together: the SHA-256 of the weights is "
            f"{saved}, and the input was recorded for {recorded}"
        )


def _program_of(net: nn.Module, description: StudentInput, multiple: int | None) -> ExportedProgram:
    """Trace a net for any batch and, if its height and width are multiples, for any of these.

    Raises:
        ValueError: The net cannot be traced, or depends on the number of samples.
    """
    import torch

    # With one sample, the batch would count as a constant.
    example = torch.zeros(2, *_example_shape(description.shape, multiple))
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(
                net, (example,), dynamic_shapes=(_free_sides(multiple),), strict=False
            )
    except Exception as error:  # torch raises errors of many types, and so can the net
        raise ValueError(
            f"the student {type(net).__qualname__} cannot be exported: its forward must not depend "
            f"on the values of the data or on the number of samples. torch.export says: {error}"
        ) from error
    program.example_inputs = None  # it would be saved with the program, as a pickle
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
                node.meta.pop("from_node", None)
    return program


def _example_shape(shape: tuple[int, ...], multiple: int | None) -> tuple[int, ...]:
    """The shape of an example; a small one, of two different sides, if these are free."""
    return shape if multiple is None else (*shape[:-2], 2 * multiple, 3 * multiple)


def _free_sides(multiple: int | None) -> dict[int, Any]:
    """The free axes of an input: the batch and, for maps ``(B, C, H, W)``, height and width."""
    from torch.export import Dim

    batch = {0: Dim("batch")}
    if multiple is None:
        return batch
    sides = {2: "rows", 3: "columns"}
    return batch | {axis: multiple * Dim(name, min=1, max=LARGEST) for axis, name in sides.items()}


def _save_onnx(
    program: ExportedProgram, description: StudentInput, multiple: int | None, file: Path
) -> None:
    """Write ONNX with the description as metadata."""
    import torch

    with _quiet():
        onnx = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[description.modality],
            output_names=["logits"],
            dynamic_shapes=(_free_sides(multiple),),  # they name the axes
            verbose=False,
        )
        assert onnx is not None
        onnx.model.metadata_props.update(_metadata(description))
        onnx.save(file, external_data=False)


def _metadata(description: StudentInput) -> dict[str, str]:
    """The description as ``metadata_props`` of ONNX: texts, JSON except for the first two."""
    return {
        "modality": description.modality,
        "sha256": description.weights,
        "shape": json.dumps(description.shape),
        "classes": json.dumps(description.classes, ensure_ascii=False),
        "dense": json.dumps(description.dense),
        "ignored_label": json.dumps(description.ignored_label),
        "temperature": json.dumps(description.temperature),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' own warnings, which concern their internals."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
