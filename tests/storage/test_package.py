import subprocess
import sys
from pathlib import Path

import storage
from storage.catalog.connection import connect
from storage.workspace import Workspace


def test_import_is_light() -> None:
    code = "import storage, sys; print([m for m in ('duckdb', 'pyarrow', 'numpy', 'webdataset') if m in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_storage_exports_connect_and_workspace_alone() -> None:
    assert storage.connect is connect and storage.Workspace is Workspace
    assert not hasattr(storage, "nothing")
