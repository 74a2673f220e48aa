"""Checkpoints of the paper's public code as ours (METHOD sections 1 and 3).

In: a `.pt` file of github.com/ospanbatyr/sample-efficient-multimodality (commit 8c9b6c9); nothing in it is run.
Out: the state of our `Semi`, or of the projector alone, and the settings that it needs.

The reference multiplies A, B and b each by alpha / R. Here that factor goes into the generators' weights and the
adapter's own scale becomes 1, so that the merged projector is the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.models.hypernet.attention import sinusoidal_positions

State = dict[str, Tensor]

_HYPERNET, _PROJECTOR = "hypernet_state_dict", "projector_state_dict"
_LINEAR = re.compile(r"net\.(\d+)\.(weight|bias)")
_POSITIONS = "pos_encs.pe"
_POSITIONS_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceCheckpoint:
    """What a file held, in our names."""

    projector: State
    """State of `Projector`."""
    hypernet: State | None
    """State of `AttentionHypernet`; None in a checkpoint of stage 1."""
    settings: dict[str, dict[str, Any]]
    """Sections `projector` and `hypernet` of the configuration that the states fit."""
    found: dict[str, Any]
    """What the file says of itself: kind, step, shapes, shots of its positions."""


def read_reference(path: Path, *, alpha_over_rank: float = 1.0, heads: int = 1) -> ReferenceCheckpoint:
    """Read a checkpoint of the reference code.

    Its shapes do not tell `alpha_over_rank` (paper: 32 / 32) and `heads` (paper: 1): give those of its training.

    Raises:
        ValueError: the file cannot be read, or holds something that our modules cannot compute.
    """
    content = _load(path)
    kind = next((name for name in (_HYPERNET, _PROJECTOR) if name in content), None)
    if kind is None:
        raise ValueError(f"{path} holds neither {_HYPERNET!r} nor {_PROJECTOR!r}; its keys are {sorted(content)[:8]}")
    state = {name: value.float() for name, value in content[kind].items()}
    parts = _split(state) if kind == _HYPERNET else {"projector": state, "hypernet": {}}
    projector = _projector(parts["projector"], path)
    input_width, llm_width = projector["layers.0.weight"].shape[1], projector["layers.1.weight"].shape[0]
    settings: dict[str, dict[str, Any]] = {
        "projector": {
            "input_width": input_width, "hidden_width": projector["layers.0.weight"].shape[0], "soft_tokens": 1,
        }
    }  # fmt: skip
    found: dict[str, Any] = {"kind": kind.removesuffix("_state_dict"), "step": content.get("step_idx")}
    found["shapes"] = {name: list(value.shape) for name, value in state.items()}
    hypernet = None
    if kind == _HYPERNET:
        own = parts["hypernet"]
        rank, bias = _rank(own, input_width, llm_width, path)
        hypernet = _hypernet(own, alpha_over_rank, path)
        settings["hypernet"] = {
            "kind": "attention", "width": input_width, "heads": heads, "layers": 1,
            "rank": rank, "alpha": float(rank), "generate_bias": bias,
        }  # fmt: skip
        found["support_shots"] = (own[_POSITIONS].shape[-2] - len(own["prefix_tokens"]) - 1) // 2
    return ReferenceCheckpoint(projector=projector, hypernet=hypernet, settings=settings, found=found)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except Exception as error:  # torch raises whatever its readers meet in a damaged or malicious file
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as a checkpoint of tensors ({reason})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not the mapping that the reference code saves")
    return content


def _split(state: State) -> dict[str, State]:
    """The wrapper's state by module."""
    parts: dict[str, State] = {"projector": {}, "hypernet": {}}
    for name, value in state.items():
        module, _, rest = name.partition(".")
        parts.setdefault(module, {})[rest] = value
    return parts


