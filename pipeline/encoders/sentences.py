"""What a sentence-transformers folder says beyond the model itself.

In: a model's folder.  Out: how its tokens are pooled and how many of them it reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_POOLINGS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# A vector's length is left to whoever reads the shards.
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize", "Dropout")


def sentence_pooling(folder: Path) -> str:
    """`mean`, `cls` or `last`, as the folder says; `mean` where it says nothing."""
    for module in _read(folder / "modules.json", default=[]):
        name = str(module.get("type", "")).rpartition(".")[2]
        if name not in _KNOWN_MODULES:
            raise ValueError(
                f"modules.json has a module {name!r} behind the model, which is not applied here: set pooling to mean, "
                f"cls or last to take the vector before it"
            )
    config = _read(folder / "1_Pooling" / "config.json", default={})
    modes = config.get("pooling_mode") or [mode for key, mode in _LEGACY_MODES.items() if config.get(key)] or "mean"
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ValueError(
            f"1_Pooling/config.json asks for {' + '.join(modes)}, which is none of {', '.join(_POOLINGS)}: set pooling "
            f"to mean, cls or last"
        )
    return _POOLINGS[modes[0]]


def sentence_max_tokens(folder: Path) -> int | None:
    """Tokens that the model was made to read, where the folder says so."""
    limit = _read(folder / "sentence_bert_config.json", default={}).get("max_seq_length")
    return int(limit) if limit else None


def _read(path: Path, *, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
