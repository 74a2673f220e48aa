"""Every job takes the common arguments and refuses a wrong one in the same way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if not path.stem.startswith("_"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("job", JOBS)
def test_unknown_key_is_one_line_and_exit_code_2(job: str) -> None:
    result = run(f"jobs.{job}", "--preset", "smoke", "--set", "nonsense=1")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: unknown key 'nonsense' at the top level: valid keys: name, seed, ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("job", JOBS)
def test_help_says_what_it_does(job: str) -> None:
    result = run(f"jobs.{job}", "--help")
    assert result.returncode == 0, result.stderr
    assert "--set A.B=VALUE" in result.stdout
    assert len(result.stdout.partition("\n\n")[2].partition("\n")[0]) > 20
