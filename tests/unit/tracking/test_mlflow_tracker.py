"""What a run keeps of what it is told: its place in the tree, final state, params, metrics, tables, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.config.schema import TrackingConfig
from pipeline.tracking import NullTracker
from pipeline.tracking.store import local_uri, quiet_mlflow
from tests.unit.tracking.runs import COMMIT, history, open_run, python, runs_of


def test_a_parent_with_a_child_a_stage(runs_dir: Path) -> None:
    with open_run(runs_dir) as run:
        for name in ("meta_train", "evaluate"):
            with run.stage(name, params={"hypernet": {"rank": 32}}) as stage:
                stage.log_metrics({"loss": 1.0}, 0)
        run.describe("**good**")
    runs = runs_of(runs_dir)
    assert set(runs) == {"demo", "meta_train", "evaluate"}
    parent, child = runs["demo"], runs["meta_train"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params == {"hypernet.rank": "32"}
    assert parent.data.params == {"seed": "0"}
    assert parent.data.tags["mlflow.note.content"] == "**good**"
    for each in runs.values():
        assert each.info.status == "FINISHED"
        assert (each.data.tags["commit"], each.data.tags["config_fingerprint"]) == (COMMIT, "feed")
        assert each.data.tags["mlflow.source.git.commit"] == COMMIT.removesuffix("+dirty")
        assert each.data.tags["mlflow.source.name"] == "jobs.demo"


def test_metrics_over_steps_are_complete(runs_dir: Path) -> None:
    with open_run(runs_dir) as run, run.stage("meta_train") as stage:
        for step in range(1234):
            stage.log_metrics({"loss": 1.0 / (step + 1), "queries_per_s": 5.0}, step)
    run_of = runs_of(runs_dir)["meta_train"]
    assert history(runs_dir, run_of, "loss") == [(step, 1.0 / (step + 1)) for step in range(1234)]
    assert len(history(runs_dir, run_of, "queries_per_s")) == 1234


def test_flush_makes_metrics_visible_before_the_end(runs_dir: Path) -> None:
    with open_run(runs_dir) as run:
        run.log_metrics({"loss": 2.0}, 5)
        run.flush()
        assert history(runs_dir, runs_of(runs_dir)["demo"], "loss") == [(5, 2.0)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad https://me:pw@host"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(0), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(2), "FAILED"),
        (SystemExit("text"), "FAILED"),
    ],
)
def test_every_way_out_sets_the_final_state(runs_dir: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), open_run(runs_dir) as run, run.stage("meta_train") as stage:
        stage.log_metrics({"loss": 1.0}, 0)
        raise error
    runs = runs_of(runs_dir)
    assert {name: run.info.status for name, run in runs.items()} == {"demo": status, "meta_train": status}
    assert history(runs_dir, runs["meta_train"], "loss") == [(0, 1.0)]
    if isinstance(error, ValueError):
        assert runs["meta_train"].data.tags["error"] == "ValueError: bad https://***@host"


def test_a_failed_stage_does_not_fail_the_ones_before(runs_dir: Path) -> None:
    with pytest.raises(RuntimeError), open_run(runs_dir) as run:
        with run.stage("extract"):
            pass
        with run.stage("meta_train"):
            raise RuntimeError("boom")
    statuses = {name: run.info.status for name, run in runs_of(runs_dir).items()}
    assert statuses == {"demo": "FAILED", "extract": "FINISHED", "meta_train": "FAILED"}


def test_a_pipeline_that_skips_everything_leaves_no_trace_and_does_not_import_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.config.schema import TrackingConfig\n"
        "from pipeline.tracking import open_tracker\n"
        f"with open_tracker(TrackingConfig(), Path({str(tmp_path)!r}) / 'runs', name='demo', params={{}}, commit='c',\n"
        "                  config_fingerprint='f', source='jobs.demo') as run:\n"
        "    run.flush()\n"
        "print('mlflow' in sys.modules)\n"
    )
    done = python(code)
    assert (done.stdout, done.stderr, done.returncode) == ("False\n", "", 0)
    assert list(tmp_path.iterdir()) == []


def test_more_params_than_one_request_may_carry(runs_dir: Path) -> None:
    with open_run(runs_dir, params={f"p{number}": number for number in range(350)}) as run, run.stage("one"):
        pass
    assert len(runs_of(runs_dir)["demo"].data.params) == 350


def test_a_whole_preset_is_logged(runs_dir: Path) -> None:
    config = load_config(preset="smoke", file=None, overrides=[])
    with open_run(runs_dir, params=config) as run, run.stage("one"):
        pass
    params = runs_of(runs_dir)["demo"].data.params
    assert params["meta.optim.steps"] == str(config.meta.optim.steps)
    assert params["llm.prompt"] == config.llm.prompt


def test_a_param_cannot_change_but_may_be_repeated(runs_dir: Path) -> None:
    with open_run(runs_dir) as run:
        run.log_params({"rank": 8})
        run.log_params({"rank": 8, "seed": 0, "width": 64})
        with pytest.raises(ValueError, match="param 'rank' of run 'demo' is already '8' and cannot become '9'"):
            run.log_params({"rank": 9})
        with pytest.raises(ValueError, match="'seed'"):
            run.log_params({"seed": 1})
    assert runs_of(runs_dir)["demo"].data.params == {"seed": "0", "rank": "8", "width": "64"}


def test_artifacts_keep_their_folders(runs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.png").write_bytes(b"png")
    (tmp_path / "report.md").write_text("![a](plots/a.png)")
    with open_run(runs_dir) as run:
        run.log_artifact(tmp_path / "report.md")
        run.log_artifact(tmp_path / "plots")
        run.log_artifact(tmp_path / "plots", "more")
        with pytest.raises(FileNotFoundError, match="missing.png does not exist"):
            run.log_artifact(tmp_path / "missing.png")
    (root,) = (runs_dir / "mlartifacts").glob("*/artifacts")
    stored = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert stored == ["more/plots/a.png", "plots/a.png", "report.md"]


def test_tables_are_stored_as_mlflow_shows_them(runs_dir: Path) -> None:
    columns: dict[str, list[object]] = {
        "reference": ["a cat", "a | dog"],
        "caption": ["a cat", "a cow"],
        "score": [1.0, None],
    }
    with open_run(runs_dir) as run:
        run.log_table("captions", columns)
        with pytest.raises(ValueError, match=r"columns of one length, got \{'a': 1, 'b': 2\}"):
            run.log_table("bad", {"a": [1], "b": [1, 2]})
    record = runs_of(runs_dir)["demo"]
    (path,) = (runs_dir / "mlartifacts").rglob("captions.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["reference", "caption", "score"]
    assert table["data"] == [["a cat", "a cat", 1.0], ["a | dog", "a cow", None]]
    assert json.loads(record.data.tags["mlflow.loggedArtifacts"]) == [{"path": "captions.json", "type": "table"}]


def test_datasets_and_models_are_linked_to_their_run(runs_dir: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    with open_run(runs_dir) as run, run.stage("meta_train") as stage:
        stage.log_dataset("image/a", digest="feed", source="/runs/a", context="training", profile={"rows": 3})
        stage.log_model("meta_train", weights, kind="safetensors", params={"steps": 4})
        with pytest.raises(FileNotFoundError, match="missing does not exist"):
            stage.log_model("other", tmp_path / "missing", kind="safetensors")
    record = runs_of(runs_dir)["meta_train"]
    (dataset,) = record.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest, dataset.dataset.profile) == ("image/a", "feed", '{"rows": 3}')
    assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "training")]
    client = quiet_mlflow().MlflowClient(tracking_uri=local_uri(runs_dir))
    model = client.get_logged_model(record.outputs.model_outputs[0].model_id)
    assert (model.name, model.source_run_id, model.params) == ("meta_train", record.info.run_id, {"steps": "4"})
    assert (Path(model.artifact_location) / "weights.safetensors").read_bytes() == b"weights"


def test_stages_show_what_the_machine_did(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.mlflow_tracker.SYSTEM_METRICS_S", 0.1)
    import time

    with open_run(runs_dir) as run, run.stage("meta_train"):
        time.sleep(1.0)
    metrics = runs_of(runs_dir)["meta_train"].data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert "system/cpu_utilization_percentage" in metrics
    assert runs_of(runs_dir)["demo"].data.metrics == {}


def test_nothing_is_tracked_where_it_is_switched_off(tmp_path: Path) -> None:
    with open_run(tmp_path, config=TrackingConfig(enabled=False)) as run:
        assert isinstance(run, NullTracker)
        with run.stage("one", params={"a": 1}) as stage:
            stage.log_metrics({"loss": 1.0}, 0)
            stage.log_artifact(tmp_path / "missing")
            stage.log_table("t", {})
            stage.log_params({"a": 1})
            stage.set_tags({"a": "b"})
            stage.describe("text")
            stage.flush()
        assert run.handle is None
    assert list(tmp_path.iterdir()) == []
