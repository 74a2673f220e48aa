"""The MLflow model of an adapter: what `mlflow models predict` and `mlflow models serve` run.

In: the artifacts that `pipeline.tracking.registry` stored, and a table: `content` (an encoded file), `text` or
`embedding`, by the kind of signals.  Out: a table of `caption` and `problem`, of which one is empty.

MLflow reads this file as code ("models from code"): nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from pipeline.adaptation.generation import Generation
from pipeline.adaptation.service import CaptionService

_NAME = "adapter"


class AdapterModel(PythonModel):
    """One adapter with its encoder and LLM."""

    def load_context(self, context: Any) -> None:
        """Load it; relative model paths of the card start at the stored models, or at the project they were left in."""
        root = Path(context.artifacts.get("models") or context.model_config["root"])
        self._service = CaptionService.load({_NAME: context.artifacts["adapter"]}, root=root)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A caption of each row."""
        # The signature has made sure of the column.
        inputs = [list(one) if hasattr(one, "tolist") else one for one in model_input.iloc[:, 0]]
        found = self._service.try_caption(_NAME, inputs, generation_of(params or {}))
        # Empty texts, because a null would leave the server as NaN, which is no JSON.
        rows = [(one.caption or "", one.problem or "") for one in found]
        return pd.DataFrame(rows, columns=["caption", "problem"])


def generation_of(params: Mapping[str, Any]) -> Generation:
    """Decoding as the model's parameters ask for it; at their defaults it is greedy."""
    temperature, top_p = float(params.get("temperature", 0.0)), float(params.get("top_p", 1.0))
    beams = int(params.get("num_beams", 1))
    return Generation(
        temperature=temperature or None,
        top_p=None if top_p == 1.0 else top_p,
        num_beams=None if beams == 1 else beams,
        max_tokens=int(params["max_tokens"]) if "max_tokens" in params else None,
        seed=int(params.get("seed", 0)),
    )


set_model(AdapterModel())
