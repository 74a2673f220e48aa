"""Configurations as flat params."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from pipeline.config.load import load_config
from pipeline.config.presets import PRESETS
from pipeline.tracking.params import MAX_VALUE, flatten, redact


@dataclass(frozen=True)
class Leaf:
    name: str
    steps: int = 3


@dataclass(frozen=True)
class Nameless:
    rate: float = 0.5


def test_nested_values_get_dotted_names() -> None:
    values = {"meta": {"optim": Nameless()}, "betas": (0.9, 0.95), "device": None, "on": True, "text": "a b"}
    assert flatten(values) == {
        "meta.optim.rate": "0.5",
        "betas": "[0.9, 0.95]",
        "device": "null",
        "on": "true",
        "text": "a b",
    }


def test_items_go_by_their_name_or_else_by_number() -> None:
    assert flatten({"encoders": (Leaf("a"), Leaf("b"))}) == {
        "encoders.a.name": "a",
        "encoders.a.steps": "3",
        "encoders.b.name": "b",
        "encoders.b.steps": "3",
    }
    assert flatten({"x": [Leaf("a"), Leaf("a", 4)]})["x.1.steps"] == "4"
    assert flatten([Nameless()], "list") == {"list.0.rate": "0.5"}


def test_long_values_are_cut_and_say_so() -> None:
    (value,) = flatten({"prompt": "x" * 2000}).values()
    assert len(value) == MAX_VALUE
    assert value.endswith("x ... (cut)")


@pytest.mark.parametrize("key", ["hf_token", "api_key", "db.password", "AWS_SECRET", "my-private-key", "credentials"])
def test_secrets_are_hidden(key: str) -> None:
    assert list(flatten({key: "s3cr3t"}).values()) == ["***"]


@pytest.mark.parametrize(
    ("key", "value"), [("soft_tokens", 4), ("max_caption_tokens", 48), ("token", None), ("key", "a")]
)
def test_ordinary_words_are_not_hidden(key: str, value: object) -> None:
    assert "***" not in flatten({key: value})[key]


def test_addresses_lose_user_and_password() -> None:
    assert redact("postgresql://me:pw@db:5432/x and https://token@host/") == (
        "postgresql://***@db:5432/x and https://***@host/"
    )
    assert redact("sqlite:////tmp/a@b.db, me@example.org") == "sqlite:////tmp/a@b.db, me@example.org"
    assert flatten({"uri": "http://u:p@h"}) == {"uri": "http://***@h"}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_fits_mlflow(preset: str) -> None:
    flat = flatten(load_config(preset=preset, file=None, overrides=[]))
    assert flat["seed"] == "0"
    assert all(len(name) <= 250 and re.fullmatch(r"[\w\-./: ]+", name) for name in flat)
    assert all(len(value) <= MAX_VALUE and value != "***" for value in flat.values())
