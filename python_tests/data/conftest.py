"""The developers' data files: ``C2F_DATA``, else ``../shared/data`` beside the repository."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("C2F_DATA", default))
    if not (folder / "cub200_taxonomy.csv").is_file():
        pytest.skip(f"no data files at {folder} (set C2F_DATA)")
    return folder
