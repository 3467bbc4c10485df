"""The oldest FastAPI that the extra allows requires, documents and audits the same scopes as the newest."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
STARLETTE = "starlette<0.51"  # what it was released with
FILES = ["test_security_scopes.py", "test_fastapi.py", "test_openapi.py", "audit/test_audit.py"]


def oldest():
    """The version that the extra names."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    (wanted,) = project["optional-dependencies"]["fastapi"]
    return wanted.removeprefix("fastapi>=")


@pytest.mark.slow
def test_scopes_with_the_oldest_fastapi(tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path]
    subprocess.run([*pip, f"fastapi=={oldest()}", STARLETTE], check=True, timeout=120)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(HERE / name for name in FILES)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
