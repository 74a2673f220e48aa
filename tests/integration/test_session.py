"""A private cluster: closed to others, quiet, with pinned workers that import this checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.config.schema import RuntimeConfig
from pipeline.runtime.session import Session, ray_session

pytestmark = pytest.mark.slow


def test_workers_are_pinned_and_import_this_checkout(cluster: Session, root: Path) -> None:
    import ray

    @ray.remote(num_cpus=0.1)  # type: ignore[untyped-decorator]
    def look() -> tuple[dict[str, str], str]:
        import pipeline

        return dict(os.environ), pipeline.__path__[0]

    environment, package = ray.get(look.remote())
    for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR"):
        assert environment[f"{library}_NUM_THREADS"] == "1"
    assert package == str(root / "pipeline")


def test_the_cluster_wants_a_token(cluster: Session) -> None:
    import requests

    dashboard = os.environ["RAY_API_SERVER_ADDRESS"]
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert requests.get(f"{dashboard}/api/jobs/", timeout=20).status_code == 401
    token = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    assert requests.get(f"{dashboard}/api/jobs/", headers=token, timeout=20).status_code == 200


def test_a_session_inside_a_session_is_the_same_one(cluster: Session, root: Path) -> None:
    import ray

    with ray_session(RuntimeConfig(), root=root) as inner:
        assert inner == cluster
    assert ray.is_initialized()
    assert (cluster.cpus, cluster.gpus) == (2.0, 0.0)
