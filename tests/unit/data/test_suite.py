from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.config.schema import MiniatureConfig
from pipeline.data.decoders import decode
from pipeline.data.miniature import suite
from pipeline.data.miniature.grammar import GRAMMARS
from pipeline.data.miniature.modalities import MODALITIES, sample_count, source_for, splits
from pipeline.data.miniature.suite import generate_suite
from pipeline.data.sample import Sample
from pipeline.data.sources import open_source

SHAPES = {
    "image": (32, 32, 3),
    "audio": (4000,),
    "video": (8, 32, 32, 3),
    "speech": (4000,),
    "satellite": (24, 24, 6),
    "astronomy": (32, 32, 3),
    "imu": (128, 6),
    "digits": (8, 8, 1),
}
TINY = MiniatureConfig(data_dir="d", train_modality_samples=12, held_out_samples=12, text_samples_per_domain=1)
QUICK = ("imu", "molecule", "text", "satellite")


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", list(MODALITIES))
def test_files_are_read_by_the_same_sources_and_decoders_as_users_data(
    suite_root: Path, suite_config: MiniatureConfig, name: str
) -> None:
    modality = MODALITIES[name]
    source = open_source(source_for(name, "suite"), suite_root)
    rows = list(source.read(0, len(source)))
    assert len(rows) == sample_count(name, suite_config)
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert isinstance(row, Sample), row
        signal = decode(modality.kind, row.payload)
        if signal.array is not None:
            assert signal.array.shape == SHAPES[name]
        grammar = GRAMMARS[row.attributes["domain"] if name == "text" else name]
        assert len(row.captions) == (1 if modality.format == "csv" or name == "text" else 2)
        for caption in row.captions:
            told = grammar.parse(caption)
            assert set(told) == set(grammar.attribute_names)
            if name != "text":
                assert told == row.attributes


def test_bytes_do_not_depend_on_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "_CHUNK", 5)
    counts = generate_suite(TINY, tmp_path / "one", processes=1, modalities=QUICK)
    assert counts == {"imu": 12, "molecule": 12, "text": 9, "satellite": 12}
    assert generate_suite(TINY, tmp_path / "two", processes=2, modalities=QUICK) == counts
    monkeypatch.setattr(suite, "_CHUNK", 256)
    generate_suite(TINY, tmp_path / "whole", processes=1, modalities=QUICK)
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two") == _contents(tmp_path / "whole")


def test_samples_depend_on_seed_and_index_only() -> None:
    for modality in MODALITIES.values():
        assert modality.make(3, 5) == modality.make(3, 5)
        if modality.name != "digits":
            assert modality.make(3, 5) != modality.make(4, 5)
        assert modality.make(3, 5) != modality.make(3, 6)


def test_complete_modalities_are_kept_and_others_made(tmp_path: Path) -> None:
    generate_suite(TINY, tmp_path, processes=1, modalities=["imu"])
    table = tmp_path / "d" / "imu" / "metadata.jsonl"
    before = table.stat().st_mtime_ns
    seen: list[tuple[str, int, int]] = []
    generate_suite(TINY, tmp_path, processes=1, modalities=["imu", "text"], on_progress=lambda *step: seen.append(step))
    assert table.stat().st_mtime_ns == before
    assert seen == [("imu", 12, 12), ("text", 9, 9)]
    for changed in (
        MiniatureConfig(data_dir="d", held_out_samples=13),
        MiniatureConfig(data_dir="d", held_out_samples=13, seed=1),
    ):
        content = table.read_bytes()
        generate_suite(changed, tmp_path, processes=1, modalities=["imu"])
        assert table.read_bytes() != content
        assert len(list((tmp_path / "d" / "imu" / "files").iterdir())) == 13


def test_an_interrupted_run_leaves_nothing_that_looks_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, kind: str, rows: list[dict[str, object]]) -> None:
        path.write_text("half a table")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(suite, "_write_table", broken)
        generate_suite(TINY, tmp_path, processes=1, modalities=["imu"])
    assert not (tmp_path / "d" / "imu").exists()
    generate_suite(TINY, tmp_path, processes=1, modalities=["imu"])
    assert len(open_source(source_for("imu", "d"), tmp_path)) == 12
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == [".lock", "imu"]


