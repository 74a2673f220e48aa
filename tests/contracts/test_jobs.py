"""Every job takes the common arguments and refuses a wrong one in the same way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if not path.stem.startswith("_"))
HELP = ["--help"]
WRONG_KEY = ["--preset", "smoke", "--set", "nonsense=1"]
REQUIRED = {
    "submit": ["meta_train"],
    "import_reference_checkpoint": ["model.pt", "--out", "folder"],
    "caption": ["--adapter", "folder", "--input", "file.png", "--out", "captions.jsonl"],
    "register_model": ["--adapter", "folder", "--model", "name"],
    "tune": ["--space", "tune_spaces/quick.yaml"],
}

# One process for all of them: each would otherwise spend its time importing torch and Ray.
RUN_ALL = """
import contextlib, io, json, runpy, sys
jobs, command_lines, required = json.loads(sys.argv[1])
results = {}
for job in jobs:
    for arguments in command_lines:
        sys.argv = [job, *arguments, *required.get(job, [])]
        sys.modules.pop(f"jobs.{job}", None)  # `demo` imports the others; each is to start afresh
        code, out, err = None, io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_module(f"jobs.{job}", run_name="__main__")
            except SystemExit as stop:
                code = stop.code
            except Exception as error:
                code = repr(error)
        results[f"{job} {arguments[0]}"] = code, out.getvalue(), err.getvalue()
print(json.dumps(results))
"""

Results = dict[str, tuple[int | str, str, str]]


@pytest.fixture(scope="module")
def results() -> Results:
    request = json.dumps([JOBS, [HELP, WRONG_KEY], REQUIRED])
    command = [sys.executable, "-c", RUN_ALL, request]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    found: Results = json.loads(finished.stdout)
    return found


@pytest.mark.parametrize("job", JOBS)
def test_unknown_key_is_one_line_and_exit_code_2(job: str, results: Results) -> None:
    code, out, err = results[f"{job} --preset"]
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown key 'nonsense' at the top level: valid keys: name, seed, ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("job", JOBS)
def test_help_says_what_it_does(job: str, results: Results) -> None:
    code, out, err = results[f"{job} --help"]
    assert (code, err) == (0, "")
    assert "--set A.B=VALUE" in out
    assert len(out.partition("\n\n")[2].partition("\n")[0]) > 20


def test_the_exit_code_leaves_the_process() -> None:
    command = [sys.executable, "-m", "jobs.ui", *WRONG_KEY]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
