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

Kind = Literal["trial", "stage"]
"""What a child run is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHandle:
    """Enough to find a run again from another process; picklable."""

    run_id: str
    """MLflow's id."""
    uri: str = field(repr=False)
    """Not shown: the address of a database may hold a password."""
    spill_dir: Path
    """Where metrics go that the store does not take."""


class Tracker(Protocol):
    """One run.  As a context it sets the run's final state: finished, failed, or killed."""

    @property
    def handle(self) -> RunHandle | None:
        """What `attach` needs in a worker; None where nothing is tracked."""

    def stage(self, name: str, params: Mapping[str, object] | None = None) -> AbstractContextManager[Tracker]:
        """A child run.  Enter it only for work that is really done: a skipped stage has no run."""

    def child(
        self, name: str, kind: Kind, params: Mapping[str, object] | None = None, *, key: str | None = None
    ) -> AbstractContextManager[Tracker]:
        """A run below this one; one with a `key` that the store knows is continued, such as a trial's after a crash."""

    def log_params(self, values: Mapping[str, object]) -> None:
        """Nested values, once each; a name that has another value already is an error."""

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Buffered: returns at once, written in the background."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a whole folder under its own name, to the run; `folder` is where it goes inside."""

    def log_table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """A table of equally long columns, shown as such by the user interface; once a name."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Labels to search for."""

    def describe(self, markdown: str) -> None:
        """The text that the run's page opens with, such as the result in a sentence."""

    def flush(self) -> None:
        """Write what is buffered now."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NullTracker:
    """Forgets everything; for `tracking.enabled=false`, tests and every worker but the first."""

    handle: RunHandle | None = None

    def stage(self, name: str, params: Mapping[str, object] | None = None) -> NullTracker:
        """Itself."""
        return self

    def child(
        self, name: str, kind: Kind, params: Mapping[str, object] | None = None, *, key: str | None = None
    ) -> NullTracker:
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

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Does nothing."""

    def describe(self, markdown: str) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
