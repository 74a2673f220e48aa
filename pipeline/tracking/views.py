"""Saved views of the experiment's page: which runs it lists, with which columns and charts.

In: a run, and the params and metrics that tell its children apart.  Out: tags of the experiment, as MLflow 3.17 reads
them (its menu "Views"), and the part of the address that opens a view.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.config.fingerprint import fingerprint

VIEW_TAG = "mlflow.sharedViewState."
"""Prefix of a view's tag; what follows is its key."""
RESULTS = "results"
"""Key of the view that `make ui` opens."""
HEADLINE_METRICS = ("attribute_accuracy", "cider_d", "best_score")
"""The columns of that view: the result of a run, and of a sweep."""
_NAME = "attributes.`Run Name`"
_MOST_PARAMS = 12
"""A tag holds 5,000 characters, and a page hardly more columns."""
_CHART_HEIGHT = 480


def view_key(run_key: str) -> str:
    """The view of a run's children."""
    return fingerprint(("view", run_key))


def view_page(experiment_id: str, key: str) -> str:
    """What follows the server's address."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}&workflowType=machine_learning"


def results_view(ms: int) -> tuple[str, str]:
    """Name and value of the tag: all runs, the newest first, with their scores."""
    columns = [*_columns("metrics", HEADLINE_METRICS), "attributes.`Models`", "attributes.`Source`"]
    widths = dict.fromkeys(columns, 150)
    state = {"selectedColumns": columns, "columnOrder": [_NAME, *columns], "columnWidths": {_NAME: 200, **widths}}
    return VIEW_TAG + RESULTS, _tag("Results", ms, state)


def children_view(
    key: str, name: str, ms: int, *, run_id: str, kind: str, params: Sequence[str], metrics: Sequence[str]
) -> tuple[str, str]:
    """Name and value of the tag: a run's children, the best of the first metric on top; as lines in the chart view."""
    params = params[:_MOST_PARAMS]
    scores, settings = _columns("metrics", metrics), _columns("params", params)
    columns = [*scores, *settings]
    charts, section = "charts", {"name": name, "display": True, "isReordered": False}
    parallel = {
        "type": "PARALLEL",
        "runsCountToCompare": 100,
        "selectedParams": list(params),
        "selectedMetrics": list(metrics[:1]),
        "showAllRuns": False,
    }
    drawn = [parallel, {"type": "BAR", "metricKey": metrics[0], "runsCountToCompare": 100}]
    state = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}' AND tags.kind = '{kind}'",
        "orderByKey": f"metrics.`{metrics[0]}`",
        "selectedColumns": columns,
        "columnOrder": [_NAME, *columns],
        "columnWidths": {_NAME: 280, **dict.fromkeys(scores, 110), **dict.fromkeys(settings, 170)},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [{"uuid": charts, **section, "columns": 1, "cardHeight": _CHART_HEIGHT}],
        "compareRunCharts": [
            {"uuid": f"chart-{number}", "metricSectionId": charts, "deleted": False, "isGenerated": False, **chart}
            for number, chart in enumerate(drawn)
        ],
    }
    return VIEW_TAG + key, _tag(name, ms, state)


def _columns(group: str, names: Iterable[str]) -> list[str]:
    return [f"{group}.`{name}`" for name in names]


def _tag(name: str, ms: int, state: dict[str, Any]) -> str:
    everything = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
    return json.dumps({"name": name, "createdAt": ms, "updatedAt": ms, "state": json.dumps(everything | state)})
