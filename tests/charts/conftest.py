"""Runs that the charts are drawn from, read once."""

from pathlib import Path

import pytest

from sidecar.charts.app import VisualizationApp
from sidecar.charts.data import RunData
from sidecar.charts.load import load_runs
from tests.charts import synthetic


@pytest.fixture(scope="session")
def pipeline_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pipeline")
    synthetic.pipeline(directory, steps=240, project="nanochat", ranks=2, slow={(1, 40): 6.0})
    return directory


@pytest.fixture(scope="session")
def pipeline(pipeline_directory: Path) -> list[RunData]:
    return load_runs(pipeline_directory, projects=["nanochat"])


@pytest.fixture(scope="session")
def app(pipeline: list[RunData]) -> VisualizationApp:
    return VisualizationApp("nanochat", pipeline)
