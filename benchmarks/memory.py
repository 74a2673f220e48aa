"""Peak memory of writing and of reading a dataset, at N and at 2N rows.

In: a number of rows.  Out: the peak of a fresh process each, and by how much it grows when the rows double.

Run as a module with the arguments `write|read FOLDER`, this is that process; it prints its own peak.  The writer is
the extraction without Ray and with an encoder that costs nothing; the reader passes over every vector once.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.project import draw_texts, drawn, text_project
from pipeline.config.load import load_config, to_yaml
from pipeline.config.root import project_root
from pipeline.shards import EmbeddingDataset
from pipeline.shards.extraction import extract_locally
from pipeline.shards.vectors import norms, vectors_of

WIDTH = 768
ROWS_PER_SHARD = 1024


def measure(folder: Path, *, rows: int) -> dict[str, Any]:
    """Peaks in MiB and growth in percent."""
    figures: dict[str, Any] = {"rows": rows}
    for what in ("write", "read"):
        peaks = [_peak_mib(what, folder / str(count), count) for count in (rows, 2 * rows)]
        figures[f"{what}_mib"] = peaks
        figures[f"{what}_growth_percent"] = 100 * (peaks[1] / peaks[0] - 1)
    return figures


def _peak_mib(what: str, folder: Path, rows: int) -> float:
    if what == "write":
        config = text_project(folder, draw_texts(rows), drawn(WIDTH), rows_per_shard=ROWS_PER_SHARD)
        (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.memory", what, str(folder)]
    finished = subprocess.run(command, cwd=project_root(), check=True, stdout=subprocess.PIPE, text=True)
    return float(finished.stdout)


def write(folder: Path) -> None:
    """Extract the texts of the folder."""
    config = load_config(file=folder / "config.yaml")
    extract_locally(config, folder, folder / "out", on_progress=lambda *_: None)


def read(folder: Path) -> None:
    """Touch every vector."""
    for table in EmbeddingDataset(folder / "out" / "texts" / "drawn").tables():
        for column in ("embedding", "text_embedding"):
            for vectors_VD in vectors_of(table[column]):
                norms(vectors_VD)


def own_peak_mib() -> float:
    """Largest resident memory of this process; what `getrusage` tells also counts the process it was started by."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, flags=re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
    print(own_peak_mib())
