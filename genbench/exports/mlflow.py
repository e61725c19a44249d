"""Results for MLflow: a run of an experiment, by a server or a store of files or a database."""

from __future__ import annotations

import time

from genbench.exports.summary import Summary

TAG = "genbench.run"
"""Tag by which a run is found again."""


def write(summary: Summary, place: str | None, *, project: str, name: str, step: int) -> str:
    """Logs the results as an MLflow run, which is found again when the same results are written a second time.

    Args:
        place: tracking URI, such as http://localhost:5000 or sqlite:///mlflow.db; None for that of MLFLOW_TRACKING_URI.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name(project)
    where = experiment.experiment_id if experiment else client.create_experiment(project)
    there = client.search_runs([where], f"tags.`{TAG}` = '{summary.id}'", max_results=1)
    run = there[0] if there else client.create_run(where, run_name=name, tags={TAG: summary.id})
    now = int(time.time() * 1000)
    # A parameter can be written once only.
    params = [Param(key, str(value)) for key, value in summary.settings().items() if key not in run.data.params]
    tags = summary.facts() | {"command": summary.command()}
    for start in range(0, max(len(params), len(tags)), 100):  # MLflow takes no more in a request
        chosen = [RunTag(key, value) for key, value in list(tags.items())[start : start + 100]]
        client.log_batch(run.info.run_id, params=params[start : start + 100], tags=chosen)
    numbers = [Metric(key, value, now, step) for key, value in summary.numbers().items()]
    for start in range(0, len(numbers), 1000):
        client.log_batch(run.info.run_id, metrics=numbers[start : start + 1000])
    for path in summary.files():
        client.log_artifact(run.info.run_id, str(path))
    client.set_terminated(run.info.run_id, "FINISHED")
    return f"run {run.info.run_id} of the experiment {project} in {client.tracking_uri}"
