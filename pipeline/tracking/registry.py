"""Adapters as registered MLflow models.

In: an adapter folder and a store.  Out: a version of a registered model, with signature and input example, that holds
the adapter, the code, and copies of the encoder and the LLM: it runs from any directory and on another machine.

With `copy_models=False` the models stay where they are: folders by their absolute path, hub models by id and revision.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.adaptation.artifact import AdapterCard, load_adapter, save_adapter
from pipeline.config.schema import SignalKind
from pipeline.encoders import precomputed
from pipeline.encoders.folder import model_folder
from pipeline.encoders.project_class import is_class_path
from pipeline.tracking.params import flatten
from pipeline.tracking.store import KEY_TAG, Store, quiet_mlflow

_REQUIREMENTS = (
    "mlflow", "torch", "transformers", "safetensors", "pydantic", "numpy", "pandas", "pyarrow", "pillow", "soundfile",
    "tifffile", "av", "PyYAML", "huggingface_hub", "rich", "scipy",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version of a model."""

    name: str
    """Name in the registry."""
    version: str
    """Its version."""
    uri: str
    """What `mlflow models` is given."""
    tracking_uri: str
    """The store; `MLFLOW_TRACKING_URI` of those commands."""


def register_adapter(
    store: Store,
    directory: Path,
    name: str,
    root: Path,
    *,
    example: Path | None = None,
    copy_models: bool = True,
    tags: dict[str, str] | None = None,
    made_by: str | None = None,
) -> Registered:
    """Log an adapter as a model, in a run of its own, and register it.

    `made_by` is the start of the key of the run whose models made it; where the store knows that run, the new one lies
    below it.
    """
    mlflow = quiet_mlflow()
    from mlflow.entities import LoggedModelOutput

    projector, card = load_adapter(directory)
    cell = _example(card, example)
    facts, parent = _facts(card), _run_of(store, made_by)
    mlflow.set_tracking_uri(store.uri)
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch)
        stored = _with_copies(card, root, staged / "models") if copy_models else card
        save_adapter(staged / "adapter", projector, stored)
        # MLflow tells on stderr what the caller will say itself; what goes wrong is raised.
        with (
            contextlib.redirect_stderr(io.StringIO()),
            mlflow.start_run(experiment_id=store.experiment_id, run_name=name, tags=_tags(card, parent, tags or {})),
        ):
            # Before the model, which takes them over.
            mlflow.log_params(flatten(facts))
            mlflow.log_metrics(card.scores)
            info = _log_model(name, card, staged, root, cell)
    number = str(info.registered_model_version)
    if parent is not None:  # so that its page, and its line among the runs, show the registered model
        store.client.log_outputs(parent.info.run_id, [LoggedModelOutput(info.model_id, step=0)])
    _describe(store.client, name, number, facts, card, parent)
    return Registered(name=name, version=number, uri=f"models:/{name}/{number}", tracking_uri=store.uri)


def _log_model(name: str, card: AdapterCard, staged: Path, root: Path, cell: tuple[str, Any]) -> Any:
    """Log and register what lies in `staged`: the adapter, and its models where they were copied."""
    # Only the miniature weights below the package are large, and what is needed of them is copied as a model.
    code = shutil.copytree(
        Path(__file__).resolve().parents[1],
        staged / "pipeline",
        ignore=shutil.ignore_patterns("__pycache__", "weights"),
    )
    parts = [staged / "adapter", staged / "models"]
    return quiet_mlflow().pyfunc.log_model(
        name="adapter",
        python_model=str(Path(__file__).with_name("pyfunc.py")),
        artifacts={part.name: str(part) for part in parts if part.exists()},
        code_paths=[str(code)],
        signature=_signature(card, cell[0]),
        input_example=_table(*cell),
        model_config={"root": str(root)},
        pip_requirements=[f"{package}=={version(package)}" for package in _REQUIREMENTS],
        registered_model_name=name,
        metadata={"modality": card.modality, "license": card.license, "shots": card.shots},
    )


def _facts(card: AdapterCard) -> dict[str, Any]:
    """What tells versions of a model apart."""
    return {
        "modality": card.modality,
        "method": card.method,
        "shots": card.shots,
        "rank": card.rank,
        "finetune_steps": card.finetune_steps,
        "encoder": card.encoder.path,
        "llm": card.llm.path,
        "license": card.license,
    }


