"""Own data to an adapter: what is read, what counts once, what is found again, and what is refused."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from jobs._own_data import add_own_data, own_data, with_options
from pipeline.adaptation.artifact import load_card
from pipeline.adaptation.service import CaptionService
from pipeline.config.schema import AdapterMethod, ExperimentConfig, LLMConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.runtime.own_data import Integrated, check_request, extract_own, integrate_own
from pipeline.training.stages import new_projector, new_semi
from tests.tiny_lm import save_tiny_lm
from tests.tiny_project import note_rows, save_models, tiny_config, write_tiles

TILES = 12


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    save_models(root)
    save_tiny_lm(root / "models" / "lm")
    write_tiles(root, TILES)
    config = configuration(root)
    torch.manual_seed(0)
    llm = FrozenLLM(config.llm, root)
    state = new_semi(config, new_projector(config, llm)).state_dict()
    (root / "run" / "meta_train").mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in state.items()}, root / "run/meta_train/weights.safetensors")
    projector = new_projector(config, llm).state_dict()
    (root / "run" / "pretrain_projector").mkdir()
    save_file(projector, root / "run" / "pretrain_projector" / "weights.safetensors")
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """Tiles in files, models, and a run whose meta-trained weights are random."""
    return Path(shutil.copytree(template, tmp_path / "project"))


def configuration(root: Path) -> ExperimentConfig:
    config = tiny_config(root, notes=note_rows(8), rows_per_shard=64)
    return replace(
        config,
        llm=LLMConfig(path="models/lm", max_caption_tokens=8),
        projector=replace(config.projector, input_width=16),
    )


def integrate(root: Path, *options: str) -> Integrated:
    parser = argparse.ArgumentParser()
    add_own_data(parser)
    args = parser.parse_args(options)
    config = with_options(configuration(root), args)
    own = own_data(args, config, root)
    check_request(config, own, root / "run")
    extract_own(config, own, root, root / "run", advance=lambda _: None, verbose=False)
    return integrate_own(config, own, root, root / "run")


def of_tiles(*options: str) -> list[str]:
    return ["--data", "tiles.csv", "--kind", "image", "--encoder", "models/image-a", "--modality", "marks", *options]


def rewrite(root: Path, change: str) -> None:
    """The tiles with something done to them."""
    with (root / "tiles.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows):
        if change == "one caption":
            row["caption"] = "a square"
        elif change == "another script":
            row["caption"] = f"квадрат {number % 2}"
        elif change == "one picture":
            row["file"] = "files/0.png"
        elif change == "repeated" and number >= 4:
            row.update({"file": rows[number % 4]["file"], "caption": rows[number % 4]["caption"]})
        elif change == "files gone":
            row["file"] = "files/gone.png" if number % 2 else row["file"]
        elif change == "with test rows":
            row["split"] = "test" if number < 4 else "train"
    with (root / "tiles.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def test_a_table_becomes_an_adapter_that_is_found_again(root: Path) -> None:
    options = of_tiles("--shots", "6", "--finetune-steps", "1", "--license", "CC0-1.0", "--out", str(root / "adapter"))
    first, second = integrate(root, *options), integrate(root, *options)
    assert (first.shots, first.pairs, first.repeated, first.rejected) == (6, TILES, 0, 0)
    assert (first.made, second.made) == (True, False)
    card = load_card(first.directory)
    assert (card.modality, card.shots, card.finetune_steps, card.license) == ("marks", 6, 1, "CC0-1.0")
    assert (card.encoder.path, card.llm.path, card.scores) == ("models/image-a", "models/lm", {})
    service = CaptionService.load({"marks": first.directory}, root=root)
    assert len(service.caption("marks", [root / "files" / "0.png"])) == 1
    other = integrate(root, *options[:-2], "--draw", "1")
    assert load_card(other.directory).support_ids != card.support_ids
    assert other.directory == root / "run" / "integrate" / "marks" / "image-a" / "shots-6" / "draw-1"


def test_all_pairs_are_read_unless_told_otherwise_and_test_rows_give_scores(root: Path) -> None:
    rewrite(root, "with test rows")
    card = load_card(integrate(root, *of_tiles("--finetune-steps", "0")).directory)
    assert (card.shots, card.finetune_steps, card.scores["test_rows"]) == (TILES - 4, 0, 4.0)
    assert not {f"tile-{number}" for number in range(4)} & set(card.support_ids)


@pytest.mark.parametrize("method", get_args(AdapterMethod))
def test_other_methods_make_adapters_too(method: AdapterMethod, root: Path) -> None:
    options = of_tiles("--shots", "6", "--finetune-steps", "2", "--method", method)
    first, second = integrate(root, *options), integrate(root, *options)
    card = load_card(first.directory)
    assert (first.made, second.made, card.method, card.finetune_steps) == (True, False, method, 2)
    assert first.directory.name == ("draw-0" if method == "semi" else f"draw-0-{method}")
    if method != "semi":
        assert (card.hypernet, card.rank) == ("none", 0)
        assert integrate(root, *options[:-4], "--finetune-steps", "1", "--method", method).made, "another budget"
    service = CaptionService.load({"marks": first.directory}, root=root)
    assert len(service.caption("marks", [root / "files" / "0.png"])) == 1


def test_finished_shards_make_the_same_adapter(root: Path) -> None:
    raw = integrate(root, *of_tiles("--finetune-steps", "0"))
    shards = str(root / "run" / "embeddings" / "marks" / "image-a")
    done = integrate(root, "--data", shards, "--finetune-steps", "0", "--out", str(root / "other"))
    weights = [(folder / "adapter.safetensors").read_bytes() for folder in (raw.directory, done.directory)]
    assert weights[0] == weights[1]
    assert load_card(done.directory).encoder_fingerprint == load_card(raw.directory).encoder_fingerprint


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_ready_vectors_need_no_encoder(suffix: str, root: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"id": f"v{number}", "embedding": rng.normal(size=7).tolist(), "caption": f"a circle on the {side}"}
        for number, side in enumerate(["left", "right"] * 4)
    ]
    rows[5]["embedding"] = [1.0]
    table = root / f"vectors{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    else:
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = integrate(root, "--data", table.name, "--kind", "vector", "--finetune-steps", "0")
    assert (made.shots, made.pairs, made.rejected) == (7, 7, 1)
    service = CaptionService.load({"v": made.directory}, root=root)
    assert service.caption("v", [rows[0]["embedding"]]) == service.caption("v", np.array([rows[0]["embedding"]]))


def test_equal_pairs_count_once(root: Path) -> None:
    rewrite(root, "repeated")
    made = integrate(root, *of_tiles("--finetune-steps", "0"))
    assert (made.pairs, made.repeated) == (4, TILES - 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("one caption", "'marks': all 12 pairs of the support have the caption 'a square': nothing can be told apart"),
        ("another script", "12 of 12 captions, such as 'квадрат [01]', hold no word that the tokenizer"),
        ("one picture", "encoder 'image-a' gives all 2 pairs of the support the same embedding"),
        ("files gone", "6 of 12 rows were rejected .*more than extract.max_rejected_fraction"),
    ],
)
def test_data_that_cannot_teach_anything_are_refused(change: str, message: str, root: Path) -> None:
    rewrite(root, change)
    arguments = configuration(root).extract
    assert arguments.max_rejected_fraction == 0.5
    if change == "files gone":
        (root / "files" / "0.png").unlink()
        message = message.replace("6 of", "7 of")
    with pytest.raises(ValueError, match=message):
        integrate(root, *of_tiles("--finetune-steps", "0"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (of_tiles("--shots", "13"), "--shots 13: 'marks' has 12 different pairs .*give at most 12"),
        (of_tiles("--shots", "0"), "--shots 0: "),
        (of_tiles("--draw", "-1"), "--draw must be 0 or more, got -1"),
        (of_tiles("--modality", "notes"), "--modality 'notes' is a dataset of the run's configuration"),
        (of_tiles("--kind", "pictures"), "--kind is 'pictures': say what the signals are, one of image, audio"),
        (of_tiles("--kind", "vector"), "--encoder 'models/image-a': ready vectors need none"),
        (of_tiles("--data", "gone"), "--data gone: no such file or folder"),
        (of_tiles("--data", "gone.csv"), "gone.csv does not exist"),
        (of_tiles("--encoder", "models/gone"), "model path 'models/gone': no folder"),
        (of_tiles("--payload-field", "picture"), "has no column 'picture'"),
        (of_tiles("--modality", "my tiles"), "--data: name"),
        (["--data", "tiles.csv"], "--kind is missing"),
        (of_tiles("--method", "cca_init", "--chunk", "8"), "--chunk: only --method semi reads pairs in chunks"),
        (of_tiles("--method", "scratch", "--finetune-steps", "0"), "a projector from scratch is nothing without steps"),
        (["--data", "tiles.csv", "--kind", "image"], "--encoder is missing: name the model that embeds"),
    ],
)
def test_options_that_cannot_work_are_refused(options: list[str], message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        integrate(root, *options)


def test_a_run_without_a_meta_trained_model_is_refused(root: Path) -> None:
    (root / "run" / "meta_train" / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no meta-trained model .*make one with `make demo`"):
        integrate(root, *of_tiles())


def test_a_method_that_starts_at_the_pre_trained_projector_needs_it(root: Path) -> None:
    (root / "run" / "pretrain_projector" / "weights.safetensors").unlink()
    assert integrate(root, *of_tiles("--finetune-steps", "0")).made
    with pytest.raises(ValueError, match=r"holds no pre-trained projector \(pretrain_projector/weights.safetensors is"):
        integrate(root, *of_tiles("--method", "ridge_init"))


def test_shards_of_another_text_encoder_are_refused(root: Path) -> None:
    integrate(root, *of_tiles("--finetune-steps", "0"))
    shards = root / "run" / "embeddings" / "marks" / "image-a"
    (root / "models" / "text-a" / "config.json").open("a").write(" ")
    with pytest.raises(ValueError, match="its captions were embedded by 'models/text-a'.*extract it with the run's"):
        integrate(root, "--data", str(shards))
