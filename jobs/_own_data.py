"""Own data on the command line of `jobs.integrate`: what is given, and what can be told from its name.

In: `--data` and the options beside it.  Out: an `OwnData`, and the configuration with the options put in.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import TypeAdapter, ValidationError

from jobs._run import CONFIG_FILE
from pipeline.config.errors import explain
from pipeline.config.load import override
from pipeline.config.root import project_root
from pipeline.config.schema import (
    BUDGETS,
    AdapterMethod,
    DatasetConfig,
    EncoderConfig,
    ExperimentConfig,
    SignalKind,
    SourceConfig,
)
from pipeline.config.source import SourceKind
from pipeline.data.sample import Sample
from pipeline.data.sources import open_source
from pipeline.shards import load_manifest

if TYPE_CHECKING:
    from pipeline.runtime.own_data import OwnData

_TABLES: dict[str, SourceKind] = {
    ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet", ".tar": "webdataset",
}  # fmt: skip
_COLUMNS = {"vector": "embedding", "text": "text", "molecule": "smiles"}
"""Where the signals of a kind stand in a table; those of the others are files, named by the column `file`."""
_MANIFEST = "manifest.json"
_RUNS_DIR = str(next(entry.default for entry in fields(ExperimentConfig) if entry.name == "runs_dir"))


def add_own_data(parser: argparse.ArgumentParser) -> None:
    """The options of own data; all but `--data` need it."""
    group = parser.add_argument_group("own data", "a modality that no configuration names; --name tells the run")
    group.add_argument("--data", metavar="PATH", help="table (CSV, JSONL, Parquet), folder, tars, or finished shards")
    group.add_argument("--modality", metavar="NAME", help="what to call it (default: the table's or folder's name)")
    group.add_argument("--kind", help=f"what its signals are: {', '.join(get_args(SignalKind))}")
    group.add_argument("--encoder", metavar="MODEL", help="folder or Hugging Face id of the encoder (vectors: none)")
    group.add_argument("--source-kind", help=f"if the name does not tell: {', '.join(get_args(SourceKind))}")
    group.add_argument("--payload-field", metavar="COLUMN", help="column with the signal or its file")
    group.add_argument("--caption-field", metavar="COLUMN", help="column with the caption (default: caption)")
    group.add_argument("--id-field", metavar="COLUMN", help="column with a unique id (default: id)")
    group.add_argument("--instruction", help="what conditions the hypernetwork (default: `describe the MODALITY`)")
    group.add_argument("--shots", type=int, help="pairs to integrate from (default: all)")
    group.add_argument("--draw", type=int, default=0, help="number of the draw where --shots leaves some out")
    group.add_argument(
        "--method", choices=get_args(AdapterMethod), help="what makes the adapter (default: semi; see docs/own_data.md)"
    )
    group.add_argument("--finetune-steps", type=int, help="steps on the pairs (default: the run's; 0: none)")
    group.add_argument("--chunk", type=int, help="pairs that the hypernetwork reads at once (default: the run's)")
    group.add_argument("--license", default="unspecified", help="licence that the card names")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder of the adapter (default: below the run)")
    group.add_argument("--register", metavar="MODEL", help="also register it in MLflow under this name")


def with_configuration_of_run(args: argparse.Namespace) -> None:
    """A run is known by its name: unless the command says otherwise, its configuration is the one saved with it."""
    if args.name is None or args.preset is not None or args.config is not None:
        return
    folders = [text.partition("=")[2] for text in args.overrides if text.startswith("runs_dir=")]
    saved = project_root() / (folders[-1] if folders else _RUNS_DIR) / args.name / CONFIG_FILE
    if saved.is_file():
        args.config = saved


def with_options(config: ExperimentConfig, args: argparse.Namespace) -> ExperimentConfig:
    """The configuration with `--finetune-steps`, of the method that is asked for, and `--chunk`."""
    method: AdapterMethod = args.method or "semi"
    if args.chunk is not None and method != "semi":
        raise ValueError(f"--chunk: only --method semi reads pairs in chunks, got {method!r}: leave one of them out")
    values = {f"{BUDGETS[method]}.steps": args.finetune_steps, "integrate.chunk": args.chunk}
    return override(config, {key: value for key, value in values.items() if value is not None})


def own_data(args: argparse.Namespace, config: ExperimentConfig, root: Path) -> OwnData:
    """What the options describe; raises where one is missing or does not fit."""
    # Not above: torch takes seconds, and `--help` needs none.
    from pipeline.runtime.own_data import OwnData

    if args.draw < 0:
        raise ValueError(f"--draw must be 0 or more, got {args.draw}")
    path = Path(args.data)
    shards = path if (path / _MANIFEST).is_file() else None
    dataset = _of_shards(args, config, path) if shards else _of_source(args, root)
    return OwnData(
        dataset=dataset,
        shards=shards,
        shots=args.shots,
        draw=args.draw,
        method=args.method or "semi",
        license=args.license,
        out=args.out,
    )


def _of_source(args: argparse.Namespace, root: Path) -> DatasetConfig:
    kind = _kind(args)
    source_kind = args.source_kind or _source_kind(args.data, kind)
    source: dict[str, Any] = {"kind": source_kind, "path": str(args.data)}
    for field in ("payload_field", "caption_field", "id_field"):
        if (value := getattr(args, field)) is not None:
            source[field] = value
    if source_kind not in ("directory", "webdataset"):
        source.setdefault("payload_field", _COLUMNS.get(kind, "file"))
        if kind in ("text", "molecule"):
            source["payload"] = "inline"
        elif source_kind == "hf_dataset" or (source_kind == "parquet" and _holds_bytes(args.data, source, root)):
            source["payload"] = "bytes"
    name = args.modality or _name_of(args.data)
    encoder = _encoder(args, kind, source, root)
    return _dataset(name, kind, source, encoder, args.instruction)


def _of_shards(args: argparse.Namespace, config: ExperimentConfig, path: Path) -> DatasetConfig:
    manifest = load_manifest(path)
    known = [
        encoder
        for dataset in config.datasets
        for encoder in dataset.encoders
        if (encoder.name, encoder.path) == (manifest.encoder.name, manifest.encoder.id)
    ]
    encoder: dict[str, Any] = {
        "name": manifest.encoder.name,
        "path": args.encoder or manifest.encoder.id,
        "revision": manifest.encoder.revision,
    }
    if manifest.kind == "vector":
        encoder["width"] = manifest.width
    source = {"kind": "embeddings" if manifest.kind == "vector" else "directory", "path": str(path)}
    name = args.modality or manifest.dataset
    return _dataset(name, manifest.kind, source, known[0] if known else encoder, args.instruction)


def _dataset(
    name: str, kind: str, source: dict[str, Any], encoder: dict[str, Any] | EncoderConfig, instruction: str | None
) -> DatasetConfig:
    try:
        return TypeAdapter(DatasetConfig).validate_python(
            {
                "name": name,
                "kind": kind,
                "role": "held_out",
                "source": source,
                "encoders": (encoder,),
                "instruction": instruction or f"describe the {name}",
            }
        )
    except ValidationError as error:
        raise ValueError(f"--data: {explain(error, DatasetConfig)}") from None


def _kind(args: argparse.Namespace) -> SignalKind:
    kinds = get_args(SignalKind)
    if args.kind not in kinds:
        given = "is missing" if args.kind is None else f"is {args.kind!r}"
        raise ValueError(f"--kind {given}: say what the signals are, one of {', '.join(kinds)}")
    kind: SignalKind = args.kind
    return kind


def _source_kind(data: str, kind: SignalKind) -> SourceKind:
    path = Path(data)
    suffix = path.suffix.lower()
    if kind == "vector":
        return "embeddings"
    if suffix in _TABLES:
        return _TABLES[suffix]
    if path.is_dir():
        return "webdataset" if any(path.glob("*.tar")) else "directory"
    if "://" not in data and not path.exists():
        raise ValueError(f"--data {data}: no such file or folder")
    raise ValueError(f"--data {data}: its name tells no format: add --source-kind {'|'.join(get_args(SourceKind))}")


def _name_of(data: str) -> str:
    name = Path(data.rstrip("/")).name.partition(".")[0]
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in name).strip("-")


def _holds_bytes(data: str, source: dict[str, Any], root: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = root / data
    if "://" in data or not path.is_file():
        return False
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return False  # the source says what is wrong with it
    field = source["payload_field"]
    return field in schema.names and not pa.types.is_string(schema.field(field).type)


def _encoder(args: argparse.Namespace, kind: SignalKind, source: dict[str, Any], root: Path) -> dict[str, Any]:
    if kind != "vector":
        if args.encoder is None:
            raise ValueError(f"--encoder is missing: name the model that embeds signals of kind {kind!r}")
        return {"name": _name_of(args.encoder), "path": args.encoder}
    if args.encoder is not None:
        raise ValueError(f"--encoder {args.encoder!r}: ready vectors need none: remove it, or give another --kind")
    return {"name": "precomputed", "path": "precomputed", "width": _width(source, root)}


def _width(source: dict[str, Any], root: Path) -> int:
    """Length of the first vector that can be read."""
    rows = open_source(SourceConfig(**source), root)
    for row in rows.read(0, len(rows)):
        if isinstance(row, Sample) and isinstance(row.payload, list) and row.payload:
            return len(row.payload)
    raise ValueError(f"--data {rows.name}: no row holds a vector in {source['payload_field']!r} beside a caption")
