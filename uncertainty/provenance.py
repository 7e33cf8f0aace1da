"""What made a result: versions of packages, and the commit of the source tree."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Version of each package; None of one that is not installed, such as a source tree that is only on the path."""
    return {name: _version(name) for name in names}


def git_state() -> str | None:
    """The commit of the source tree this package runs from, with ``-dirty`` where it was changed; None if none."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