def _projector(state: State, path: Path) -> State:
    """`net.0` and `net.3` (GELU and dropout between them hold nothing) as our two layers."""
    places = sorted({int(match[1]) for name in state if (match := _LINEAR.fullmatch(name))})
    unknown = sorted(name for name in state if not _LINEAR.fullmatch(name))
    if len(places) != 2 or unknown:
        raise ValueError(
            f"{path}: the projector has linear layers {places} and other entries {unknown[:4]}; what can be imported "
            "is the paper's: two linear layers with a GELU between them"
        )
    layers = {
        f"layers.{index}.{part}": _entry(state, f"net.{place}.{part}", path)
        for index, place in enumerate(places)
        for part in ("weight", "bias")
    }
    _check("net.1 weight", layers["layers.1.weight"], (None, layers["layers.0.weight"].shape[0]), path)
    return layers


def _rank(state: State, input_width: int, llm_width: int, path: Path) -> tuple[int, bool]:
    """Rank and whether biases are generated: a generator's outputs are R (in + out), plus out with biases."""
    prefixes = _entry(state, "prefix_tokens", path)
    _check("prefix_tokens", prefixes, (2, input_width), path)
    sizes = [_entry(state, f"generators.{index}.weight", path).shape[0] for index in range(2)]
    for bias in (True, False):
        per_rank = (input_width + llm_width, 2 * llm_width)
        weights = [size - bias * llm_width for size in sizes]
        ranks = {weight // each for weight, each in zip(weights, per_rank, strict=True)}
        if len(ranks) == 1 and not any(weight % each for weight, each in zip(weights, per_rank, strict=True)):
            return ranks.pop(), bias
    raise ValueError(
        f"{path}: generators with {sizes} outputs fit no rank at widths {input_width} and {llm_width}: the "
        "hypernetwork was made for another projector (one cut to a narrow encoder cannot be imported)"
    )


def _hypernet(state: State, alpha_over_rank: float, path: Path) -> State:
    width = state["prefix_tokens"].shape[1]
    ours = {"prefix_tokens": state["prefix_tokens"]}
    for name in ("q", "k", "v"):
        for part, shape in (("weight", (width, width)), ("bias", (width,))):
            value = _entry(state, f"hypnet.{name}.{part}", path)
            _check(f"hypnet.{name}.{part}", value, shape, path)
            ours[f"attention.{name}.{part}"] = value
    for index in range(2):
        for part in ("weight", "bias"):
            ours[f"generators.{index}.{part}"] = alpha_over_rank * _entry(state, f"generators.{index}.{part}", path)
    _check("generators.0.weight", ours["generators.0.weight"], (None, width), path)
    positions = _entry(state, _POSITIONS, path).reshape(-1, width)
    difference = float((positions - sinusoidal_positions(*positions.shape)).abs().max())
    if difference > _POSITIONS_TOLERANCE:
        raise ValueError(f"{path}: its positions differ from the scaled sinusoidal ones by {difference:.2g}")
    known = {"prefix_tokens", _POSITIONS, *(name.replace("attention.", "hypnet.") for name in ours)}
    unknown = sorted(state.keys() - known)
    if unknown:
        raise ValueError(f"{path}: entries {unknown[:4]} belong to a hypernetwork other than single-layer attention")
    return ours


def _entry(state: State, name: str, path: Path) -> Tensor:
    if name not in state:
        raise ValueError(
            f"{path} has no {name!r}: only the paper's hypernetwork (arch attention, with positions, two projector "
            f"layers) can be imported; it has {sorted(state)[:6]}"
        )
    return state[name]


def _check(name: str, value: Tensor, wanted: tuple[int | None, ...], path: Path) -> None:
    got = tuple(value.shape)
    if len(got) != len(wanted) or any(want not in (None, size) for size, want in zip(got, wanted, strict=True)):
        expected = "x".join("?" if size is None else str(size) for size in wanted)
        raise ValueError(f"{path}: {name} has shape {'x'.join(map(str, got))}, expected {expected}")
