"""Where the files are that are not Python: beside the package in a checkout, inside it once it is
installed.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(folder: str, package: Path = _PACKAGE) -> Path:
    """The folder `lua` or `sql`."""
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder
