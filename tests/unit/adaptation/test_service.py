"""Captions of files, texts and embeddings by finished adapters, and adapters that do not fit what they meet."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.adaptation.artifact import AdapterCard, SignalCard, load_adapter, save_adapter
from pipeline.adaptation.captioner import ProjectorCaptioner
from pipeline.adaptation.generation import Generation
from pipeline.adaptation.service import CaptionService
from pipeline.config.schema import LLMConfig
from pipeline.data.decoders import decode
from pipeline.encoders.registry import encoder_fingerprint, load_encoder
from pipeline.models.frozen_llm import llm_fingerprint
from pipeline.models.projector import Projector
from pipeline.shards.extraction import extract_locally
from pipeline.shards.reader import EmbeddingDataset
from tests.tiny_lm import save_tiny_lm
from tests.tiny_project import encoder, note_rows, save_models, tiny_config

WIDTH = 12


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles in files, an image encoder, an LLM, and the adapter `tiles` of random weights."""
    root = tmp_path_factory.mktemp("project")
    save_models(root)
    save_tiny_lm(root / "models" / "lm")
    llm = LLMConfig(path="models/lm", max_caption_tokens=8)
    tiny_config(root, notes=note_rows(4), tiles=12)
    projector = sensitive_projector(root)
    card = AdapterCard(
        method="semi",
        hypernet="equivariant",
        rank=4,
        modality="tiles",
        signals=SignalCard(kind="image"),
        encoder=encoder("image-a"),
        encoder_fingerprint=encoder_fingerprint(encoder("image-a"), "image", root),
        llm=llm,
        llm_fingerprint=llm_fingerprint(llm, root),
        input_width=WIDTH,
        hidden_width=8,
        llm_width=16,
        soft_tokens=2,
        finetune_steps=0,
        seconds=0.1,
        support_ids=("a", "b"),
        seed=0,
        draw=0,
        config_fingerprint="f",
    )
    save_adapter(root / "adapters" / "tiles", projector, card)
    return root


@torch.no_grad()
def sensitive_projector(root: Path) -> Projector:
    """Random weights that turn the small differences between the tiles' embeddings into large ones."""
    tiles = [decode("image", (root / "files" / f"{index}.png").read_bytes()) for index in range(12)]
    embeddings = torch.from_numpy(load_encoder(encoder("image-a"), "image", root).encode(tiles))
    normalised = torch.nn.functional.normalize(embeddings, dim=-1)
    torch.manual_seed(0)
    projector = Projector(WIDTH, 16, hidden_width=8, soft_tokens=2, dropout=0.0)
    first, second = projector.linear_layers
    torch.nn.init.normal_(first.weight, std=3.0 / float(normalised.std(dim=0).mean()))
    first.bias.copy_(-first.weight @ normalised.mean(dim=0))
    torch.nn.init.normal_(second.weight, std=1.0)
    return projector


def with_card(project: Path, folder: Path, **changes: object) -> Path:
    projector, card = load_adapter(project / "adapters" / "tiles")
    save_adapter(folder, projector, replace(card, **changes))  # type: ignore[arg-type]
    return folder


@pytest.fixture
def service(project: Path) -> CaptionService:
    return CaptionService.load({"tiles": project / "adapters" / "tiles"}, root=project)


@pytest.fixture
def files(project: Path) -> list[Path]:
    return [project / "files" / f"{index}.png" for index in range(12)]


def test_files_get_the_captions_of_their_extracted_embeddings(
    service: CaptionService, files: list[Path], project: Path, tmp_path: Path
) -> None:
    config = tiny_config(project, notes=note_rows(4), tiles=12)
    extract_locally(config, project, tmp_path, on_progress=lambda *_: None)
    dataset = EmbeddingDataset(tmp_path / "tiles" / "image-a")
    projector, _ = load_adapter(project / "adapters" / "tiles")
    captioner = ProjectorCaptioner(projector=projector, llm=service.llm, trained_parameters=0)
    embeddings = dataset.embeddings(np.arange(12))
    expected = captioner.caption(embeddings)
    assert len(set(expected)) > 1, "captions that never differ would prove nothing"
    assert service.caption("tiles", files) == expected
    assert service.caption("tiles", [str(file) for file in files]) == expected
    assert service.caption("tiles", [file.read_bytes() for file in files]) == expected
    assert service.caption("tiles", embeddings.numpy()) == expected
    assert [one.caption for one in service.try_caption("tiles", files, batch_size=5)] == expected


def test_bad_inputs_give_reasons_and_leave_the_others_alone(
    service: CaptionService, files: list[Path], project: Path
) -> None:
    inputs = [files[0], project / "gone.png", b"no image", files[1]]
    first, gone, broken, last = service.try_caption("tiles", inputs)
    assert [first.caption, last.caption] == service.caption("tiles", files[:2])
    assert first.problem is None and gone.caption is None and broken.caption is None
    assert gone.problem == "cannot be read: No such file or directory"
    assert broken.problem is not None and broken.problem.startswith("image cannot be decoded")
    with pytest.raises(ValueError, match=r"input 1 \(.*gone.png\): cannot be read"):
        service.caption("tiles", inputs)
    with pytest.raises(ValueError, match="no adapter 'retina'; there are tiles"):
        service.caption("retina", files)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones(WIDTH), r"must be a matrix \[n, 12\], got shape \(12,\)"),
        (np.ones((2, WIDTH + 1)), "reads embeddings of width 12 .*got width 13"),
        (np.zeros((2, WIDTH)), "none of them zero"),
        (np.full((2, WIDTH), np.nan), "must be finite"),
    ],
)
def test_embeddings_are_checked(vectors: np.ndarray, message: str, service: CaptionService) -> None:
    with pytest.raises(ValueError, match=message):
        service.caption("tiles", vectors)


def test_sampling_follows_the_seed_and_disturbs_nothing(service: CaptionService, files: list[Path]) -> None:
    greedy = service.caption("tiles", files)
    state = torch.get_rng_state()
    sampled = [service.caption("tiles", files, Generation(temperature=3.0, seed=seed)) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert greedy not in sampled
    assert torch.equal(torch.get_rng_state(), state)
    assert all(len(text.split()) <= 2 for text in service.caption("tiles", files, Generation(max_tokens=2)))
    assert service.caption("tiles", files, Generation(num_beams=3)) != greedy


def test_options_that_make_no_sense_are_refused() -> None:
    for options, message in [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"num_beams": 0}, "num_beams must be 1 or more, got 0"),
        ({"max_tokens": -1}, "max_tokens must be 1 or more, got -1"),
        ({"other": {"do_sample": True}}, "do_sample is set by the program"),
    ]:
        with pytest.raises(ValueError, match=message):
            Generation(**options)  # type: ignore[arg-type]


def test_adapters_share_the_llm_with_all_its_settings(project: Path, tmp_path: Path, files: list[Path]) -> None:
    same = with_card(project, tmp_path / "same", modality="others")
    both = CaptionService.load({"one": project / "adapters" / "tiles", "two": same}, root=project)
    assert both.names == ["one", "two"]
    assert both.caption("one", files) == both.caption("two", files)
    other = with_card(project, tmp_path / "other", llm=LLMConfig(path="models/lm", prompt="a {soft} :"))
    with pytest.raises(ValueError, match="adapter 'two' speaks to 'models/lm' with prompt 'a {soft} :'"):
        CaptionService.load({"one": same, "two": other}, root=project)


def test_an_llm_or_encoder_that_does_not_fit_is_refused(project: Path, tmp_path: Path, files: list[Path]) -> None:
    changed = with_card(project, tmp_path / "llm", llm_fingerprint="feed")
    with pytest.raises(ValueError, match=r"LLM 'models/lm' has other files .*\(feed\): restore it"):
        CaptionService.load({"tiles": changed}, root=project)
    changed = with_card(project, tmp_path / "encoder", encoder_fingerprint="feed")
    with pytest.raises(ValueError, match="encoder 'models/image-a' is not the one .*the card says feed"):
        CaptionService.load({"tiles": changed}, root=project).caption("tiles", files)
    moved = with_card(project, tmp_path / "moved", encoder=encoder("gone"))
    with pytest.raises(ValueError, match="model path 'models/gone': no folder"):
        CaptionService.load({"tiles": moved}, root=project).caption("tiles", files)


def test_damaged_weights_are_an_error_of_one_line(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(project / "adapters" / "tiles", folder)
    card = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps(card | {"hidden_width": 9}))
    with pytest.raises(ValueError, match="adapter.safetensors does not hold what its card says") as wrong:
        load_adapter(folder)
    assert "\n" not in str(wrong.value)
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(ValueError, match="does not hold what its card says"):
        load_adapter(folder)
