"""Cluster files: what Ray's launcher accepts, and an image that is pinned and unprivileged."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from jsonschema.validators import validator_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["ray-local.yaml", "ray-aws.yaml"])
def launcher(request: pytest.FixtureRequest) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / request.param).read_text(encoding="utf-8"))
    return config


@pytest.fixture
def schema() -> dict[str, Any]:
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    text = (Path(found.origin).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8")
    shipped: dict[str, Any] = json.loads(text)
    return shipped


def test_launcher_file_fits_rays_schema(launcher: dict[str, Any], schema: dict[str, Any]) -> None:
    assert [error.message for error in validator_for(schema)(schema).iter_errors(launcher)] == []


@pytest.mark.parametrize("path", [("max_worker",), ("docker", "imagee"), ("auth", "user")])
def test_the_schema_catches_a_typo(path: tuple[str, ...], launcher: dict[str, Any], schema: dict[str, Any]) -> None:
    broken = copy.deepcopy(launcher)
    section = broken
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = "x"
    with pytest.raises(jsonschema.ValidationError, match=path[-1]):
        jsonschema.validate(broken, schema)


@pytest.mark.slow
def test_launcher_file_is_what_ray_up_accepts(launcher: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher)
    validate_config(prepared)
    assert prepared["provider"] | launcher["provider"] == prepared["provider"]
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_cluster_is_closed(launcher: dict[str, Any]) -> None:
    """Token authentication on every node, and a dashboard that only its own host can reach."""
    assert "--env RAY_AUTH_MODE=token" in launcher["docker"]["run_options"]
    head = " ".join(launcher["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert any(path.endswith("/.ray/auth_token") for path in launcher["file_mounts"])


def test_every_node_sees_the_folder_that_jobs_are_submitted_with(launcher: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    folders = {Path(folder).parts[1] for folder in re.findall(r"--storage (/[^\s`]+)", page)}
    assert folders == {"shared"} and "--volume /shared:/shared" in launcher["docker"]["run_options"]


def test_image_is_pinned_and_unprivileged() -> None:
    lines = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands[0].startswith("ARG BASE=python:3.11-")
    users = [line.split()[1] for line in commands if line.startswith("USER ")]
    assert users[-1:] == ["semi"]
    text = "\n".join(commands)
    assert "pip install --requirement requirements.lock" in text
    # Whatever is installed beside the lock file comes from it too.
    assert [line for line in re.findall(r"pip install .*", text) if "requirements.lock" not in line] == []


def test_image_context_is_the_lock_file_only() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["*", "!requirements.lock"]
