"""Kubernetes and AWS files: their structure, closed doors, no secrets, and commands that exist.

The schema beside this file was written from knowledge of the published APIs: no CRD ships with a Python package.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import re
import runpy
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from jsonschema.validators import validator_for

from pipeline.config.load import load_config
from pipeline.config.space import load_space
from pipeline.runtime.tune_trial import sweep_config

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
DOCUMENTS = [
    (path.name, document)
    for path in sorted(CLUSTER.glob("*.yaml"))
    if not path.name.startswith("ray-")
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
IDS = [f"{name}-{document['kind']}-{index}" for index, (name, document) in enumerate(DOCUMENTS)]
RAY = [(name, document) for name, document in DOCUMENTS if document["kind"].startswith("Ray")]
JOBS = [(name, document) for name, document in RAY if document["kind"] == "RayJob"]
COMMAND = re.compile(r"^(?:\s*entrypoint: |\s*|#\s+|\s*- )((?:\.venv/bin/)?python -m jobs\.\w+.*)$", re.MULTILINE)


def schema(kind: str) -> dict[str, Any]:
    text = (ROOT / "tests" / "contracts" / "kubernetes.schema.json").read_text(encoding="utf-8")
    return {**json.loads(text), "$ref": f"#/$defs/{kind}"}


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    inner: dict[str, Any] = spec.get("rayClusterSpec", spec)
    return inner


def pods(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pods(inner)
    if isinstance(value, list):
        for inner in value:
            yield from pods(inner)


@pytest.mark.parametrize(("name", "document"), DOCUMENTS, ids=IDS)
def test_structure(name: str, document: dict[str, Any]) -> None:
    checked = schema(document["kind"])
    validator_for(checked).check_schema(checked)
    assert [error.message for error in validator_for(checked)(checked).iter_errors(document)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "rayClusterSpecs"), {}),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "8"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "imag"), "x"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
    ],
)
def test_the_schema_catches_a_mistake(path: tuple[Any, ...], value: Any) -> None:
    (document,) = (document for name, document in DOCUMENTS if name == "kuberay-meta-train.yaml")
    section = broken = copy.deepcopy(document)
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema("RayJob"))


@pytest.mark.parametrize(("name", "document"), RAY, ids=[name for name, _ in RAY])
def test_ray_is_closed_and_matches_the_lock_file(name: str, document: dict[str, Any]) -> None:
    spec = cluster_spec(document)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert f"ray=={spec['rayVersion']}" in (ROOT / "requirements.lock").read_text(encoding="utf-8").split()
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["template"]["spec"]["nodeSelector"] == {"semi/capacity": "spot"}


@pytest.mark.parametrize(("name", "document"), RAY, ids=[name for name, _ in RAY])
def test_gpu_pods_ask_for_as_many_as_they_may_use(name: str, document: dict[str, Any]) -> None:
    for group in cluster_spec(document)["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert ("nvidia.com/gpu" in resources["limits"]) == (group["groupName"] == "gpu")


@pytest.mark.parametrize(("name", "document"), DOCUMENTS, ids=IDS)
def test_volumes_that_are_mounted_exist(name: str, document: dict[str, Any]) -> None:
    claims = {claim["metadata"]["name"] for claim in document.get("spec", {}).get("volumeClaimTemplates", [])}
    for pod in pods(document):
        there = {volume["name"] for volume in pod.get("volumes", [])} | claims
        mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
        assert mounted <= there


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_no_secret_is_written_down(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if path.suffix == ".yaml" else ():
        for pod in pods(document):
            for entry in (entry for container in pod["containers"] for entry in container.get("env", [])):
                assert "valueFrom" in entry or not re.search("PASSWORD|TOKEN|SECRET|KEY", entry["name"])
    assert "kind: Secret" not in path.read_text(encoding="utf-8").replace("# ", "")


def test_mlflows_server_has_the_driver_of_its_database() -> None:
    """SQLAlchemy's own choice of a driver changes with its version, so the address names it, and the image has it."""
    text = (CLUSTER / "mlflow.yaml").read_text(encoding="utf-8")
    (driver,) = re.findall(r"postgresql\+(\w+)://", text)
    assert "postgresql://" not in text
    assert re.search(rf"EXTRA={driver}-binary==[\d.]+ ", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"))
    from sqlalchemy import make_url

    url = make_url(f"postgresql+{driver}://mlflow:x@semi-postgres:5432/mlflow")
    assert url.get_dialect().driver == driver, "a name that SQLAlchemy knows"


def commands() -> list[tuple[str, str]]:
    pages = [*sorted(CLUSTER.glob("*.yaml")), ROOT / "docs" / "cluster.md"]
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found += [(page.name, command.split("  #")[0]) for command in COMMAND.findall(text)]
    return found


class ParsedError(Exception):
    pass


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_is_parsed_by_its_job(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    job = words[words.index("-m") + 1]
    assert importlib.util.find_spec(job) is not None
    arguments = words[words.index(job) + 1 :]
    options = read(job, arguments, monkeypatch)
    if options.preset or options.overrides:
        config = load_config(preset=options.preset or "miniature", overrides=options.overrides)
        if job == "jobs.tune":
            sweep_config(config, load_space(ROOT / options.space, config))
    if job == "jobs.submit" and getattr(options, "command", "") not in ("list", "logs", "stop"):
        # The job that is submitted parses what is not submit's.
        inner = arguments[arguments.index(options.command) + 1 :]
        read(f"jobs.{options.command}", inner, monkeypatch)


def read(job: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What the job's own parser makes of its arguments; the job goes no further."""
    parse, parse_known = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args

    def whole(parser: argparse.ArgumentParser) -> argparse.Namespace:
        raise ParsedError(parse(parser))

    def known(parser: argparse.ArgumentParser) -> argparse.Namespace:
        raise ParsedError(parse_known(parser)[0])

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [job, *arguments])
        patch.setattr(signal, "signal", lambda *_: None)
        if job == "jobs.submit":
            patch.setattr(argparse.ArgumentParser, "parse_known_args", known)
        else:
            patch.setattr(argparse.ArgumentParser, "parse_args", whole)
        sys.modules.pop(job, None)
        with pytest.raises(ParsedError) as parsed:
            runpy.run_module(job, run_name="__main__")
    found: argparse.Namespace = parsed.value.args[0]
    return found


def test_a_lost_head_costs_no_job() -> None:
    """`backoffLimit` gives the same command again, which a sweep refuses without `--resume`."""
    jobs = [document["spec"] for _, document in JOBS]
    assert len(jobs) == 3 and all(spec["backoffLimit"] > 0 for spec in jobs)
    (sweep,) = [spec for spec in jobs if "jobs.tune" in spec["entrypoint"]]
    assert "--resume auto" in sweep["entrypoint"]


def options_of(document: dict[str, Any]) -> dict[str, float]:
    found = re.findall(r"--set ([\w.]+)=([\d.]+)(?= |$)", document["spec"]["entrypoint"])
    return {name: float(value) for name, value in found}


@pytest.mark.parametrize(("name", "document"), JOBS, ids=[name for name, _ in JOBS])
def test_what_a_job_asks_for_is_what_its_cluster_can_bring(name: str, document: dict[str, Any]) -> None:
    asked = options_of(document)
    assert asked["runtime.scale_up_s"] > 0, "nodes of a spot pool may be late"
    pods = {group["groupName"]: group for group in cluster_spec(document)["workerGroupSpecs"]}["gpu"]
    (container,) = pods["template"]["spec"]["containers"]
    gpus, cpus = container["resources"]["limits"]["nvidia.com/gpu"], float(container["resources"]["limits"]["cpu"])
    if "extract.actors" in asked:
        assert asked["extract.actors"] * asked["extract.gpus_per_actor"] == gpus * pods["maxReplicas"]
        return
    a_pod = min(gpus / asked["runtime.gpus_per_worker"], cpus // asked["runtime.cpus_per_worker"])
    workers = asked.get("runtime.workers")
    if workers is None:
        workers = yaml.safe_load((ROOT / "tune_spaces" / "paper.yaml").read_text(encoding="utf-8"))["concurrent"]
    else:
        assert workers == a_pod, "training workers of one node: a network is slower than a step"
    assert workers == a_pod * pods["maxReplicas"]


def test_commands_are_found() -> None:
    pages = {page for page, _ in commands()}
    assert {"cluster.md", "kuberay-embeddings.yaml", "kuberay-meta-train.yaml", "kuberay-tune.yaml"} <= pages
