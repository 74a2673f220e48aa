"""The variants that a configuration's `ablate` section asks for, each tried before anything starts.

In: an `ExperimentConfig`.  Out: a reference and variants for each factor, or a `ConfigError` that names the variant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.config.ablation import REFERENCE, AblateConfig, Changes, FactorConfig
from pipeline.config.errors import ConfigError
from pipeline.config.load import override
from pipeline.config.schema import ExperimentConfig

VARIED = (
    "projector", "pretrain", "episodes", "hypernet", "meta", "integrate.finetune", "integrate.chunk", "validation",
)  # fmt: skip
"""What a variant may change: all share the embeddings, the LLM, and the yardstick."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A configuration that is trained and scored."""

    factor: str
    """Name of the factor; of the reference that factors share, `base`."""
    name: str
    """Name within the factor."""
    changes: Changes
    """What it has otherwise than its reference; of a reference, than the configuration."""
    config: ExperimentConfig
    """Of the variant itself: it has no ablations."""

    @property
    def key(self) -> str:
        """Path of its folder, and what it is called in MLflow."""
        return self.factor if self.factor == self.name else f"{self.factor}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A reference, and variants that are compared with it."""

    config: FactorConfig
    """As declared."""
    reference: Variant
    """What variants are compared with."""
    variants: tuple[Variant, ...]
    """In the order of the configuration."""


def resolve_factors(config: ExperimentConfig) -> tuple[Factor, ...]:
    """All factors, each variant checked like any configuration."""
    _check_comparable(config)
    plain = replace(config, ablate=AblateConfig())
    common = Variant(factor=REFERENCE, name=REFERENCE, changes={}, config=plain)
    return tuple(_resolve(factor, common) for factor in config.ablate.factors)


def all_variants(factors: tuple[Factor, ...]) -> list[Variant]:
    """References and variants in the order of the factors, each once."""
    found = {variant.key: variant for factor in factors for variant in (factor.reference, *factor.variants)}
    return list(found.values())


def _check_comparable(config: ExperimentConfig) -> None:
    if not config.ablate.factors:
        raise ConfigError(
            "ablate.factors names nothing to vary: take --preset ablations, or a file with `ablate: {factors: [...]}`"
        )
    if len(config.integrate.shots) != 1:
        raise ConfigError(f"ablations compare at one support size: integrate.shots has {len(config.integrate.shots)}")
    if config.runtime.zero_stage == 3:
        raise ConfigError(
            "runtime.zero_stage=3 spreads the LLM over workers, and each variant is trained by one process: "
            "choose 0, 1 or 2"
        )


def _resolve(factor: FactorConfig, common: Variant) -> Factor:
    reference = common
    if factor.base:
        reference = _variant(factor.name, REFERENCE, factor.base, common.config)
    seen = {REFERENCE: reference.config}
    variants = []
    for name, changes in factor.variants.items():
        variant = _variant(factor.name, name, changes, reference.config)
        if same := [other for other, config in seen.items() if config == variant.config]:
            raise ConfigError(f"ablate: {variant.key} changes nothing: it is the same as {same[0]!r}; remove it")
        seen[name] = variant.config
        variants.append(variant)
    return Factor(config=factor, reference=reference, variants=tuple(variants))


def _variant(factor: str, name: str, changes: Changes, base: ExperimentConfig) -> Variant:
    where = f"ablate: {factor}/{name}"
    if fixed := [path for path in changes if not _may_vary(path, base)]:
        raise ConfigError(f"{where}: {fixed[0]} cannot be varied: it must lie in one of {', '.join(VARIED)}")
    try:
        config = override(base, changes)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if config == base:
        raise ConfigError(f"{where} changes nothing: it is the same as its reference; remove it")
    return Variant(factor=factor, name=name, changes=changes, config=config)


def _may_vary(path: str, base: ExperimentConfig) -> bool:
    if path == "validation" and base.evaluate.on == "validation":
        return False  # it is what scores the variants
    return any(path == allowed or path.startswith(f"{allowed}.") for allowed in VARIED)
