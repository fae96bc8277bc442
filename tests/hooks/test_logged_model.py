"""The exported student as a model of MLflow, loaded in this process and served by another."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from exports import export_of
from mlflow_stores import using_database
from mst_distill.deploy.served import ServedStudent
from mst_distill.hooks.logged_model import log_student

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a database of MLflow, which is the one in use."""
    folder = tmp_path_factory.mktemp("store")
    with using_database(folder):
        mlflow.create_experiment("exports", str(folder / "mlruns"))
        yield folder


@pytest.fixture(scope="module")
def logged(store: Path) -> Callable[[str], str]:
    """Logs the student of a kind of values when it is first needed, and returns its id."""

    @cache
    def log(kind: str) -> str:
        export_of(kind, store / kind)
        with mlflow.start_run(experiment_id=mlflow.get_experiment_by_name("exports").experiment_id):
            return log_student(store / kind, "toy_readers", {"accuracy": 0.75, "nll": 0.5})

    return log


VALUES = {
    "numbers": pd.DataFrame({"words": [1.0, -1.0], "mentions": [2.0, 5.0]}),
    "path": pd.DataFrame({"sound": [b"abcd", b"a"]}),
    "tensors": {"vector": np.ones((2, 4), np.float32)},
    "dense": pd.DataFrame({"picture": [bytes(range(24)), b""]}),
}


@pytest.mark.parametrize("kind", VALUES)
def test_the_logged_model_predicts_what_the_export_predicts(
    store: Path, logged: Callable[[str], str], kind: str
) -> None:
    model = mlflow.pyfunc.load_model(f"models:/{logged(kind)}")
    found = model.predict(VALUES[kind])
    expected = ServedStudent(store / kind, "toy_readers").predict(VALUES[kind])
    pd.testing.assert_frame_equal(found, expected)
    assert found["error"][0] == ""
    assert (found["error"][1] == "") == (kind == "tensors")
    assert list(model.metadata.get_output_schema().input_names()) == list(found)


@pytest.mark.parametrize("kind", VALUES)
def test_the_model_has_its_code_an_example_without_data_and_no_pickle(
    logged: Callable[[str], str], kind: str
) -> None:
    number = logged(kind)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{number}"))
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert {"served_student.py", f"artifacts/{kind}/student.onnx", "MLmodel"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt"))]
    required = {line.split("==")[0] for line in (folder / "requirements.txt").read_text().split()}
    assert required == {"mlflow", "numpy", "onnxruntime", "pandas"}
    example = mlflow.pyfunc.load_model(f"models:/{number}").input_example
    sent = np.asarray(example[next(iter(example))]).ravel().tolist()
    assert set(sent) <= {0.0, b""}


def test_metrics_are_linked_to_the_model(logged: Callable[[str], str]) -> None:
    number = logged("numbers")
    model = mlflow.get_logged_model(number)
    assert {metric.key: metric.value for metric in model.metrics} == {"accuracy": 0.75, "nll": 0.5}
    found = mlflow.search_logged_models(
        experiment_ids=[model.experiment_id],
        filter_string="metrics.accuracy > 0.7",
        output_format="list",
    )
    assert number in {each.model_id for each in found}


def test_a_wrong_column_is_an_error_with_the_schema(logged: Callable[[str], str]) -> None:
    model = mlflow.pyfunc.load_model(f"models:/{logged('numbers')}")
    with pytest.raises(Exception, match=r"missing inputs \['mentions'\]"):
        model.predict(pd.DataFrame({"words": [1.0]}))


def command_of_the_docs(number: str, port: int) -> str:
    """The command that docs/deploying.md has for MLflow's server."""
    text = (ROOT / "docs" / "deploying.md").read_text()
    (command,) = re.findall(r"^mlflow models serve .*$", text, re.MULTILINE)
    assert "models:/m-ID" in command
    assert "--port 5001" in command
    return command.replace("m-ID", number).replace("5001", str(port))


def post(port: int, body: Any) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        # Python reads NaN, which is no JSON, unless it is told otherwise.
        return json.loads(answer.read(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("bash") is None, reason="MLflow starts its server with bash")
def test_the_command_of_the_docs_serves_raw_values(
    store: Path, logged: Callable[[str], str]
) -> None:
    number = logged("path")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{store / 'mlflow.db'}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]),
    }
    with (store / "server.txt").open("wb") as printed:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command_of_the_docs(number, port)}"],
            env=environment,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for _ in range(300):
            assert server.poll() is None, (store / "server.txt").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                time.sleep(1)
        contents = [base64.b64encode(content).decode() for content in (b"abcd", b"a")]
        records = [{"sound": content} for content in contents]
        answer = post(port, {"dataframe_records": records})["predictions"]
        sent = pd.DataFrame({"sound": [b"abcd", b"a"]})
        expected = ServedStudent(store / "path", "toy_readers").predict(sent)
        assert answer[0]["label"] == expected["label"][0]
        assert answer[0]["confidence"] == pytest.approx(expected["confidence"][0], abs=1e-6)
        assert answer[1]["label"] == ""
        assert answer[1]["confidence"] is None
        assert answer[1]["error"] == "sound: it has 1 bytes of 4"
        abstaining = {"dataframe_records": records[:1], "params": {"least_confidence": 1.0}}
        assert post(port, abstaining)["predictions"] == [{**answer[0], "label": ""}]
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(port, {"dataframe_records": [{"noise": ""}]})
        assert refused.value.code == 400
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
