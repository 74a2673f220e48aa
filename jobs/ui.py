"""Show the tracked runs in a browser: MLflow's user interface, for this machine only.

In: the runs' folder of a configuration and `--port`.  Out: a server at http://127.0.0.1:PORT until Ctrl-C.
"""

from __future__ import annotations

import os

from jobs._cli import config_from, console, job_parser, run_job
from pipeline.config.root import project_root
from pipeline.tracking.ui import UI_ENVIRONMENT, ui_address, ui_command


def main() -> None:
    """Check that there is something to show, then become the server."""
    parser = job_parser(__doc__)
    parser.add_argument("--port", type=int, default=5000, help="port of the page (default: 5000)")
    args = parser.parse_args()
    config = config_from(args)
    if config.tracking.uri is not None:
        raise ValueError("tracking.uri is set: this run is tracked elsewhere; open the page of that server")
    runs_dir = project_root() / config.runs_dir
    command = ui_command(runs_dir, args.port)
    address = ui_address(runs_dir, config.tracking.experiment, args.port)
    console.print(f"in about 15 s at {address}\nCtrl-C ends it", soft_wrap=True)
    os.execve(command[0], command, os.environ | UI_ENVIRONMENT)  # Ctrl-C then reaches the server itself


if __name__ == "__main__":
    run_job(main)
