"""What the pages in docs/ show is accepted by the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from pipeline.config.load import load_config, to_tree
from pipeline.config.schema import EncoderConfig, EvaluateConfig, MethodName, SourceConfig
from pipeline.config.source import SourceKind
from pipeline.config.space import load_space
from pipeline.config.variants import all_variants, resolve_factors
from pipeline.encoders.project_class import is_class_path
from pipeline.encoders.registry import check_settings, load_encoder
from pipeline.signal import Signal

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
ENCODERS = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
SOURCES = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_jobs_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    jobs = sorted(set(re.findall(r"\bjobs\.([a-z_]+)", text)))
    assert [job for job in jobs if importlib.util.find_spec(f"jobs.{job}") is None] == []
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("block", blocks(ENCODERS, "yaml"))
def test_every_encoder_shown_is_a_valid_configuration(block: str) -> None:
    shown: dict[str, Any] = yaml.safe_load(block)
    assert shown["encoders"]
    for entry in shown["encoders"]:
        check_settings(TypeAdapter(EncoderConfig).validate_python(entry), shown["kind"])


def loaded(dataset: dict[str, Any], folder: Path) -> Any:
    """The dataset in a configuration file, as the loader reads it."""
    base = to_tree(load_config(preset="miniature"))["datasets"][0]
    (folder / "run.yaml").write_text(yaml.safe_dump({"preset": "miniature", "datasets": [base | dataset]}))
    return load_config(file=folder / "run.yaml").datasets[0]


@pytest.mark.parametrize("block", blocks(SOURCES, "yaml"))
def test_every_source_shown_is_loaded(block: str, tmp_path: Path) -> None:
    shown: dict[str, Any] = yaml.safe_load(block)
    kind = "vector" if shown["kind"] == "embeddings" else "image"
    assert loaded({"kind": kind, "source": shown}, tmp_path).source == TypeAdapter(SourceConfig).validate_python(shown)


def test_the_dataset_of_ready_embeddings_shown_is_loaded(tmp_path: Path) -> None:
    (block,) = blocks(SOURCES, "yaml dataset")
    dataset = loaded(yaml.safe_load(block), tmp_path)
    check_settings(dataset.encoders[0], dataset.kind)
    assert (dataset.encoders[0].width, dataset.source.kind) == (768, "embeddings")


def test_every_kind_of_source_is_shown() -> None:
    shown = {yaml.safe_load(block)["kind"] for block in blocks(SOURCES, "yaml")}
    assert shown == set(get_args(SourceKind))


def test_the_class_shown_encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(ENCODERS, "python")
    (tmp_path / "my_encoders.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    config = EncoderConfig(name="spectrum", path="my_encoders:Spectrum", width=64)
    assert is_class_path(config.path)
    encoder = load_encoder(config, "series", tmp_path)
    wave = np.sin(np.arange(200, dtype=np.float32) * 2 * np.pi * 10 / 128)[:, None].repeat(6, axis=1)
    (vector,) = encoder.encode([Signal(kind="series", array=wave, rate_hz=50.0)])
    assert vector.shape == (64,) and int(vector.argmax()) == 9


METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
METHOD_ROWS = re.findall(r"^\| (`[a-z_0-9`, ]+`) \|.*\|([^|]*)\|$", METHODS, flags=re.MULTILINE)


def test_the_page_of_methods_names_each_once_and_settings_that_exist() -> None:
    named = [name for names, _ in METHOD_ROWS for name in re.findall(r"`(\w+)`", names)]
    assert sorted(named) == sorted(get_args(MethodName))
    settings = {name for _, cell in METHOD_ROWS for name in re.findall(r"`(\w+)`", cell)} - {"semi"}
    assert settings <= set(EvaluateConfig.__dataclass_fields__)


@pytest.mark.parametrize("block", blocks((ROOT / "docs" / "tuning.md").read_text(encoding="utf-8"), "yaml"))
def test_every_search_space_shown_is_valid(block: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(block)
    assert load_space(tmp_path / "space.yaml", load_config(preset="miniature")).trials() == 20


@pytest.mark.parametrize("block", blocks((ROOT / "docs" / "ablations.md").read_text(encoding="utf-8"), "yaml"))
def test_every_list_of_ablations_shown_is_valid(block: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(block)
    variants = all_variants(resolve_factors(load_config(file=tmp_path / "mine.yaml")))
    assert [variant.key for variant in variants][:3] == ["base", "queries/8", "queries/64"]
    assert len(variants) == 5
