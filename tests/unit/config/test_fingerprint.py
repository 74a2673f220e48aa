from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.fingerprint import fingerprint
from pipeline.config.load import flatten, override, to_tree
from pipeline.config.presets import build_preset

SMOKE = build_preset("smoke")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@dataclass
class Pair:
    a: int
    b: tuple[str, ...]


@given(JSON)
def test_is_16_hex_digits_and_repeatable(value: Any) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint(value))
    assert fingerprint(value) == fingerprint(value)


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_mapping_order_does_not_matter(value: dict[str, int]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


@given(JSON, JSON)
def test_values_share_one_exactly_when_their_json_is_equal(left: Any, right: Any) -> None:
    # 1, 1.0 and True are equal in Python but are different settings.
    same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (fingerprint(left) == fingerprint(right)) == same


def test_dataclasses_and_paths_are_read_by_content() -> None:
    assert fingerprint(Pair(a=1, b=("x",))) == fingerprint({"b": ["x"], "a": 1})
    assert fingerprint(PurePosixPath("a/b")) == fingerprint("a/b")


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", Pair])
def test_what_has_no_stable_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot fingerprint a "):
        fingerprint({"field": value})


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        fingerprint(float("nan"))


@pytest.mark.parametrize(
    ("path", "value"), [("seed", 1), ("hypernet.rank", 5), ("llm.prompt", "{soft}"), ("integrate.shots", [9])]
)
def test_any_changed_field_changes_it(path: str, value: Any) -> None:
    assert flatten(to_tree(SMOKE))[path] != value
    assert fingerprint(override(SMOKE, {path: value})) != fingerprint(SMOKE)


def test_is_equal_in_another_process(root: Path) -> None:
    code = (
        "from pipeline.config.fingerprint import fingerprint; from pipeline.config.presets import build_preset; "
        "print(fingerprint(build_preset('smoke')))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == fingerprint(SMOKE)


def test_is_the_one_that_earlier_versions_wrote() -> None:
    # Stored results are found by it: a changed rule recomputes every stage of every user.
    assert fingerprint({"b": [1, 2.5, None, True], "a": "ü"}) == "5cffe7b225626127"
