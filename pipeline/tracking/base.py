"""What a job may tell a tracker, and the tracker that listens to nothing.

In: params, metrics over steps, artifacts, tables.  Out: nothing; a tracker never decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

Kind = Literal["run", "sweep", "trial", "stage"]
"""A run's place in the tree: a pipeline run or a sweep at the top, trials below a sweep, stages below either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHandle:
    """Enough to find a run again from another process; picklable."""

    key: str
    """What the run is found by, in the store too."""
    name: str
    """What people read."""
    uri: str = field(repr=False)
    """Not shown: the address of a database may hold a password."""
    experiment: str
    """MLflow experiment."""
    spool_dir: Path
    """Where records wait for the store."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Handed down to children."""


_STOPPED = (None, 0, 130, 143)
"""Exit codes of a run that was told to stop: Ray answers Ctrl-C with 0; 128 + signal."""


def final_status(error: BaseException | None) -> str:
    """MLflow's word for how a run ended."""
    if error is None:
        return "FINISHED"
    stopped = isinstance(error, SystemExit) and error.code in _STOPPED
    return "KILLED" if stopped or isinstance(error, KeyboardInterrupt | GeneratorExit) else "FAILED"


class Tracker(Protocol):
    """One run.  As a context it sets the run's final state: finished, failed, or killed."""

    @property
    def handle(self) -> RunHandle | None:
        """What `attach` needs in a worker; None where nothing is tracked."""

    @property
    def run_id(self) -> str | None:
        """MLflow's id, once the store knows the run; None before, and where nothing is tracked."""

    def child(
        self,
        name: str,
        kind: Kind,
        params: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[Tracker]:
        """A run below this one.  Enter it only for work that is really done.

        `name` is what people read.  `key` (a trial's id) makes it the same run at every attempt below the same parent:
        a retry goes on in it, in this process or another, and a run without one is new each time.  A stage that has
        FINISHED is not continued: doing it again is a new run.  With other `params` it is a new run too.
        """

    def stage(
        self, name: str, params: Mapping[str, object] | None = None, *, key: str | None = None
    ) -> AbstractContextManager[Tracker]:
        """A child of kind `stage`, which also records what the machine does."""

    def log_params(self, values: Mapping[str, object]) -> None:
        """Nested values, once each; a name that has another value already is an error."""

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Returns within microseconds; written in the background, and not lost while the store is away."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a whole folder under its own name, to the run; `folder` is where it goes inside."""

    def log_table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """A table of equally long columns, shown as such by the user interface; once a name."""

    def log_dataset(
        self, name: str, *, digest: str, source: str, context: str, profile: Mapping[str, object] | None = None
    ) -> None:
        """An input of the run: `digest` names its content, `context` what it was used for (training, evaluation)."""

    def log_model(self, name: str, path: Path, *, kind: str, params: Mapping[str, object] | None = None) -> None:
        """A file or folder of weights, as a model that is linked to the run; once a name."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Labels to search for."""

    def describe(self, markdown: str) -> None:
        """The text that the run's page opens with, such as the result in a sentence."""

    def log_view(self, name: str, kind: Kind, *, params: Sequence[str], metrics: Sequence[str]) -> str:
        """Save a view of this run's children of that kind, with these columns, the best of the first metric on top.

        Returns its address within the store's pages, for `describe`; empty where nothing is tracked.
        """

    def flush(self) -> None:
        """Write what is buffered now."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NullTracker:
    """Forgets everything; for `tracking.enabled=false`, tests and every worker but the first."""

    handle: RunHandle | None = None
    run_id: str | None = None

    def child(
        self,
        name: str,
        kind: Kind,
        params: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> NullTracker:
        """Itself."""
        return self

    def stage(self, name: str, params: Mapping[str, object] | None = None, *, key: str | None = None) -> NullTracker:
        """Itself."""
        return self

    def log_params(self, values: Mapping[str, object]) -> None:
        """Does nothing."""

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Does nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Does nothing."""

    def log_table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Does nothing."""

    def log_dataset(
        self, name: str, *, digest: str, source: str, context: str, profile: Mapping[str, object] | None = None
    ) -> None:
        """Does nothing."""

    def log_model(self, name: str, path: Path, *, kind: str, params: Mapping[str, object] | None = None) -> None:
        """Does nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Does nothing."""

    def describe(self, markdown: str) -> None:
        """Does nothing."""

    def log_view(self, name: str, kind: Kind, *, params: Sequence[str], metrics: Sequence[str]) -> str:
        """Nothing to open."""
        return ""

    def flush(self) -> None:
        """Does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
