"""Store the losses of the `smoke` preset: `python -m tests.golden.store`, when a change is meant to change them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).with_name("smoke_losses.json")


def main() -> None:
    """Run the smoke demo in this machine's Python and keep its training losses."""
    with tempfile.TemporaryDirectory() as runs:
        subprocess.run(
            [sys.executable, "-m", "jobs.demo", "--preset", "smoke", "--set", f"runs_dir={runs}"], check=True
        )
        losses = {
            stage: [
                json.loads(line)["loss"]
                for line in (Path(runs) / "smoke" / stage / "metrics.jsonl").read_text().splitlines()
            ]
            for stage in ("pretrain_projector", "meta_train")
        }
    GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    main()
