"""Protocols of evaluation on the miniature suite's demo run: other questions to the same trained models.

Out: the `miniature` configuration with another evaluation, whose scores have a folder of their own below the run's. The
training stages are those of the demo, so that a demo that is done is not trained again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from pipeline.config.presets.miniature import miniature
from pipeline.config.schema import DesignConfig, ExperimentConfig, MethodName, Shots

SHOTS: tuple[Shots, ...] = (4, 8, 16, 32, 64, 128, 512, 2048, "full")
WITHOUT_2048: tuple[Shots, ...] = tuple(shots for shots in SHOTS if shots != 2048)
HEADLINE: tuple[Shots, ...] = (32,)
CONTROLS: tuple[MethodName, ...] = (
    "semi_shuffled_text",
    "semi_random_embeddings",
    "semi_other_support",
    "average_adapter",
)
WEAK: tuple[MethodName, ...] = ("finetuned_projector", "random_lora", "limber")
"""Weak on validation modalities; all pairs say as much of them as 2,048 do."""
VARIANTS: tuple[MethodName, ...] = ("procrustes_init",)
"""Neighbours of a method whose curve is there."""


def sample_efficiency() -> ExperimentConfig:
    """Every method (METHOD section 5): five draws, three seeds, support sizes up to all pairs, 32 of them in full.

    An hour of two cores does not hold all combinations. At 32 pairs draws and seeds are crossed, and second encoders,
    controls and variants scored; elsewhere draw d is fitted with seed d modulo 3 through the first encoder.
    """
    base = miniature()
    few_sizes = dict.fromkeys((*CONTROLS, *VARIANTS), HEADLINE) | dict.fromkeys(WEAK, WITHOUT_2048)
    few_sizes["linear_probe"] = (32, "full")
    return replace(
        base,
        integrate=replace(base.integrate, shots=SHOTS, draws=5, encoders=None),
        evaluate=replace(
            base.evaluate,
            folder="sample_efficiency",
            methods=get_args(MethodName),
            test_samples=100,
            design=DesignConfig(seeds=3, crossed_at=HEADLINE, further_encoders_at=HEADLINE, methods_at=few_sizes),
        ),
    )
