"""Texts in files of their own: tests/golden/texts/<case>.<number>-<stage>.ir."""

from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from syrupy.location import PyTestLocation
from syrupy.types import SnapshotIndex

FOLDER = Path(__file__).parent / "texts"


class StageText(SingleFileSnapshotExtension):
    """One text per file, named by the index of the snapshot. An update removes all else from the folder."""

    _write_mode = WriteMode.TEXT
    file_extension = "ir"

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(FOLDER)

    @classmethod
    def get_snapshot_name(cls, *, test_location: PyTestLocation, index: SnapshotIndex = 0) -> str:
        return str(index)


@pytest.fixture
def golden(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Compares with the file `<name>.ir`: `text == golden(name="mlp.1-clean-up")`."""
    return snapshot.use_extension(StageText)


@pytest.fixture
def golden_folder() -> Path:
    return FOLDER
