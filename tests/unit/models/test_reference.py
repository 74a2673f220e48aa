"""Checkpoints of the paper's public code compute here what they compute there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from jobs.import_reference_checkpoint import import_checkpoint
from pipeline.config.load import load_config, read_yaml
from pipeline.episodes.batch import SupportBatch
from pipeline.models.hypernet import AttentionHypernet
from pipeline.models.projector import Projector
from pipeline.models.reference import read_reference
from pipeline.models.semi import Semi
from pipeline.training.stages import load_weights

H, D, R, K, FACTOR = 12, 20, 3, 5, 2.0
Array = npt.NDArray[np.float64]
State = dict[str, torch.Tensor]


def positions(length: int) -> torch.Tensor:
    table = np.zeros((length, H))
    for position in range(length):
        for pair in range(H // 2):
            angle = position / 10_000 ** (2 * pair / H)
            table[position, 2 * pair : 2 * pair + 2] = math.sin(angle), math.cos(angle)
    return torch.from_numpy(table / math.sqrt(H)).float().unsqueeze(0)


def wrapper_state(*, bias: bool = True) -> State:
    """State dict of the reference's wrapper at tiny widths."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> torch.Tensor:
        return 0.15 * torch.randn(*shape, generator=generator)

    state = {"hypernet.prefix_tokens": draw(2, H), "hypernet.pos_encs.pe": positions(2 * K + 3)}
    for name in "qkv":
        state |= {f"hypernet.hypnet.{name}.weight": draw(H, H), f"hypernet.hypnet.{name}.bias": draw(H)}
    for index, (i, o) in enumerate(((H, D), (D, D))):
        size = R * (i + o) + (o if bias else 0)
        state |= {f"hypernet.generators.{index}.weight": draw(size, H), f"hypernet.generators.{index}.bias": draw(size)}
    for place, width in ((0, H), (3, D)):
        state |= {f"projector.net.{place}.weight": draw(D, width), f"projector.net.{place}.bias": draw(D)}
    return state


def save(path: Path, state: State, kind: str = "hypernet") -> Path:
    torch.save({"step_idx": 97952, f"{kind}_state_dict": state, "optimizer_state_dict": {}, "loss": 1.5}, path)
    return path


def merged_by_hand(state: State, e: Array, t: Array, instruction: Array, x: Array) -> Array:
    """Output of the reference's merged projector: its factor stands before A, before B and before b."""
    w = {name: value.double().numpy() for name, value in state.items()}
    rows = [*w["hypernet.prefix_tokens"], instruction]
    for pair in zip(e, t, strict=True):
        rows += pair
    sequence = np.stack(rows) + w["hypernet.pos_encs.pe"][0, : len(rows)]
    q, k, v = (sequence @ w[f"hypernet.hypnet.{n}.weight"].T + w[f"hypernet.hypnet.{n}.bias"] for n in "qkv")
    hidden = x
    for index, (place, i) in enumerate(((0, H), (3, D))):
        weights = np.exp(q[index] @ k.T / math.sqrt(H))
        flat = w[f"hypernet.generators.{index}.weight"] @ (weights / weights.sum() @ v)
        flat = FACTOR * (flat + w[f"hypernet.generators.{index}.bias"])
        a, b = flat[: i * R].reshape(i, R), flat[i * R : (i + D) * R].reshape(R, D)
        bias = flat[(i + D) * R :] if len(flat) > (i + D) * R else 0.0
        if index:
            hidden = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        weight = w[f"projector.net.{place}.weight"] + (a @ b).T
        hidden = hidden @ weight.T + w[f"projector.net.{place}.bias"] + bias
    return hidden


