"""The modalities of the suite: how each is generated, and the files and columns in which it is written.

Out: `MODALITIES`; the `SourceConfig` that reads a modality back; its number of samples and their splits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.config.schema import MiniatureConfig, SignalKind, SourceConfig
from pipeline.data.miniature import clips, digits, galaxies, molecules, motion, scenes, sounds, speech, tiles
from pipeline.data.miniature.example import Example, example_rng
from pipeline.data.miniature.grammar import GRAMMARS

TEST_SAMPLES = 400
VALIDATION_SAMPLES = 100
_LARGEST_TEST_SHARE = 0.25
_LARGEST_VALIDATION_SHARE = 0.054


@dataclass(frozen=True, kw_only=True, slots=True)
class Modality:
    """One modality: a generator and its layout on disk."""

    name: str
    """Name of the modality, of its folder and of its grammar."""
    kind: SignalKind
    """How its payloads are decoded."""
    role: Literal["train", "held_out", "text"]
    """The part it plays, as in `DatasetConfig`."""
    make: Callable[[int, int], Example]
    """Sample `index` of a suite with this seed: `make(seed, index)`."""
    table: str
    """File name of its table."""
    payload_field: str = "file"
    """Column of the signal."""
    caption_field: str = "caption"
    """Column of the caption."""
    suffix: str = ""
    """Extension of its files; empty where the signal is in the table."""

    @property
    def format(self) -> Literal["parquet", "jsonl", "csv"]:
        """Format of the table, as in `SourceConfig`."""
        if self.table.endswith(".parquet"):
            return "parquet"
        return "csv" if self.table.endswith(".csv") else "jsonl"

    @property
    def payload(self) -> Literal["path", "bytes", "inline"]:
        """Where the signal is, as in `SourceConfig`."""
        if self.suffix:
            return "path"
        return "bytes" if self.format == "parquet" else "inline"

    @property
    def attribute_fields(self) -> tuple[str, ...]:
        """Columns of the attributes."""
        return ("domain",) if self.role == "text" else GRAMMARS[self.name].attribute_names


def _generated(name: str, make: Callable[[np.random.Generator], Example]) -> Callable[[int, int], Example]:
    def indexed(seed: int, index: int) -> Example:
        return make(example_rng(seed, name, index))

    return indexed


def _scan(seed: int, index: int) -> Example:
    # Real data: the seed decides captions and splits only.
    return digits.make(index)


def _sentence(seed: int, index: int) -> Example:
    """Unpaired text: the domains take turns; its draws are independent of every sample's."""
    grammar = tuple(GRAMMARS.values())[index % len(GRAMMARS)]
    rng = example_rng(seed, "text", index)
    return Example(grammar.caption(grammar.sample(rng), rng), {"domain": grammar.name})


_JSONL, _CSV, _PARQUET = "metadata.jsonl", "metadata.csv", "samples.parquet"

_ALL = (
    Modality(
        name="image", kind="image", role="train", make=_generated("image", scenes.make), table=_JSONL, suffix="png"
    ),
    Modality(name="audio", kind="audio", role="train", make=_generated("audio", sounds.make), table=_CSV, suffix="wav"),
    Modality(
        name="video", kind="video", role="train", make=_generated("video", clips.make), table=_JSONL, suffix="mp4"
    ),
    Modality(
        name="speech", kind="audio", role="train", make=_generated("speech", speech.make), table=_JSONL, suffix="wav"
    ),
    Modality(
        name="text",
        kind="text",
        role="text",
        make=_sentence,
        table="corpus.jsonl",
        payload_field="text",
        caption_field="text",
    ),
    Modality(
        name="satellite",
        kind="image",
        role="held_out",
        make=_generated("satellite", tiles.make),
        table=_CSV,
        suffix="tif",
    ),
    Modality(
        name="astronomy",
        kind="image",
        role="held_out",
        make=_generated("astronomy", galaxies.make),
        table=_PARQUET,
        payload_field="image",
    ),
    Modality(
        name="imu", kind="series", role="held_out", make=_generated("imu", motion.make), table=_JSONL, suffix="csv"
    ),
    Modality(
        name="molecule",
        kind="molecule",
        role="held_out",
        make=_generated("molecule", molecules.make),
        table="molecules.csv",
        payload_field="smiles",
    ),
    Modality(name="digits", kind="image", role="held_out", make=_scan, table=_PARQUET, payload_field="image"),
)

MODALITIES: dict[str, Modality] = {modality.name: modality for modality in _ALL}
"""Every modality of the suite, by name."""


def source_for(modality: str, data_dir: str) -> SourceConfig:
    """How the files of a modality below `data_dir` are read."""
    if modality not in MODALITIES:
        raise ValueError(f"modality: expected one of {sorted(MODALITIES)}, got {modality!r}")
    m = MODALITIES[modality]
    return SourceConfig(
        kind=m.format,
        path=f"{data_dir}/{m.name}/{m.table}",
        caption_field=m.caption_field,
        payload_field=m.payload_field,
        payload=m.payload,
        attribute_fields=m.attribute_fields,
    )


def sample_count(modality: str, config: MiniatureConfig) -> int:
    """Samples of a modality at the configured size of the suite."""
    if modality == "digits":
        return min(config.held_out_samples, digits.COUNT)
    counts = {
        "train": config.train_modality_samples,
        "held_out": config.held_out_samples,
        "text": config.text_samples_per_domain * len(GRAMMARS),
    }
    return counts[MODALITIES[modality].role]


def splits(modality: str, count: int, seed: int) -> list[str]:
    """Split of every sample: a seeded shuffle cut into test, validation and train, of exact sizes."""
    test = min(TEST_SAMPLES, int(_LARGEST_TEST_SHARE * count))
    validation = min(VALIDATION_SAMPLES, int(_LARGEST_VALIDATION_SHARE * count))
    order = example_rng(seed, f"{modality}/splits", 0).permutation(count)
    names = np.full(count, "train", dtype="<U10")
    names[order[:test]] = "test"
    names[order[test : test + validation]] = "validation"
    return [str(name) for name in names]
