"""METHOD sections 1 and 2 written down once more, in NumPy and loops, and compared with the torch code.

The transcription follows the text, not the implementation: no batching over episodes, one vector at a time.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.schema import HypernetConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.hypernet import AttentionHypernet
from pipeline.models.projector import Projector
from pipeline.models.semi import Semi
from tests.unit.models.conftest import WIDTH, episode_batch

Array = npt.NDArray[np.float64]
RANK, ALPHA = 3, 6.0


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _positions(length: int, width: int) -> Array:
    table = np.zeros((length, width))
    for position in range(length):
        for pair in range(width // 2):
            angle = position / 10_000 ** (2 * pair / width)
            table[position, 2 * pair], table[position, 2 * pair + 1] = math.sin(angle), math.cos(angle)
    return table / math.sqrt(width)


def _numbers(module: torch.nn.Module) -> dict[str, Array]:
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def _adapters(weights: dict[str, Array], shapes: list[tuple[int, int]], e: Array, t: Array, instruction: Array) -> list:
    """`[prefix_1..prefix_L ; instruction ; e_1, t_1, ...]` -> one attention layer -> generators."""
    sequence = [*weights["prefix_tokens"], instruction]
    for embedding, text in zip(e, t, strict=True):
        sequence += [embedding, text]
    x = np.stack(sequence) + _positions(len(sequence), WIDTH)

    def linear(name: str, v: Array) -> Array:
        return weights[f"{name}.weight"] @ v + weights[f"{name}.bias"]

    adapters = []
    for layer, (i, o) in enumerate(shapes):
        query = linear("attention.q", x[layer])
        logits = np.array([query @ linear("attention.k", row) for row in x]) / math.sqrt(WIDTH)
        attention = np.exp(logits - logits.max())
        attention /= attention.sum()
        output = sum(a * linear("attention.v", row) for a, row in zip(attention, x, strict=True))
        flat = linear(f"generators.{layer}", output)
        a, b, bias = flat[: i * RANK], flat[i * RANK : (i + o) * RANK], flat[(i + o) * RANK :]
        adapters.append((a.reshape(i, RANK), b.reshape(RANK, o), bias))
    return adapters


def _project(weights: dict[str, Array], adapters: list, x: Array, soft_tokens: int) -> Array:
    hidden = x
    for layer, (a, b, bias) in enumerate(adapters):
        if layer:
            hidden = _gelu_tanh(hidden)
        base = weights[f"layers.{layer}.weight"] @ hidden + weights[f"layers.{layer}.bias"]
        hidden = base + (ALPHA / RANK) * (hidden @ a) @ b + bias
    return hidden.reshape(soft_tokens, -1)


def _semi() -> Semi:
    torch.manual_seed(3)
    projector = Projector(WIDTH, 16, hidden_width=10, soft_tokens=2, dropout=0.1)
    hypernet = AttentionHypernet(HypernetConfig(width=WIDTH, rank=RANK, alpha=ALPHA), projector.layer_shapes)
    return Semi(projector, hypernet).eval()


def test_adapters_projector_and_loss_agree_with_the_transcription(llm: FrozenLLM) -> None:
    semi, batch = _semi(), episode_batch(WIDTH)
    projector, hypernet = _numbers(semi.projector), _numbers(semi.hypernet)
    captions = ["a red circle", "a blue square on the left .", "a green", "a small square", "red"] * 2
    with torch.no_grad():
        generated = semi.hypernet(batch.support, semi.projector)
        soft = semi(batch)
        loss = float(llm.loss(soft.flatten(0, 1), captions))
    expected_soft = []
    for episode in range(2):
        support = [
            tensor[episode].double().numpy()
            for tensor in (batch.support.embeddings_NKE, batch.support.texts_NKW, batch.support.instructions_NW)
        ]
        adapters = _adapters(hypernet, semi.projector.layer_shapes, *support)
        for mine, (a, b, bias) in zip(generated, adapters, strict=True):
            assert mine is not None and mine.bias_O is not None
            np.testing.assert_allclose(mine.a_IR[episode].numpy(), a, atol=1e-5)
            np.testing.assert_allclose(mine.b_RO[episode].numpy(), b, atol=1e-5)
            np.testing.assert_allclose(mine.bias_O[episode].numpy(), bias, atol=1e-5)
        for row, query in enumerate(batch.queries_NBE[episode].double().numpy()):
            expected_soft.append(_project(projector, adapters, query, 2))
            np.testing.assert_allclose(soft[episode, row].numpy(), expected_soft[-1], atol=1e-5)
    assert abs(loss - _mean_token_loss(llm, expected_soft, captions)) < 1e-5


def _mean_token_loss(llm: FrozenLLM, soft: list[Array], captions: list[str]) -> float:
    """One caption after the other, no padding, the softmax written out in NumPy."""
    embed = llm.model.get_input_embeddings()
    losses: list[float] = []
    for tokens, caption in zip(soft, captions, strict=True):
        prompt = [1, *_ids(llm, "describe :")], _ids(llm, "caption :")
        labels = [*_ids(llm, caption), 2]
        parts = [embed(torch.tensor(prompt[0])), torch.from_numpy(tokens).float(), embed(torch.tensor(prompt[1]))]
        inputs = torch.cat([*parts, embed(torch.tensor(labels))]).unsqueeze(0)
        with torch.no_grad():
            logits = llm.model(inputs_embeds=inputs).logits[0].double().numpy()
        for place, label in enumerate(labels):
            row = logits[inputs.shape[1] - len(labels) + place - 1]
            losses.append(float(np.log(np.exp(row - row.max()).sum()) + row.max() - row[label]))
    return float(np.mean(losses))


def _ids(llm: FrozenLLM, text: str) -> list[int]:
    ids: list[int] = llm.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
