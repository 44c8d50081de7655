"""Make the Python stubs that are committed beside `proto/vfioctl/v1/*.proto`.

Proto path and import path are the same (`vfioctl.v1`), so what protoc writes is right as it
is: this file must never edit generated text. `--check` generates into a temporary folder and
compares names and bytes with what is committed, left-over files included.
"""

from __future__ import annotations

import argparse
import importlib.resources
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

SOURCE_ROOT = Path(__file__).resolve().parent.parent / "proto"
PACKAGE = "vfioctl/v1"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(target: Path) -> dict[str, bytes]:
    """Run protoc for every proto file of the package; return file name -> content.

    `target` is the root that receives `vfioctl/v1/...`. No proto files give no stubs. Raises
    `subprocess.CalledProcessError` where protoc refuses a file; its message is on stderr.
    """
    protos = sorted(f"{PACKAGE}/{path.name}" for path in (SOURCE_ROOT / PACKAGE).glob("*.proto"))
    if not protos:
        return {}
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={SOURCE_ROOT}",
        f"--proto_path={well_known}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        # Not protoc's own --pyi_out: that leaves services and oneofs untyped.
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
        *protos,
    ]
    # protoc finds the plugin on PATH, and this environment need not be activated.
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    return read_stubs(target)


def read_stubs(root: Path) -> dict[str, bytes]:
    """Return name -> content of the generated files below `root`."""
    folder = root / PACKAGE
    return {path.name: path.read_bytes() for pattern in GENERATED for path in folder.glob(pattern)}


def compare(*, committed: Mapping[str, bytes], fresh: Mapping[str, bytes]) -> list[str]:
    """Return one line for each difference, sorted by file name."""
    lines = []
    for name in sorted(committed.keys() | fresh.keys()):
        if name not in fresh:
            lines.append(f"{name}: left over, no .proto makes it")
        elif name not in committed:
            lines.append(f"{name}: missing")
        elif committed[name] != fresh[name]:
            lines.append(f"{name}: differs")
    return lines


def check() -> int:
    """Print every difference to the committed stubs; return 0 if there is none, else 1."""
    committed = read_stubs(SOURCE_ROOT)
    with tempfile.TemporaryDirectory() as folder:
        differences = compare(committed=committed, fresh=generate(Path(folder)))
    for line in differences:
        print(f"proto/{PACKAGE}/{line}", file=sys.stderr)
    if differences:
        print("the committed stubs are stale: run `make proto`", file=sys.stderr)
        return 1
    print(f"stubs: {len(committed)} files, as generated")
    return 0


def write() -> int:
    """Replace the committed stubs by fresh ones, and remove those left over."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
    target = SOURCE_ROOT / PACKAGE
    for name in read_stubs(SOURCE_ROOT).keys() - fresh.keys():
        (target / name).unlink()
    for name, content in fresh.items():
        (target / name).write_bytes(content)
    print(f"stubs: {len(fresh)} files written")
    return 0


def main() -> int:
    """Return the exit status: 0 done or equal, 1 stale, protoc's own where it refuses."""
    parser = argparse.ArgumentParser(description="generate or check the committed stubs")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    try:
        return check() if arguments.check else write()
    except subprocess.CalledProcessError as error:
        return error.returncode


if __name__ == "__main__":
    sys.exit(main())
