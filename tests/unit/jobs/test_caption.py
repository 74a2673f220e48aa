"""Which adapter an input goes to, and what becomes of inputs that cannot be read."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.caption import adapters_of, add_arguments, caption_all, read_all
from pipeline.adaptation.generation import GREEDY
from pipeline.adaptation.service import CaptionService

CARD = SimpleNamespace(signals=SimpleNamespace(kind="image", payload_field="file"))


class Service:
    """Captions a file by its name; refuses names with `bad`."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def card(self, name: str) -> Any:
        assert name in self.names
        return CARD

    def try_caption(self, name: str, inputs: list[Path], *_: object, batch_size: int, advance: Any) -> list[Any]:
        assert batch_size == 2
        advance(len(inputs))
        bad = ["bad" in path.name for path in inputs]
        return [
            SimpleNamespace(caption=None if wrong else f"{name} {path.name}", problem="broken" if wrong else None)
            for path, wrong in zip(inputs, bad, strict=True)
        ]


def captioned(names: tuple[str, ...], *arguments: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["--out", "out", *(word for name in names for word in ("--adapter", name)), *arguments])
    service = cast(CaptionService, Service(*names))
    return caption_all(service, read_all(args, service), GREEDY, 2)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("a.png", "bad.png", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "table.csv").write_text("id,file,which\n1,a.png,two\n2,c.png,one\n3,c.png,three\n")
    return tmp_path


def test_one_adapter_takes_everything(files: Path) -> None:
    done, rejected = captioned(("one",), "--input", str(files / "a.png"), str(files / "bad.png"), str(files / "c.png"))
    assert [row["caption"] for row in done] == ["one a.png", "one c.png"]
    assert rejected == [{"id": str(files / "bad.png"), "adapter": "one", "reason": "broken"}]


def test_several_adapters_take_inputs_in_their_order(files: Path) -> None:
    done, _ = captioned(("one", "two"), "--input", str(files / "c.png"), "--input", str(files / "a.png"))
    assert [row["caption"] for row in done] == ["one c.png", "two a.png"]
    with pytest.raises(ValueError, match=r"--input is given 1 times for 2 adapters \(one, two\)"):
        captioned(("one", "two"), "--input", str(files / "a.png"))


def test_a_column_names_the_adapter(files: Path) -> None:
    done, rejected = captioned(("one", "two"), "--input", str(files / "table.csv"), "--adapter-field", "which")
    assert [(row["id"], row["caption"]) for row in done] == [("2", "one c.png"), ("1", "two a.png")]
    assert rejected == [{"id": "3", "adapter": "one", "reason": "no adapter 'three'; there are one, two"}]


def test_adapters_are_called_as_their_folders_or_as_told() -> None:
    assert adapters_of(["runs/a", "other=runs/a"]) == {"a": Path("runs/a"), "other": Path("runs/a")}
    with pytest.raises(ValueError, match="two are called 'a': name them"):
        adapters_of(["x/a", "y/a"])
