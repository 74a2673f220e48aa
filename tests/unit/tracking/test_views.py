"""Saved views of the experiment's page, read as MLflow's page reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config.schema import TrackingConfig
from pipeline.tracking import NullTracker, open_tracker
from pipeline.tracking.store import Store, local_uri, quiet_mlflow
from pipeline.tracking.ui import ui_address
from pipeline.tracking.views import RESULTS, VIEW_TAG, children_view, results_view, view_page

FIELDS = {
    "searchFilter", "orderByKey", "orderByAsc", "startTime", "lifecycleFilter", "modelVersionFilter", "datasetsFilter"
}  # fmt: skip
"""What MLflow 3.17 takes from a view for its search."""


def saved(runs_dir: Path, key: str) -> tuple[str, dict[str, Any]]:
    """Name and state of a view."""
    client = quiet_mlflow().MlflowClient(tracking_uri=local_uri(runs_dir))
    view = json.loads(client.get_experiment_by_name("semi").tags[VIEW_TAG + key])
    assert isinstance(view["createdAt"], int)
    return view["name"], json.loads(view["state"])


def sweep(runs_dir: Path) -> str:
    """A sweep of three trials and a stage; the link to its trials."""
    with open_tracker(
        TrackingConfig(), runs_dir, name="s", params={}, commit="c", config_fingerprint="f", source="jobs.tune",
        kind="sweep",
    ) as run:  # fmt: skip
        for number, score in enumerate((0.2, 0.4, 0.3)):
            with run.child(f"{number:04d}", "trial", {"hypernet.rank": number}) as trial:
                trial.log_metrics({"score": score, "loss": 1.0})
        with run.stage("extract_embeddings"):
            pass
        return run.log_view("Trials of s", "trial", params=["hypernet.rank"], metrics=["score", "loss"])


def test_a_view_lists_the_children_the_best_first(runs_dir: Path) -> None:
    link = sweep(runs_dir)
    with open_tracker(
        TrackingConfig(), runs_dir, name="other", params={}, commit="c", config_fingerprint="f", source="s",
        kind="sweep",
    ) as run, run.child("0000", "trial") as trial:  # fmt: skip
        trial.log_metrics({"score": 0.9})
    key = link.partition("viewStateShareKey=")[2].partition("&")[0]
    name, state = saved(runs_dir, key)
    assert name == "Trials of s" and set(state) >= FIELDS
    direction = "ASC" if state["orderByAsc"] else "DESC"
    store = Store(local_uri(runs_dir), "semi")
    found = store.client.search_runs(
        [store.experiment_id], state["searchFilter"], order_by=[f"{state['orderByKey']} {direction}"]
    )
    assert [run.info.run_name for run in found] == ["0001", "0002", "0000"]
    assert link == view_page(store.experiment_id, key)
    for run in found:
        there = {f"params.`{one}`" for one in run.data.params} | {f"metrics.`{one}`" for one in run.data.metrics}
        assert set(state["selectedColumns"]) == there
    parallel = state["compareRunCharts"][0]
    assert (parallel["selectedParams"], parallel["selectedMetrics"]) == (["hypernet.rank"], ["score"])


def test_every_chart_lies_in_a_section_that_is_there() -> None:
    _, value = children_view("k", "n", 0, run_id="r", kind="trial", params=["a"], metrics=["m"])
    state = json.loads(json.loads(value)["state"])
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])


def test_a_wide_space_fits_into_a_tag() -> None:
    params = [f"section{number}.group.a_long_name_of_a_field_{number}" for number in range(40)]
    _, value = children_view("k", "n", 0, run_id="r" * 32, kind="trial", params=params, metrics=["score", "loss"])
    assert len(value) < 5000, "MLflow takes no longer tag"


def test_the_page_opens_at_the_results_and_a_view_of_ones_own_is_kept(runs_dir: Path) -> None:
    sweep(runs_dir)
    name, state = saved(runs_dir, RESULTS)
    assert name == "Results" and "metrics.`attribute_accuracy`" in state["selectedColumns"]
    store = Store(local_uri(runs_dir), "semi")
    assert ui_address(runs_dir, "semi", 5000) == f"http://127.0.0.1:5000/{view_page(store.experiment_id, RESULTS)}"
    own = results_view(1)[1].replace("Results", "Mine")
    store.client.set_experiment_tag(store.experiment_id, VIEW_TAG + RESULTS, own)
    sweep(runs_dir)
    assert saved(runs_dir, RESULTS)[0] == "Mine"


def test_without_tracking_there_is_nothing_to_open() -> None:
    assert NullTracker().log_view("n", "trial", params=[], metrics=["score"]) == ""
