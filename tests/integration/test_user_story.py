"""README's story of own data, run as it is written: files to adapter, captions, and a served model."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
READY_S = 120.0
NEW = ("first.tif", "second.tif", "third.tif")
SMOKE_STAGES = ("prepare_miniature", "extract_embeddings", "pretrain_projector", "meta_train")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def block(name: str) -> str:
    """The code between two marks of the README."""
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```\n<!-- /{name} -->", README, flags=re.DOTALL)
    assert found is not None
    return found[1]


def story() -> list[str]:
    return block("story").strip().splitlines()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a meta-trained run `demo`, at test size, and the user's files in `my/`."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in ("pipeline", "jobs"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").symlink_to(sys.prefix)
    for stage in SMOKE_STAGES:
        run(f".venv/bin/python -m jobs.{stage} --preset smoke --name demo", folder)
    shutil.copytree(folder / "runs" / "data" / "smoke" / "satellite", folder / "my")
    table = (folder / "my" / "metadata.csv").read_text().splitlines()
    (folder / "my" / "pairs.csv").write_text("\n".join(table[:33]) + "\n")
    (folder / "my" / "new").mkdir()
    for number, name in enumerate(NEW, start=100):
        shutil.copy(folder / "my" / "files" / f"satellite-{number:05}.tif", folder / "my" / "new" / name)
    return folder


def environment() -> dict[str, str]:
    """A user's shell, in which no virtual environment is active."""
    own = (str(Path(sys.prefix) / "bin"), str(Path(sys.executable).parent))
    path = os.pathsep.join(entry for entry in os.environ["PATH"].split(os.pathsep) if entry not in own)
    kept = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    return {**kept, "PYTHONPATH": "", "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextmanager
def served(command: str, folder: Path, port: int) -> Iterator[str]:
    """A server that answers."""
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec env {command}"],
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        limit = time.monotonic() + READY_S
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < limit, (folder / "serve.log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=60)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _post(url: str, body: dict[str, Any]) -> list[dict[str, str]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        predictions: list[dict[str, str]] = json.loads(reply.read())["predictions"]
    return predictions


def test_the_story_runs_as_written(checkout: Path) -> None:
    demo, integrate, caption, register, serve = story()
    assert demo == "make demo"
    for command in (integrate, caption, register):
        run(command, checkout)
    lines = (checkout / "runs" / "captions.jsonl").read_text().splitlines()
    captions = {Path(row["id"]).name: row["caption"] for row in map(json.loads, lines)}
    assert sorted(captions) == sorted(NEW) and all(captions.values())

    found = run(f"{sys.executable} -c '{block('api')}print(captions)'", checkout).stdout
    assert found.strip().splitlines()[-1] == str([captions[name] for name in NEW[:2]])

    files = [(checkout / "my" / "new" / name).read_bytes() for name in NEW]
    cells = [base64.b64encode(content).decode() for content in (*files, b"no image")]
    body: dict[str, Any] = {"dataframe_split": {"columns": ["content"], "data": [[cell] for cell in cells]}}
    (checkout / "body.json").write_text(json.dumps(body))
    predict = serve.replace("serve", "predict").replace("-p 5001", "-i body.json -o predicted.json -t json")
    run(predict, checkout)
    predicted = json.loads((checkout / "predicted.json").read_text())["predictions"]
    assert [row["caption"] for row in predicted] == [*(captions[name] for name in NEW), ""]
    assert "cannot be decoded" in predicted[-1]["problem"]

    port = _free_port()
    with served(serve.replace("5001", str(port)), checkout, port) as url:
        assert [row["caption"] for row in _post(url, body)] == [*(captions[name] for name in NEW), ""]
        sampled = [
            [row["caption"] for row in _post(url, {**body, "params": {"temperature": 2.0, "seed": seed}})]
            for seed in (1, 1, 2)
        ]
        assert sampled[0] == sampled[1] != sampled[2]
