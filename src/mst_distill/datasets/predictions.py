"""The dataset of predictions on new samples: a table, and images of classes for dense labels."""

from __future__ import annotations

import colorsys
import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kedro.io import AbstractDataset
from kedro_datasets._typing import TablePreview

from mst_distill.artifacts.atomic import replacing_folder
from mst_distill.artifacts.provenance import files_below
from mst_distill.deploy.prediction import PredictedBatch, Predictions

log = logging.getLogger(__name__)


class PredictionsDataset(AbstractDataset[Predictions, pd.DataFrame]):
    """``predictions.csv`` and ``predictions.parquet``, and for dense labels one PNG for each image.

    The PNG has the position of the class of each pixel as the index of a palette; ``classes.json``
    names the classes. The files are written batch by batch, so that the memory does not depend on
    the number of samples, and replace earlier ones when they are complete.

    Args:
        filepath: The folder.
        metadata: Not used by Kedro; for plugins.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        """Return the table."""
        return pd.read_parquet(self._folder / "predictions.parquet")

    def save(self, data: Predictions) -> None:
        """Make the predictions and write them."""
        if not self._folder.name.endswith(f"-{data.name}"):
            raise ValueError(
                f"predict.name is {data.name!r}, but it is part of the path of the results and is "
                f"not read from files: add --params=predict.name={data.name}"
            )
        with replacing_folder(self._folder) as pending:
            counts = _write(data, pending)
        log.info(
            "%d samples: %d have a label, %d were abstained from, %d cannot be read (see the "
            "column `error`); the predictions are in %s",
            *counts,
            self._folder / "predictions.csv",
        )

    def files(self) -> list[Path]:
        """Return all files."""
        return files_below(self._folder)

    def preview(self, nrows: int = 20) -> TablePreview:
        """Return the first rows, for kedro-viz."""
        return TablePreview(self.load().head(nrows).to_dict(orient="split"))

    def _exists(self) -> bool:
        return (self._folder / "predictions.parquet").is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}


def _write(data: Predictions, folder: Path) -> tuple[int, int, int, int]:
    """Write all files.

    Returns:
        The numbers of all samples, of those with a label or a map, of those without a label
        because the confidence is too small, and of those that cannot be read.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("label", pa.string()),
            ("confidence", pa.float64()),
            *((f"p:{name}", pa.float64()) for name in data.classes),
            ("error", pa.string()),
        ]
    )
    total = labelled = damaged = 0
    dense = data.predictor.student_input.dense
    if dense:
        text = json.dumps(dict(enumerate(data.classes)), indent=2) + "\n"
        (folder / "classes.json").write_text(text, encoding="utf-8")
    with (
        ParquetWriter(folder / "predictions.parquet", schema) as parquet,
        (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as csv,
    ):
        for batch in data.batches():
            table = batch.table
            table.to_csv(csv, index=False, header=total == 0, float_format="%.6g")
            parquet.write_table(pa.Table.from_pandas(table, schema, preserve_index=False))
            if dense:
                _write_maps(batch, folder, len(data.classes), total)
            total += len(table)
            damaged += int((table["error"] != "").sum())
            answered = table["confidence"].notna() if dense else table["label"] != ""
            labelled += int(answered.sum())
    return total, labelled, total - labelled - damaged, damaged


def _write_maps(batch: PredictedBatch, folder: Path, classes: int, start: int) -> None:
    """Write the class of each pixel of each image as a PNG named by the row and the id."""
    from PIL import Image

    for row, (id_, pixels) in enumerate(zip(batch.table["id"], batch.maps, strict=True), start):
        if pixels is not None:
            image = Image.fromarray(pixels)
            image.putpalette(_palette(classes))  # grey values become indices of the palette
            name = "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in str(id_))
            image.save(folder / f"{row:06d}_{name[:100]}.png")


@cache
def _palette(classes: int) -> list[int]:
    """Return red, green and blue of each class, of distinct hues; the last colour is white."""
    colours = np.full((256, 3), 255, np.uint8)
    for number in range(min(classes, 255)):
        # Multiples of the golden ratio spread the hues, and neighbours differ in brightness.
        hue, value = number * 0.618034 % 1, (0.95, 0.7, 0.5)[number % 3]
        colours[number] = np.array(colorsys.hsv_to_rgb(hue, 0.65, value)) * 255
    flat: list[int] = colours.ravel().tolist()
    return flat
