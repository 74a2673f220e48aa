from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs._cli import REQUIRED_ENVIRONMENT, config_from, job_parser
from jobs.submit import environment_from, submittable
from pipeline.evaluation.provenance import SUBMITTED, Commit, git_commit
from pipeline.runtime.submit import JobServer, _Followed

ROOT = Path(__file__).resolve().parents[3]
LINE = ["--storage", "/shared", "meta_train", "--preset", "smoke"]


def submit(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "jobs.submit", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout, done.stderr


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "a=b")
    assert environment_from(["HERE", "X=1=2", "EMPTY="]) == {"HERE": "a=b", "X": "1=2", "EMPTY": ""}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("HF_TOKEN=hf_abc", "--env HF_TOKEN: this looks like a secret"),
        ("AWS_SECRET_ACCESS_KEY", "say --secret AWS_SECRET_ACCESS_KEY"),
        ("NOT_SET_ANYWHERE", "--env NOT_SET_ANYWHERE: not set in this environment"),
        ("a b=1", "--env: expected KEY or KEY=VALUE, got 'a b'"),
    ],
)
def test_environment_that_is_refused(entry: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        environment_from([entry])
    assert "hf_abc" not in str(raised.value)


def test_a_secret_that_the_node_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    args = job_parser("x").parse_args(["--preset", "smoke"])
    monkeypatch.setenv(REQUIRED_ENVIRONMENT, "THERE,MISSING")
    monkeypatch.setenv("THERE", "x")
    with pytest.raises(ValueError, match="--secret MISSING: not set on the node"):
        config_from(args)
    monkeypatch.setenv("MISSING", "y")
    assert config_from(args).name


def test_commit_of_a_submitted_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUBMITTED, "abc+dirty")
    assert git_commit(tmp_path) == Commit("abc", dirty=True)


def test_jobs_that_can_be_submitted() -> None:
    names = submittable()
    assert "meta_train" in names
    assert not {"submit", "ui", "_cli"} & set(names)


def test_a_broken_connection_repeats_nothing() -> None:
    said: list[str] = []
    log = _Followed(said.append)
    for connection in (["ab", "cd"], ["a"], ["abcd", "ef"], ["abc", "defgh"]):
        log.rewind()
        for text in connection:
            log.take(text)
    assert "".join(said) == "abcdefgh"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "error: no job 'nothing': choose one of "),
        (["--address", "127.0.0.1:8265", *LINE], "error: --address: expected http://HOST:PORT"),
        (["--max-mib", "1", *LINE], "error: the working directory is too large: "),
        (["meta_train", "--preset", "smoke"], "error: --storage: needed is the absolute path"),
        (["--secret", "HF_TOKEN=hf_abc", *LINE], "error: --secret: expected the name of a variable, got 'HF_TOKEN'"),
        (["logs"], "error: logs: expected one job id, got 0"),
    ],
)
def test_one_line_before_anything_starts(arguments: list[str], message: str) -> None:
    code, out, err = submit(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(message)
    assert "hf_abc" not in err


@pytest.mark.slow
def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"no Ray cluster answers at {address}: give --address"):
            JobServer(address)