def _run_of(store: Store, made_by: str | None) -> Any:
    """The newest run of that key; None where there is none, as in a store that is not the run's."""
    if made_by is None:
        return None
    query = f"tags.`{KEY_TAG}` LIKE '{made_by}-%' AND tags.kind = 'run'"
    newest = ["attributes.start_time DESC"]
    found = store.client.search_runs([store.experiment_id], filter_string=query, order_by=newest, max_results=1)
    return next(iter(found), None)


def _tags(card: AdapterCard, parent: Any, tags: dict[str, str]) -> dict[str, str]:
    above = {} if parent is None else {"mlflow.parentRunId": parent.info.run_id}
    return {"kind": "adapter", "config_fingerprint": card.config_fingerprint, **above, **tags}


def _describe(client: Any, name: str, number: str, facts: dict[str, Any], card: AdapterCard, parent: Any) -> None:
    """What the registry's pages say of the model and of its version."""
    pairs = f"{card.shots} pairs, {card.finetune_steps} steps of fine-tuning"
    text = f"Captions **{card.modality}** ({card.signals.kind}): `{card.method}` from {pairs}."
    text += f" Encoder `{facts['encoder']}`, language model `{facts['llm']}`, licence: {card.license}."
    if card.scores:
        text += " On its test rows: " + ", ".join(f"{key} {value:.3f}" for key, value in card.scores.items()) + "."
    if parent is not None:
        page = f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
        text += f" Made by the models of run [{parent.info.run_name}]({page})."
    client.update_model_version(name, number, description=text)
    for key in ("modality", "method", "shots"):
        client.set_model_version_tag(name, number, key, str(facts[key]))
    if not client.get_registered_model(name).description:
        client.update_registered_model(
            name,
            f"Writes a caption of every {card.signals.kind} that it is given. A version is an adapter with its frozen "
            "encoder and language model.",
        )
    client.set_tag(client.get_model_version(name, number).run_id, "mlflow.note.content", text)


def _with_copies(card: AdapterCard, root: Path, folder: Path) -> AdapterCard:
    """The card with the models that were copied to `folder`."""
    if is_class_path(card.encoder.path):
        raise ValueError(
            f"encoder {card.encoder.path!r} is a class of the project, which cannot be copied as a model: add "
            "--models reference"
        )
    if card.encoder.path != precomputed.PATH:
        source = model_folder(card.encoder.path, revision=card.encoder.revision, root=root)
        shutil.copytree(source, folder / "encoder")
        card = replace(card, encoder=replace(card.encoder, path="encoder"))
    shutil.copytree(model_folder(card.llm.path, revision=card.llm.revision, root=root), folder / "llm")
    return replace(card, llm=replace(card.llm, path="llm"))


def _signature(card: AdapterCard, column: str) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    types = {"content": DataType.binary, "text": DataType.string, "embedding": Array(DataType.double)}
    params = [
        ParamSpec("temperature", DataType.double, 0.0),
        ParamSpec("top_p", DataType.double, 1.0),
        ParamSpec("num_beams", DataType.long, 1),
        ParamSpec("max_tokens", DataType.long, card.llm.max_caption_tokens),
        ParamSpec("seed", DataType.long, 0),
    ]
    return ModelSignature(
        inputs=Schema([ColSpec(types[column], column)]),
        outputs=Schema([ColSpec(DataType.string, one) for one in ("caption", "problem")]),
        params=ParamSchema(params),
    )


def _table(column: str, value: Any) -> Any:
    import pandas as pd

    return pd.DataFrame({column: [value]})


def _example(card: AdapterCard, file: Path | None) -> tuple[str, Any]:
    """Name and first cell of the model's column."""
    kind = card.signals.kind
    if kind == "vector":
        return "embedding", [1.0] + [0.0] * (card.input_width - 1)
    if kind in ("text", "molecule"):
        return "text", file.read_text(encoding="utf-8").strip() if file else "CCO"
    return "content", file.read_bytes() if file else _blank(kind)


def _blank(kind: SignalKind) -> bytes:
    """A file that says nothing, so that no sample of the user's is published unasked."""
    stream = io.BytesIO()
    if kind == "image":
        Image.new("RGB", (32, 32)).save(stream, format="PNG")
    elif kind == "audio":
        import soundfile

        soundfile.write(stream, np.zeros(16_000, dtype=np.float32), 16_000, format="WAV")
    elif kind == "series":
        return b"x\n0\n1\n"
    else:
        raise ValueError(f"signals of kind {kind!r} need an input example: add --example FILE")
    return stream.getvalue()
