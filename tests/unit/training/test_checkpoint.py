"""Checkpoints that are damaged give way to the one before; retention; what cannot be written leaves nothing behind."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.training.checkpoint import CheckpointStore


def _store(folder: Path, updates: int = 3, keep: int = 2) -> CheckpointStore:
    store = CheckpointStore(folder, fingerprint="f", keep=keep)
    for number in range(1, updates + 1):
        store.save(number, {"weight/x": torch.full((64,), float(number))})
    return store


def _truncate(checkpoint: Path) -> None:
    state = checkpoint / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-40])


def _flip_a_bit(checkpoint: Path) -> None:
    state = checkpoint / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-3] ^= 1
    state.write_bytes(content)


def _lose_the_state(checkpoint: Path) -> None:
    (checkpoint / "state.safetensors").unlink()


def _lose_the_position(checkpoint: Path) -> None:
    (checkpoint / "position.json").unlink()


def _cut_the_position(checkpoint: Path) -> None:
    (checkpoint / "position.json").write_text('{"format_version": 2, "upd')


def _empty_the_position(checkpoint: Path) -> None:
    (checkpoint / "position.json").write_text("[]")


def _lose_the_hash(checkpoint: Path) -> None:
    file = checkpoint / "position.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "state_sha256"}))


DAMAGES = (
    _truncate,
    _flip_a_bit,
    _lose_the_state,
    _lose_the_position,
    _cut_the_position,
    _empty_the_position,
    _lose_the_hash,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_gives_way_to_the_one_before(damage: Callable[[Path], None], tmp_path: Path) -> None:
    store, told = _store(tmp_path), list[str]()
    damage(store.path(3))
    assert store.newest(on_damaged=told.append) == 2
    (line,) = told
    assert line.startswith(f"checkpoint {store.path(3)} is damaged (") and "\n" not in line
    latest = store.latest()
    assert latest is not None and latest.updates == 2
    assert torch.equal(latest.state["weight/x"], torch.full((64,), 2.0))


def test_nothing_intact_is_nothing_at_all(tmp_path: Path) -> None:
    store, told = _store(tmp_path), list[str]()
    for number in (2, 3):
        _truncate(store.path(number))
    assert store.newest(on_damaged=told.append) is None
    assert [line.partition(" is damaged")[0] for line in told] == [f"checkpoint {store.path(n)}" for n in (3, 2)]


def test_another_configurations_checkpoint_is_not_read(tmp_path: Path) -> None:
    _truncate(_store(tmp_path).path(3))
    told: list[str] = []
    assert CheckpointStore(tmp_path, fingerprint="other").newest(on_damaged=told.append) is None
    assert told == []


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_retention(tmp_path: Path, keep: int) -> None:
    _store(tmp_path, updates=5, keep=keep)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step-{number:08d}" for number in range(6 - keep, 6)]


def test_full_disk_names_the_checkpoint_and_leaves_the_others(tmp_path: Path) -> None:
    store = _store(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # files may not grow further, as on a full disk
    try:
        with pytest.raises(ValueError, match=r"^checkpoint .*/step-00000004 cannot be written \(.*: free or mend"):
            store.save(4, {"weight/x": torch.zeros(65536)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert store.newest() == 3
