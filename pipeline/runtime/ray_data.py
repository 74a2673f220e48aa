"""Embedding extraction on Ray Data: decode in tasks, encode in a pool of actors, write shards.

In: a configuration.  Out: the same datasets, byte for byte, that `pipeline.shards.extract_locally` writes.

One pipeline carries the shards of all modalities and encoders: one row is one shard, from its plan through its decoded
samples to its file, so neither retries nor block sizes can change what is in it.  The output folder must be shared
between the cluster's nodes.
"""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from pipeline.config.root import project_root
from pipeline.config.schema import ExperimentConfig
from pipeline.runtime.capacity import bundle, fitting, scaled_up
from pipeline.runtime.session import Session, ray_session
from pipeline.runtime.shared import own_root, require_shared
from pipeline.shards.extraction import (
    Extraction,
    Manifests,
    OnProgress,
    ShardBuilder,
    ShardTask,
    extract_locally,
)
from pipeline.shards.plan import DatasetPlan
from pipeline.shards.transport import from_cell, pack, to_cell, unpack
from pipeline.shards.writer import Shard

MAX_ATTEMPTS = 3
MAX_DECODED_BYTES = 2**30
_ATTEMPTS_FOLDER = ".attempts"
_TASK = TypeAdapter(ShardTask)
_SHARD = TypeAdapter(Shard)
_RESULT = pa.schema(
    [("dataset", pa.int64()), ("encoder", pa.int64()), ("shard", pa.large_string()), ("error", pa.string())]
)


def extract(
    config: ExperimentConfig, root: Path, out_dir: Path, *, on_progress: OnProgress, verbose: bool = False
) -> Manifests:
    """Extract every (dataset, encoder) to `<out_dir>/<dataset>/<encoder>/`; what is already there is kept."""
    if config.runtime.engine == "local":
        return extract_locally(config, root, out_dir, on_progress=on_progress)
    extraction = Extraction(config, root, out_dir, on_progress)
    attempts = out_dir / _ATTEMPTS_FOLDER
    shutil.rmtree(attempts, ignore_errors=True)  # of a killed run, which may have left no task
    if extraction.tasks:
        plans = tuple(replace(plan, specs=()) for plan in extraction.plans)  # a task carries its own
        device = "cuda" if config.extract.gpus_per_actor else "cpu"
        work = _Work(config=config, root=root, plans=plans, device=device, attempts=attempts)
        with (
            ray_session(config.runtime, root=project_root(), verbose=verbose) as session,
            _attempts_folder(work.attempts),
        ):
            options = config.extract
            actor = bundle(cpus=options.cpus_per_actor, gpus=options.gpus_per_actor)
            session = scaled_up(session, config.runtime, [bundle(cpus=1.0), *[actor] * options.actors])
            require_shared(out_dir)
            _run(extraction, work, session, verbose)
    return extraction.manifests()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What every worker process needs to know."""

    config: ExperimentConfig
    root: Path
    plans: tuple[DatasetPlan, ...]
    device: str
    attempts: Path


def _run(extraction: Extraction, work: _Work, session: Session, verbose: bool) -> None:
    import ray.data

    # What a worker raises reaches the caller as an exception; Ray would also print it.
    logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    options = work.config.extract
    decode_cpus = min(1.0, session.cpus / 2)
    actors = fitting(
        options.actors,
        session=session,
        cpus=options.cpus_per_actor,
        gpus=options.gpus_per_actor,
        spare_cpus=decode_cpus,
    )
    rows = [{"task": _TASK.dump_json(task).decode()} for task in extraction.tasks]
    shards = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map_batches(
            _decode,
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs={"work": work},
            num_cpus=decode_cpus,
        )
        .map_batches(
            _Encoder,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(work,),
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
            num_cpus=options.cpus_per_actor,
            num_gpus=options.gpus_per_actor or None,
        )
    )
    for row in shards.iter_rows():
        if row["error"] is not None:
            raise ValueError(row["error"])
        extraction.add(row["dataset"], row["encoder"], _SHARD.validate_json(row["shard"]))


def _decode(batch: pa.Table, *, work: _Work) -> pa.Table:
    task = _TASK.validate_json(batch["task"][0].as_py())
    content, error = pa.py_buffer(b""), None
    try:
        with _attempt("decode", task, work):
            content = pack(_builder(work).decode(task))
        _check_size(content, task, work)
    except (ValueError, OSError) as raised:
        error = _reported(raised)
    return batch.append_column("decoded", to_cell(content)).append_column("error", pa.array([error], type=pa.string()))


class _Encoder:
    """An actor: keeps its models loaded."""

    def __init__(self, work: _Work) -> None:
        import torch

        torch.set_num_threads(work.config.runtime.threads_per_worker)
        self._work = work
        self._builder = _builder(work)

    def __call__(self, batch: pa.Table) -> pa.Table:
        task = _TASK.validate_json(batch["task"][0].as_py())
        error = batch["error"][0].as_py()
        rows: list[dict[str, Any]] = []
        if error is None:
            try:
                with _attempt("encode", task, self._work):
                    for position, shard in self._builder.encode(task, unpack(from_cell(batch["decoded"]))):
                        rows.append({"encoder": position, "shard": _SHARD.dump_json(shard).decode()})
            except (ValueError, OSError) as raised:
                error = _reported(raised)
        if error is not None:
            rows.append({"error": error})
        return pa.Table.from_pylist([{"dataset": task.dataset, **row} for row in rows], schema=_RESULT)


def _check_size(content: pa.Buffer, task: ShardTask, work: _Work) -> None:
    """A decoded shard lies in memory several times on its way; one beyond the limit would push out all others."""
    if content.size > MAX_DECODED_BYTES:
        rows = task.spec.stop - task.spec.start
        raise ValueError(
            f"dataset {work.plans[task.dataset].config.name!r}: {rows} rows decode to {content.size / 2**20:,.0f} MiB, "
            f"the limit is {MAX_DECODED_BYTES / 2**20:,.0f}: set extract.rows_per_shard to at most "
            f"{rows * MAX_DECODED_BYTES // content.size}"
        )


def _reported(error: Exception) -> str:
    """What the user can mend travels as text: Ray's way of carrying an exception loses its cause."""
    traceback.print_exc()  # into the worker's log, which `verbose` shows
    return str(error) or type(error).__name__


@lru_cache(maxsize=1)
def _builder(work: _Work) -> ShardBuilder:
    """One a process: Ray unpickles `work` for every task, but tables and models should be opened once."""
    return ShardBuilder(work.config, own_root(work.root), work.plans, work.device)


@contextmanager
def _attempts_folder(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _attempt(stage: str, task: ShardTask, work: _Work) -> Iterator[None]:
    """Give up on a shard that ends its process again and again: Ray alone would restart it for ever.

    The marker outlives the process; only an end by exception or success removes it.
    """
    marker = work.attempts / f"{stage}-{task.dataset}-{task.spec.index}"
    with marker.open("ab") as file:
        file.write(b".")
        attempts = file.tell()
    try:
        if attempts > MAX_ATTEMPTS:
            dataset = work.plans[task.dataset].config
            raise ValueError(
                f"dataset {dataset.name!r}: the process that has to {stage} rows {task.spec.start} to "
                f"{task.spec.stop - 1} of {dataset.source.path} died {MAX_ATTEMPTS} times (out of memory, or a crash "
                f"in a library): lower extract.rows_per_shard or extract.actors, or take the row out; finished "
                f"shards are kept"
            )
        yield
    finally:
        marker.unlink(missing_ok=True)
