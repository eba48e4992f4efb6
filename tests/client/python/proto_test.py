"""The committed protobuf modules belong to the .proto files of this tree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "generate_python_proto.sh"


def protoc_version() -> str:
    if shutil.which("protoc") is None:
        return "none"
    return subprocess.run(["protoc", "--version"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(protoc_version() != "libprotoc 3.21.12", reason="needs Debian 12's protoc")
def test_generated_modules_are_fresh() -> None:
    done = subprocess.run([str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
