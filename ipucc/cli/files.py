"""What kind of file the user named."""

from pathlib import Path

__all__ = ["is_program"]


def is_program(path: str) -> bool:
    """Whether a file is a program: by its name, else by its first bytes."""
    if Path(path).suffix == ".ipux":
        return True
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False
