from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.runtime.package import SUBMITTED_CONFIG, on_the_cluster, stage_package

SMOKE = load_config(preset="smoke", overrides=["runtime.address=elsewhere:6379"])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name in (
        "jobs/a.py", "pipeline/b.py", "pipeline/__pycache__/b.pyc", "runs/x/big.bin", ".git/config", ".venv/bin/python",
        ".env", ".env.local", "jobs/.env", ".mypy_cache/x", "x.egg-info/PKG",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / "link").symlink_to("/etc/passwd")
    (root / "folder").symlink_to("/etc")
    return root


def test_only_the_code_travels(checkout: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    assert stage_package(checkout, SMOKE, target) == 2
    found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert found == {"jobs/a.py", "pipeline/b.py", SUBMITTED_CONFIG}
    assert load_config(file=target / SUBMITTED_CONFIG) == SMOKE


def test_too_large_a_checkout_names_the_biggest_folders(checkout: Path, tmp_path: Path) -> None:
    (checkout / "pipeline" / "data").mkdir()
    (checkout / "pipeline" / "data" / "big.bin").write_bytes(b"\0" * 2**20)
    message = r"too large: 1\.0 MiB, the limit is 0\.5 \(biggest: pipeline/data 1\.0 MiB, .*raise --max-mib"
    with pytest.raises(ValueError, match=message):
        stage_package(checkout, SMOKE, tmp_path / "target", max_mib=0.5)
    assert not (tmp_path / "target").exists()


def test_storage_takes_the_place_of_runs(checkout: Path) -> None:
    there = on_the_cluster(SMOKE, checkout, "/shared/semi")
    assert there.runs_dir == "/shared/semi"
    assert there.runtime.address is None
    assert there.miniature is not None
    assert there.miniature.data_dir == "/shared/semi/data/smoke"
    assert all(dataset.source.path.startswith("/shared/semi/data/smoke/") for dataset in there.datasets)


def test_an_absolute_runs_dir_is_storage(checkout: Path) -> None:
    assert on_the_cluster(replace(SMOKE, runs_dir="/shared/x"), checkout, None).runs_dir == "/shared/x"


@pytest.mark.parametrize("storage", [None, "shared/semi"])
def test_relative_storage_would_be_lost(checkout: Path, storage: str | None) -> None:
    with pytest.raises(ValueError, match="--storage: needed is the absolute path .* would be lost with it"):
        on_the_cluster(SMOKE, checkout, storage)


def test_a_bucket_keeps_what_jobs_write_on_their_node(checkout: Path) -> None:
    there = on_the_cluster(SMOKE, checkout, "s3://bucket/x?region=eu-west-1")
    assert there.runtime.mirror == "s3://bucket/x?region=eu-west-1"
    assert there.runs_dir.startswith("/tmp/semi-runs-") and there.miniature is not None
    assert there.miniature.data_dir == f"{there.runs_dir}/data/smoke"
    assert on_the_cluster(SMOKE, checkout, "s3://bucket/y").runs_dir != there.runs_dir
    chosen = on_the_cluster(replace(SMOKE, runs_dir="/scratch/semi"), checkout, "gs://bucket/x")
    assert (chosen.runs_dir, chosen.runtime.mirror) == ("/scratch/semi", "gs://bucket/x")
    with pytest.raises(ValueError, match=r"mirror must be a URI without credentials.*got 's3://...@bucket'") as caught:
        on_the_cluster(SMOKE, checkout, "s3://key:hidden@bucket/x")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "travels"),
    [("jobs/a.py", True), ("s3://b/x", True), ("/s/x", True), ("x", False), (".venv/bin/python", False)],
)
def test_sources_must_be_there(checkout: Path, path: str, travels: bool) -> None:
    first = SMOKE.datasets[0]
    config = replace(SMOKE, datasets=(replace(first, source=replace(first.source, path=path)), *SMOKE.datasets[1:]))
    if travels:
        assert on_the_cluster(config, checkout, "/s").datasets[0].source.path == path
    else:
        with pytest.raises(ValueError, match=f"dataset '{first.name}': source.path '{path}' does not travel"):
            on_the_cluster(config, checkout, "/s")
