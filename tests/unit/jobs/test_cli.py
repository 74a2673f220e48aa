from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from jobs import _cli
from pipeline.config.load import load_config


def run(code: str, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True)


A_JOB = """
from jobs._cli import config_from, job_parser, run_job

def main():
    config = config_from(job_parser("A job.\\n\\nMore about it.").parse_args())
    print(config.name, config.seed)

run_job(main)
"""


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ([], "demo 0"),
        (["--preset", "smoke", "--set", "seed=3", "--set", "seed=4"], "smoke 4"),
        (["--preset", "smoke", "--name", "12"], "12 0"),
    ],
)
def test_a_job_gets_its_configuration(arguments: list[str], output: str, root: Path) -> None:
    result = run(A_JOB, root, *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{output}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "hypernet.rnk=3"], "unknown key 'rnk' in hypernet: did you mean 'rank'? valid keys: kind, rank, "),
        (["--set", "meta.optim.steps=many"], "meta.optim.steps: expected a valid integer, got 'many' (str)"),
        (["--preset", "nano"], "preset: expected one of miniature, smoke, paper_llama1b, sample_efficiency, "),
        (["--config", "missing.yaml"], "missing.yaml cannot be read: "),
        (["--name", "../up"], "name: string should match pattern"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str, root: Path) -> None:
    result = run(A_JOB, root, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_verbose_shows_where_it_came_from(root: Path) -> None:
    result = run(A_JOB, root, "--verbose", "--preset", "nano")
    assert result.returncode == 2
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1].startswith("error: preset: ")


def test_another_directory_is_refused(root: Path, tmp_path: Path) -> None:
    result = run(f"import sys; sys.path.insert(0, {str(root)!r})\n{A_JOB}", tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: `pipeline` was imported from {root}, but the current directory is ")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("two\nlines"), 2, "error: two lines\n"),
        (FileNotFoundError(2, "No such file", "x"), 2, "error: [Errno 2] No such file: 'x'\n"),
        (ValueError(), 2, "error: ValueError\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_exit_codes(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        _cli.run_job(main)
    assert caught.value.code == code
    assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback() -> None:
    def main() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        _cli.run_job(main)


def test_the_preset_is_not_assumed_beside_a_file(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    file = tmp_path / "mine.yaml"
    file.write_text("preset: smoke\nseed: 9\n", encoding="utf-8")
    config = _cli.config_from(_cli.job_parser("A job").parse_args(["--config", str(file), "--verbose"]))
    assert config == load_config(preset="smoke", overrides=["seed=9"])


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], io.StringIO]:
    def make(terminal: bool) -> io.StringIO:
        output = io.StringIO()
        console = Console(file=output, force_terminal=terminal, width=120, highlight=False)
        monkeypatch.setattr(_cli, "console", console)
        return output

    return make


def test_progress_without_a_terminal_is_one_line(
    screen: Callable[[bool], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cli, "_INSTANT_S", 0.0)
    output = screen(False)
    with _cli.stage_progress("extract image", total=40, unit="samples") as advance:
        for _ in range(4):
            advance(10)
        advance(0, note="loss 1.25")
    assert output.getvalue().count("\n") == 1
    for part in ("extract image", " s  40 samples  ", "/s", "loss 1.25"):
        assert part in output.getvalue()


def test_progress_of_a_long_stage_is_told_without_a_terminal_too(
    screen: Callable[[bool], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 59.0, 60.0, 61.0, 119.0, 190.0, 200.0])
    monkeypatch.setattr(_cli, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    output = screen(False)
    with _cli.stage_progress("trials", total=5, unit="trials") as advance:
        for number in range(5):
            advance(note=f"score {number}")
    assert output.getvalue().splitlines() == [
        "trials                    60.0 s  2 of 5 trials  30 s each  0:01:30 left  score 1",
        "trials                   200.0 s  5 trials  40 s each  score 4",
    ]


def test_pace_leaves_out_what_was_done_before_and_the_start_up(
    screen: Callable[[bool], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 61.0, 71.0, 121.0, 131.0])
    monkeypatch.setattr(_cli, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    output = screen(False)
    with _cli.stage_progress("meta_train", total=60, unit="steps") as advance:
        advance(48, note="first", unpaced=True)
        advance(1)
        advance(5, note="sixth")
    assert output.getvalue().splitlines() == [
        "meta_train                61.0 s  48 of 60 steps  first",
        "meta_train               121.0 s  54 of 60 steps  10 s each  0:01:00 left  sixth",
        "meta_train               131.0 s  54 steps  12 s each  sixth",
    ]


@pytest.mark.parametrize(
    ("done", "seconds", "said"),
    [(42_197, 0.003, ""), (1_000, 136.1, "  7.3/s"), (8, 357.5, "  45 s each"), (30, 300.0, "  10 s each")],
)
def test_throughput_is_said_in_readable_units(done: int, seconds: float, said: str) -> None:
    assert _cli.throughput(done, seconds) == said


def test_progress_on_a_terminal_shows_a_bar_and_ends_in_the_same_line(screen: Callable[[bool], io.StringIO]) -> None:
    output = screen(True)
    with _cli.stage_progress("extract [image]", total=4, unit="samples") as advance:
        advance(2, note="[half]")
    shown = output.getvalue()
    assert "2/4" in shown
    assert "[half]" in shown
    assert "extract [image]" in shown.splitlines()[-1]
    assert "2 samples" in shown.splitlines()[-1]


def test_a_failed_stage_prints_no_closing_line(screen: Callable[[bool], io.StringIO]) -> None:
    output = screen(False)
    with pytest.raises(ValueError, match="broken"), _cli.stage_progress("extract", total=4):
        raise ValueError("broken")
    assert output.getvalue() == ""
