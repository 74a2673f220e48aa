"""Take over a checkpoint of the paper's public code: its projector, and its hypernetwork where it holds one.

In: a `.pt` file of the reference code.  Out: a folder laid out like a run (`pretrain_projector/weights.safetensors`,
`meta_train/weights.safetensors`), the configuration that fits it, and `import.json`: what was found in the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from jobs._cli import config_from, console, job_parser, run_job
from pipeline.config.artifacts import write_text_atomic
from pipeline.config.fingerprint import file_sha256


def import_checkpoint(path: Path, out: Path, *, alpha_over_rank: float, heads: int) -> dict[str, Any]:
    """Convert the file and write the folder; returns the report."""
    from safetensors.torch import save_file

    from pipeline.models.reference import read_reference

    checkpoint = read_reference(path, alpha_over_rank=alpha_over_rank, heads=heads)
    states = {"pretrain_projector": checkpoint.projector}
    if checkpoint.hypernet is not None:
        states["meta_train"] = {f"projector.{name}": value for name, value in checkpoint.projector.items()} | {
            f"hypernet.{name}": value for name, value in checkpoint.hypernet.items()
        }
    for stage, state in states.items():
        (out / stage).mkdir(parents=True, exist_ok=True)
        scratch = out / stage / "weights.tmp"
        save_file({name: value.contiguous() for name, value in state.items()}, scratch)
        scratch.replace(out / stage / "weights.safetensors")
    report = {"file": str(path), "sha256": file_sha256(path), "alpha_over_rank": alpha_over_rank, **checkpoint.found}
    config = {"preset": "paper_llama1b", **checkpoint.settings}
    write_text_atomic(out / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write_text_atomic(out / "import.json", json.dumps(report, indent=1) + "\n")
    return report


def main() -> None:
    """Entry point."""
    parser = job_parser(__doc__)
    parser.add_argument("file", type=Path, help="checkpoint of the reference code")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--alpha-over-rank", type=float, default=1.0, help="scale it was trained with (paper: 1)")
    parser.add_argument("--heads", type=int, default=1, help="attention heads it was trained with (paper: 1)")
    args = parser.parse_args()
    config_from(args)
    report = import_checkpoint(args.file, args.out, alpha_over_rank=args.alpha_over_rank, heads=args.heads)
    table = Table("entry", "shape", title=f"{report['kind']} checkpoint, step {report['step']}")
    for name, shape in report["shapes"].items():
        table.add_row(name, " x ".join(map(str, shape)))
    console.print(table)
    console.print(f"written to {args.out}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_job(main)
