"""Latency: what is measured, in which batches and with how many threads. No time is asserted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import toy_nets
from exports import make_export
from mst_distill.deploy import latency
from mst_distill.deploy.export import save_onnx
from mst_distill.deploy.latency import measure_latency


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("latency") / "student.onnx"
    save_onnx(make_export(toy_nets.Image(3), {"classes": 3}), file)
    return file


class Sessions(onnxruntime.InferenceSession):
    """A session that also keeps its options and the shapes of its inputs."""

    options: list[onnxruntime.SessionOptions]
    inputs: list[np.ndarray]

    def __init__(self, path, options, **more):
        super().__init__(path, options, **more)
        assert self.get_providers() == ["CPUExecutionProvider"]
        type(self).options.append(options)

    def run(self, names, inputs):
        type(self).inputs += inputs.values()
        return super().run(names, inputs)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> type[Sessions]:
    Sessions.options, Sessions.inputs = [], []
    monkeypatch.setattr(onnxruntime, "InferenceSession", Sessions)
    return Sessions


def test_every_batch_has_a_median_and_a_larger_percentile(onnx_file: Path) -> None:
    found = measure_latency(onnx_file, (1, 8, 8))
    assert list(found) == ["1", "32"]
    for values in found.values():
        assert list(values) == ["median", "p95"]
        assert 0 < values["median"] <= values["p95"]


def test_one_thread_computes_normal_numbers_in_the_batches(
    onnx_file: Path, sessions: type[Sessions]
) -> None:
    measure_latency(onnx_file, (1, 8, 8), batches=(2, 64))
    (options,) = sessions.options
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    sizes = [len(tensors) for tensors in sessions.inputs]
    assert sizes == sorted(sizes)
    for size in (2, 64):
        calls = sizes.count(size)
        assert latency.WARM_UP + latency.FEWEST <= calls <= latency.WARM_UP + latency.MOST
    large = sessions.inputs[-1]
    assert large.shape == (64, 1, 8, 8)
    assert large.dtype == np.float32
    assert abs(large.mean()) < 0.1
    assert large.std() == pytest.approx(1, abs=0.1)


def test_times_are_milliseconds_of_one_sample(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that advances by one second at each look makes every call last one second."""
    seconds = iter(range(10**6))
    monkeypatch.setattr(latency, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(latency, "MOST_SECONDS", 10**6)
    found = measure_latency(onnx_file, (1, 8, 8), batches=(1, 4))
    assert found == {"1": {"median": 1000, "p95": 1000}, "4": {"median": 250, "p95": 250}}


def test_a_net_that_takes_long_is_called_less_often(
    onnx_file: Path, sessions: type[Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "MOST_SECONDS", 0.0)
    found = measure_latency(onnx_file, (1, 8, 8), batches=(1,))
    assert len(sessions.inputs) == 2
    assert found["1"]["median"] == found["1"]["p95"] > 0