def test_split_sizes_at_full_size() -> None:
    config = MiniatureConfig()
    expected = {"train": (2500, 100, 400), "held_out": (2100, 100, 400)}
    for name, modality in MODALITIES.items():
        count = sample_count(name, config)
        sizes = Counter(splits(name, count, config.seed))
        got = (sizes["train"], sizes["validation"], sizes["test"])
        if name == "digits":
            assert got == (1300, 97, 400)
        elif name == "text":
            assert got == (17500, 100, 400)
        else:
            assert got == expected[modality.role]


def test_splits_are_seeded_and_differ_between_modalities() -> None:
    first = splits("imu", 100, 0)
    assert splits("imu", 100, 0) == first
    assert splits("imu", 100, 1) != first
    assert splits("molecule", 100, 0) != first


def test_drawn_values_cover_every_phrase(suite_root: Path) -> None:
    source = open_source(source_for("imu", "suite"), suite_root)
    rows = [row for row in source.read(0, len(source)) if isinstance(row, Sample)]
    for attribute in GRAMMARS["imu"].attributes:
        assert len({row.attributes[attribute.name] for row in rows}) >= len(attribute.values) // 2


def test_wrong_names_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"modalities: expected some of .*, got \['smell'\]"):
        generate_suite(TINY, tmp_path, processes=1, modalities=["imu", "smell"])
    with pytest.raises(ValueError, match=r"modality: expected one of .*, got 'smell'"):
        source_for("smell", "d")
    (tmp_path / "d").write_text("a file where the folder should be")
    with pytest.raises(
        ValueError, match=r"miniature\.data_dir: .* cannot be written .* --set miniature\.data_dir=PATH"
    ):
        generate_suite(TINY, tmp_path, processes=1, modalities=["imu"])


def test_text_is_not_the_captions_of_the_samples(suite_root: Path) -> None:
    """Unpaired text has its own draws: it must not leak the captions of the test split."""
    sentences = open_source(source_for("text", "suite"), suite_root).read(0, 18)
    text = {row.payload for row in sentences if isinstance(row, Sample)}
    captions = {
        caption
        for name in ("image", "imu", "satellite")
        for row in open_source(source_for(name, "suite"), suite_root).read(0, 24)
        if isinstance(row, Sample)
        for caption in row.captions
    }
    assert len(text) == 18
    assert not np.isin(list(text), list(captions)).any()


_CLIPS = """
import hashlib
from pipeline.data.miniature.modalities import MODALITIES

clips = b"".join(MODALITIES["video"].make(977, index).payload for index in range(40))
print(hashlib.sha256(clips).hexdigest())
"""


def test_clips_are_the_same_bytes_in_every_process(root: Path) -> None:
    """Uninitialised memory differs between processes, hence three of them."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    runs = [
        subprocess.run([sys.executable, "-c", _CLIPS], env=environment, capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert len({run.stdout for run in runs}) == 1


_GENERATE = """
import signal
import sys
from pathlib import Path
from pipeline.config.schema import MiniatureConfig
from pipeline.data.miniature.suite import generate_suite

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as in every job
    config = MiniatureConfig(data_dir="d", train_modality_samples=20_000, held_out_samples=300)
    generate_suite(config, Path(sys.argv[1]), processes=2, on_progress=lambda *_: print("ready", flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_a_killed_generation(tmp_path: Path, number: int, root: Path) -> None:
    script = tmp_path / "generate.py"
    script.write_text(_GENERATE)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as job:
        assert job.stdout is not None
        job.stdout.readline()
        below = psutil.Process(job.pid).children(recursive=True)
        assert len(below) >= 2
        job.send_signal(number)
        job.wait(timeout=60)
    _, alive = psutil.wait_procs(below, timeout=60)
    assert alive == []
