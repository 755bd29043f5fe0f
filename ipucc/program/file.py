"""Program files (`.ipux`): a stored zip of JSON and arrays, see docs/program.md."""

from ipucc.program.file_read import load_program
from ipucc.program.file_write import FORMAT, VERSION, save_program

__all__ = ["FORMAT", "VERSION", "load_program", "save_program"]
