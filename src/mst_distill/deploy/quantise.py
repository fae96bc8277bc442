"""Static quantisation of an ONNX file: weights and values of 8 bits in place of 32."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

BATCH = 32
"""The number of samples in a call of the calibration."""


def quantise(onnx_file: Path, calibration: np.ndarray, target_file: Path) -> None:
    """Quantise an ONNX file to int8 with ONNX Runtime.

    The range of each value inside the net is the smallest and the largest on the samples. Weights
    have a scale for each output channel where ONNX Runtime can. Values are unsigned and weights use
    seven of their eight bits (``reduce_range``): older x86 processors, without VNNI, add two
    products in 16 bits, which eight bits overflow. So the file computes the same on every
    processor, and what is measured here holds there.

    Args:
        onnx_file: A float32 net with one input.
        calibration: ``(n, *shape)``, finite samples on which the ranges are found; n is at least 1.
            They are not stored.
        target_file: The quantised net is written here. It has the input, the output and the
            metadata of `onnx_file`, and the same arguments give the same bytes.

    Raises:
        ValueError: There are no samples, or some are not finite; the net has no weights that can be
            quantised, or ONNX Runtime fails on it. The message names the file.
    """
    if not len(calibration) or not np.isfinite(calibration).all():
        raise ValueError(
            f"{onnx_file.name} cannot be quantised with {len(calibration)} samples: it needs at "
            f"least one, and all numbers must be finite"
        )
    original = onnx.load(onnx_file)
    try:
        model = _quantised(original, calibration)
    except Exception as error:  # the library raises errors of many types
        raise ValueError(
            f"{onnx_file.name} cannot be quantised; leave out export.int8. ONNX Runtime says: "
            f"{' '.join(str(error).split())}"
        ) from error
    if not _has_quantised_weights(model):
        kinds = ", ".join(sorted({node.op_type for node in original.graph.node}))
        raise ValueError(
            f"{onnx_file.name} has no weights that ONNX Runtime can quantise, such as those of "
            f"convolutions and linear layers; it has {kinds}: leave out export.int8"
        )
    target_file.write_bytes(_as_described(model, original).SerializeToString())


def _quantised(original: onnx.ModelProto, calibration: np.ndarray) -> onnx.ModelProto:
    """Infer the shapes of all values, which the quantisation needs, and quantise."""
    with TemporaryDirectory() as folder, _quiet():
        source, prepared, target = (
            Path(folder, f"{name}.onnx") for name in ("source", "prepared", "target")
        )
        onnx.save(original, source)
        quant_pre_process(source, prepared)
        quantize_static(
            prepared,
            target,
            _Samples(original.graph.input[0].name, calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(target)


def _has_quantised_weights(model: onnx.ModelProto) -> bool:
    int8 = onnx.TensorProto.INT8
    stored = {tensor.name for tensor in model.graph.initializer if tensor.data_type == int8}
    nodes = (node for node in model.graph.node if node.op_type == "DequantizeLinear")
    return any(node.input[0] in stored for node in nodes)


def _as_described(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Give a net the metadata of the original, and no others; declare the used operators alone.

    ONNX Runtime declares all sets of operators that it knows, at which other runtimes may stop.
    """
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    used = {node.domain for node in model.graph.node}
    declared = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(declared)
    return model


class _Samples(CalibrationDataReader):
    """Yields samples in batches, as the calibration asks for them."""

    def __init__(self, name: str, samples: np.ndarray) -> None:
        starts = range(0, len(samples), BATCH)
        self._batches = iter(samples[start : start + BATCH] for start in starts)
        self._name = name

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, as inputs of a session; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: np.asarray(batch, np.float32)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library, which logs its internals through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
