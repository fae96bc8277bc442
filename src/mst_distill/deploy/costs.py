"""What a student costs where it is used: weights, multiply-adds, bytes and milliseconds."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mst_distill.deploy.export import Export, save_onnx
from mst_distill.deploy.latency import measure_latency
from mst_distill.parameters import Budget


def costs_of(export: Export) -> dict[str, float]:
    """Measure the costs of a student, which do not depend on the values of its weights.

    Args:
        export: The student and its input.

    Returns:
        ``parameters``, the number of weights; ``multiply_adds`` of a sample, see `multiply_adds`;
        ``bytes`` of the exported ONNX file; and milliseconds of a sample on this machine, see
        `measure_latency`: ``milliseconds`` and ``milliseconds_p95`` one sample at a time,
        ``milliseconds_of_32`` and ``milliseconds_of_32_p95`` in batches of 32, or NaN if every
        pixel has a label, since 32 large pictures may not fit in memory.

    Raises:
        ValueError: The net cannot be exported, see `export_student`.
    """
    shape = tuple(export.student_input.shape)
    batches = (1,) if export.student_input.dense else (1, 32)
    with TemporaryDirectory() as folder:
        file = Path(folder, "student.onnx")
        save_onnx(export, file)
        latency, size = measure_latency(file, shape, batches), file.stat().st_size
    single = latency["1"]
    batched = latency.get("32", {"median": math.nan, "p95": math.nan})
    return {
        "parameters": sum(weight.numel() for weight in export.student.net.parameters()),
        "multiply_adds": multiply_adds(export.student.net, shape),
        "bytes": size,
        "milliseconds": single["median"],
        "milliseconds_p95": single["p95"],
        "milliseconds_of_32": batched["median"],
        "milliseconds_of_32_p95": batched["p95"],
    }


def multiply_adds(net: nn.Module, shape: tuple[int, ...]) -> int:
    """Count the multiply-adds of a sample in matrix products, convolutions and attention.

    PyTorch's counter counts two operations for each. Activations, norms and pooling are not
    counted; their time is part of the milliseconds.

    Args:
        net: The net; a copy in eval mode on the CPU is called.
        shape: The shape of a sample.
    """
    copied = copy.deepcopy(net).cpu().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copied(torch.zeros(1, *shape))
    return int(counter.get_total_flops()) // 2


def check_budget(name: str, costs: dict[str, float], budget: Budget) -> None:
    """Reject a student that costs more than its device has.

    Args:
        name: The student.
        costs: From `costs_of`.
        budget: The largest milliseconds of a sample and megabytes of the file.

    Raises:
        ValueError: It costs more; the message has the measured values and those of the budget.
    """
    measured: dict[str, Any] = {
        "milliseconds": (costs["milliseconds"], "milliseconds for a sample (median, one thread)"),
        "megabytes": (costs["bytes"] / 1e6, "megabytes as ONNX"),
    }
    for key, (value, what) in measured.items():
        largest = getattr(budget, key)
        if largest is not None and value > largest:
            raise ValueError(
                f"the student {name!r} needs {value:.3g} {what}, and budget.{key} is {largest:g}: "
                f"choose a smaller net ({costs['parameters']:,.0f} weights, "
                f"{costs['multiply_adds']:,.0f} multiply-adds) or a larger budget"
            )
