"""The models that ipucc is developed with: a folder of ONNX files that is no part of the repository."""

import os
from pathlib import Path

VARIABLE = "IPUCC_MODELS"
ROOT = Path(__file__).resolve().parents[1]


def model_folders() -> list[Path]:
    """Where the folder may be: IPUCC_MODELS, or else shared/models beside the checkout, and beside the repository that
    a worktree belongs to."""
    named = os.environ.get(VARIABLE, "")
    if named:
        return [Path(named)]
    checkouts = [ROOT]
    link = ROOT / ".git"
    if link.is_file():
        # A worktree: the file names .git/worktrees/NAME of its repository.
        held = Path(link.read_text(encoding="utf-8").removeprefix("gitdir:").strip())
        checkouts.append((ROOT / held).parents[2])
    return [checkout.parent / "shared" / "models" for checkout in checkouts]


def model_folder() -> Path | None:
    """The folder of models, None where there is none."""
    return next((folder for folder in model_folders() if folder.is_dir()), None)


def why_none() -> str:
    """What to say where there is no folder of models."""
    looked = ", ".join(map(str, model_folders()))
    return f"no folder of models ({looked}); {VARIABLE} may name one"
