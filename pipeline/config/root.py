"""Where the project lies.

In: nothing but this file's place and the current directory.  Out: the root that every relative path of a
configuration starts from, or a `ValueError` where the job was launched from elsewhere.
"""

from __future__ import annotations

from pathlib import Path


def project_root() -> Path:
    """Folder that holds the `pipeline` package in use (a checkout, or the unpacked working directory of a Ray job)."""
    return Path(__file__).resolve().parents[2]


def require_checkout() -> Path:
    """The project's root, after checking that it is also the current directory.

    `pipeline` and `jobs` are never installed, so an import that came from another place is another version of the code.
    """
    root = project_root()
    here = Path.cwd().resolve()
    if here != root:
        raise ValueError(
            f"`pipeline` was imported from {root}, but the current directory is {here}: "
            f"run `python -m jobs.<name>` from the root of the checkout that you mean"
        )
    return root
