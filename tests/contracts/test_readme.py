"""What the README tells people to type exists and is accepted."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

from pipeline.config.load import load_config
from pipeline.config.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_first_screen_has_the_two_commands_and_the_results() -> None:
    lines = README.splitlines()
    assert any(line.startswith("make demo") for line in lines[:34])
    assert any(line.startswith("make test") for line in lines[:34])
    assert "<!-- results -->" in lines[:34]
    assert "<!-- /results -->" in lines


def test_every_make_command_exists() -> None:
    named = set(re.findall(r"(?:`|^|\s)make ([a-z]+)\b", README, flags=re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):.*## ", MAKEFILE, flags=re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_every_job_exists() -> None:
    named = set(re.findall(r"jobs\.([a-z_]+)", README))
    assert "demo" in named
    assert [job for job in sorted(named) if importlib.util.find_spec(f"jobs.{job}") is None] == []


def test_every_command_line_is_accepted() -> None:
    commands = re.findall(r"^\.venv/bin/python -m jobs\.\w+ (.+)$", README, flags=re.MULTILINE)
    assert commands
    for command in commands:
        words = iter(shlex.split(command))
        options = list(zip(words, words, strict=True))
        preset = next((value for option, value in options if option == "--preset"), "miniature")
        load_config(preset=preset, overrides=[value for option, value in options if option == "--set"])


def test_every_preset_is_described() -> None:
    assert re.findall(r"^\| `(\w+)` \|", README.partition("## Configuration")[2], flags=re.MULTILINE) == list(PRESETS)


def test_every_link_to_a_file_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert "LICENSE" in links
    assert [link for link in links if not (ROOT / link).exists()] == []
