"""How long an ONNX file takes for a sample."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime

WARM_UP = 10
"""Calls before the first that counts: they allocate memory and fill caches."""

FEWEST, MOST = 30, 200
"""The smallest and the largest number of calls that count."""

LEAST_SECONDS = 0.3
"""Calls are repeated for at least this long, unless they reach `MOST`."""

MOST_SECONDS = 20.0
"""After this time, warm-up included, no further call begins, so that a large net ends soon."""


def measure_latency(
    file: Path, shape: tuple[int, ...], batches: tuple[int, ...] = (1, 32)
) -> dict[str, dict[str, float]]:
    """Measure the milliseconds that an ONNX file takes for a sample on this machine.

    ONNX Runtime computes on the CPU with one thread. The inputs are standard normal numbers; the
    time of a net hardly depends on values. Measured is the call of the session alone: opening the
    file and reading raw values do not count. Other processes on the machine lengthen the times, the
    95th percentile more than the median.

    Args:
        file: An ONNX file with one float32 input, whose first axis is the batch.
        shape: Shape of one sample, without the batch.
        batches: Numbers of samples in a call.

    Returns:
        For each number of samples, as text, ``median`` and ``p95``, the 95th percentile, over
        `FEWEST` to `MOST` calls; over fewer, but at least one, if `MOST_SECONDS` have passed. The
        unit is a millisecond for each sample: the time of a call divided by its samples.

    Raises:
        Exception: ONNX Runtime cannot open the file or does not accept the shape; its message
            says why.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    rng = np.random.default_rng(0)
    found = {}
    for batch in batches:
        inputs = {entry.name: rng.standard_normal((batch, *shape), np.float32)}
        times = 1000 / batch * np.array(_seconds_of_calls(session, inputs))
        median, p95 = np.quantile(times, [0.5, 0.95])
        found[str(batch)] = {"median": float(median), "p95": float(p95)}
    return found


def _seconds_of_calls(
    session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]
) -> list[float]:
    """Return the seconds of each call after the warm-up."""
    start = perf_counter()
    for _ in range(WARM_UP):
        session.run(None, inputs)
        if perf_counter() - start > MOST_SECONDS:
            break
    seconds: list[float] = []
    while len(seconds) < FEWEST or (sum(seconds) < LEAST_SECONDS and len(seconds) < MOST):
        before = perf_counter()
        session.run(None, inputs)
        seconds.append(perf_counter() - before)
        if perf_counter() - start > MOST_SECONDS:
            break
    return seconds