@pytest.mark.parametrize("bias", [True, False])
def test_the_merged_projector_is_the_references(bias: bool, tmp_path: Path) -> None:
    state = wrapper_state(bias=bias)
    report = import_checkpoint(save(tmp_path / "ref.pt", state), tmp_path / "out", alpha_over_rank=FACTOR, heads=1)
    config = load_config(file=tmp_path / "out" / "config.yaml")
    assert (config.hypernet.rank, config.hypernet.generate_bias) == (R, bias)
    projector = Projector(H, D, hidden_width=config.projector.hidden_width, soft_tokens=1, dropout=0.1)
    semi = Semi(projector, AttentionHypernet(config.hypernet, projector.layer_shapes))
    load_weights(semi, tmp_path / "out" / "meta_train" / "weights.safetensors")
    draw = np.random.default_rng(0).standard_normal
    e, t, instruction, x = draw((K, H)), draw((K, H)), draw(H), draw((4, H))
    tensors = [torch.from_numpy(value).float().unsqueeze(0) for value in (e, t, instruction)]
    support = SupportBatch(embeddings_NKE=tensors[0], texts_NKW=tensors[1], instructions_NW=tensors[2])
    merged = semi.integrate(support, chunk=128).eval()
    with torch.no_grad():
        ours = merged(torch.from_numpy(x).float()).squeeze(1).numpy()
    np.testing.assert_allclose(ours, merged_by_hand(state, e, t, instruction, x), atol=2e-5, rtol=2e-5)
    assert report["support_shots"] == K
    assert report["step"] == 97952
    assert json.loads((tmp_path / "out" / "import.json").read_text()) == report


def test_a_projector_alone_is_taken_over(tmp_path: Path) -> None:
    own = {name: value for name, value in wrapper_state().items() if name.startswith("projector.")}
    state = {name.removeprefix("projector."): value for name, value in own.items()}
    import_checkpoint(save(tmp_path / "p.pt", state, "projector"), tmp_path / "out", alpha_over_rank=1.0, heads=1)
    assert not (tmp_path / "out" / "meta_train").exists()
    assert "hypernet" not in read_yaml(tmp_path / "out" / "config.yaml")
    projector = Projector(H, D, soft_tokens=1, dropout=0.0)
    load_weights(projector, tmp_path / "out" / "pretrain_projector" / "weights.safetensors")
    torch.testing.assert_close(projector.linear_layers[1].weight, state["net.3.weight"])


def without(name: str) -> State:
    return {key: value for key, value in wrapper_state().items() if key != name}


def changed(name: str, value: torch.Tensor) -> State:
    return wrapper_state() | {name: value}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (without("hypernet.pos_encs.pe"), "with positions"),
        (without("hypernet.hypnet.q.bias"), "has no 'hypnet.q.bias'"),
        (without("projector.net.3.weight"), "has no 'net.3.weight'"),
        (changed("hypernet.pos_encs.pe", torch.zeros(1, 2 * K + 3, H)), "positions differ"),
        (changed("projector.net.6.weight", torch.zeros(D, D)), "two linear layers"),
        (changed("projector.net.0.weight", torch.zeros(D, H - 4)), "prefix_tokens has shape 2x12, expected 2x8"),
        (changed("hypernet.generators.0.weight", torch.zeros(7, H)), "fit no rank"),
        (changed("hypernet.hypnet.k.weight", torch.zeros(H, H + 1)), "shape 12x13, expected 12x12"),
        (changed("hypernet.hypnet.norm.weight", torch.zeros(H)), "other than single-layer attention"),
    ],
)
def test_what_cannot_be_computed_here_is_refused(state: State, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        read_reference(save(tmp_path / "ref.pt", state))


class Payload:
    """Would write a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_nothing_in_the_file_is_run(tmp_path: Path) -> None:
    torch.save({"hypernet_state_dict": Payload(tmp_path / "run")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint of tensors"):
        read_reference(tmp_path / "bad.pt")
    assert not (tmp_path / "run").exists()
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        read_reference(tmp_path / "noise.pt")
    torch.save({"other": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds neither"):
        read_reference(tmp_path / "other.pt")
