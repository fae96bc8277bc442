"""The project's own Kedro datasets, for data for which kedro-datasets has none."""

from mst_distill.datasets.checkpoints import CheckpointsDataset
from mst_distill.datasets.comparisons import ComparisonsDataset
from mst_distill.datasets.exported_student import ExportedStudentDataset
from mst_distill.datasets.model_bundle import ModelBundleDataset, ModelBundlesDataset
from mst_distill.datasets.predictions import PredictionsDataset
from mst_distill.datasets.sample_store import SampleStoreDataset
from mst_distill.datasets.student_input import StudentInputDataset
from mst_distill.datasets.trial_log import TrialLogDataset

__all__ = [
    "CheckpointsDataset",
    "ComparisonsDataset",
    "ExportedStudentDataset",
    "ModelBundleDataset",
    "ModelBundlesDataset",
    "PredictionsDataset",
    "SampleStoreDataset",
    "StudentInputDataset",
    "TrialLogDataset",
]
