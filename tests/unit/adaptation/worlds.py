"""A world of four-wide texts and a tiny LLM, in which every method can be fitted in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.adaptation.captioner import Captioner, ProjectorCaptioner
from pipeline.adaptation.methods import Method, MethodContext, build_methods
from pipeline.adaptation.methods.base import TrainingSupports
from pipeline.adaptation.support import SupportSet
from pipeline.config.presets import build_preset
from pipeline.config.schema import FinetuneConfig, HypernetConfig, HypernetKind, MethodName
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.hypernet import build_hypernet
from pipeline.models.projector import Projector
from pipeline.models.semi import Semi

CAPTIONS = ("a red circle", "a blue square", "a green circle on the left .", "a small square", "a red square")
ATTRIBUTES = tuple({"shape": "circle" if "circle" in caption else "square"} for caption in CAPTIONS)
TEXT_WIDTH, HIDDEN, SOFT = 4, 8, 2
STEPS = FinetuneConfig(steps=2, learning_rate=1e-2, batch_size=4)


def make_support(
    width: int = 6, captions: Sequence[str] = CAPTIONS, *, seed: int = 0, modality: str = "radar"
) -> SupportSet:
    """Random unit vectors; equal captions have equal text embeddings."""
    generator = torch.Generator().manual_seed(seed)
    kinds = list(dict.fromkeys(captions))
    texts = normalize(torch.randn(len(kinds), TEXT_WIDTH, generator=generator), dim=-1)
    return SupportSet(
        modality=modality,
        encoder=f"{modality}-a",
        ids=tuple(f"r{i}" for i in range(len(captions))),
        embeddings_KE=normalize(torch.randn(len(captions), width, generator=generator), dim=-1),
        texts_KW=texts[[kinds.index(caption) for caption in captions]],
        captions=tuple(captions),
        instruction_W=texts[0],
        attributes=tuple({"shape": "circle" if "circle" in caption else "square"} for caption in captions),
    )


def training_supports(shots: int, seed: int) -> list[SupportSet]:
    """Two high-resource modalities of different widths, drawn anew for every seed."""
    captions = [CAPTIONS[index % len(CAPTIONS)] for index in range(shots)]
    return [
        make_support(width, captions, seed=10 * seed + width, modality=name)
        for name, width in [("image", 6), ("audio", 7)]
    ]


def no_training_supports(shots: int, seed: int) -> list[SupportSet]:
    """For methods that must not ask."""
    raise AssertionError("this method reads its own support only")


@dataclass(frozen=True, kw_only=True)
class World:
    """Frozen and trained models."""

    llm: FrozenLLM
    pretrained: Projector
    semi: Semi

    def methods(
        self,
        *names: MethodName,
        training: TrainingSupports = training_supports,
        steps: FinetuneConfig = STEPS,
    ) -> dict[MethodName, Method]:
        """Methods as the smoke preset builds them, with a budget of a few steps."""
        smoke = build_preset("smoke")
        config = replace(
            smoke,
            integrate=replace(smoke.integrate, finetune=steps),
            evaluate=replace(
                smoke.evaluate,
                methods=names,
                scratch=steps,
                finetuned_projector=steps,
                limber=steps,
                random_lora=steps,
                aligned_init=steps,
                alignment_dimensions=(1, 2, 64),
                retrieval=replace(smoke.evaluate.retrieval, neighbours=2),
            ),
        )
        return build_methods(
            MethodContext(
                config=config,
                llm=self.llm,
                pretrained=self.pretrained,
                semi=self.semi,
                training_supports=training,
            )
        )

    def method(self, name: MethodName, *, training: TrainingSupports = training_supports) -> Method:
        """One of them."""
        return self.methods(name, training=training)[name]


def make_world(llm: FrozenLLM, kind: HypernetKind = "equivariant") -> World:
    """An untrained projector and hypernetwork whose zero-initialised corrections were moved away from zero."""
    torch.manual_seed(0)
    pretrained, shared = (
        Projector(TEXT_WIDTH, llm.width, hidden_width=HIDDEN, soft_tokens=SOFT, dropout=0.0).eval() for _ in range(2)
    )
    width = TEXT_WIDTH if kind == "attention" else 8
    config = HypernetConfig(kind=kind, rank=3, alpha=3.0, width=width, heads=1, layers=1)
    hypernet = build_hypernet(config, shared)
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return World(llm=llm, pretrained=pretrained, semi=Semi(shared, hypernet))


@torch.no_grad()
def behaviour(captioner: Captioner, x: Tensor) -> tuple[list[str], Tensor]:
    """Captions of embeddings, and the soft tokens where there are any."""
    captions = captioner.caption(x)
    if not isinstance(captioner, ProjectorCaptioner):
        return captions, torch.zeros(0)
    before = x if captioner.before is None else captioner.before(x)
    return captions, captioner.projector.eval()(before)
