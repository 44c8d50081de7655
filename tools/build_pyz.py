"""Build dist/vfioctl.pyz: `vfioctl check` and all that needs no coordinator, as one program file.

For a host where nobody installs anything: any Python >= 3.11 runs it, without venv or network. It
holds the sources of the project and of the pure-Python packages they stand on, with their licences,
as they are installed beside this program; never compiled code. A module that needs anything else
(gRPC, protobuf) when it is imported is left out, and so is whatever needs that module. The same
sources give the same bytes: entries sorted, times fixed (SOURCE_DATE_EPOCH, else 1980).
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import os
import sys
import time
import tomllib
import zipfile
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
SHEBANG = b"#!/usr/bin/env python3\n"

PACKAGES = {"vfio_contract": "proto", "vfio_agent": "agent", "vfio_cli": "cli"}
"""Our own packages and the source roots they are in."""

VENDORED = {
    "click": "click",
    "Jinja2": "jinja2",
    "MarkupSafe": "markupsafe",
    "PyYAML": "yaml",
    "tabulate": "tabulate",
}
"""Distribution and the one package of it that is taken. All work without their compiled parts."""

NEEDS_INSTALL = ("vfio_agent.session", "vfio_cli.commands.run", "vfio_cli.supervisor")
"""They run the daemons, which are not in the file; no import of theirs tells."""

EPOCH_1980 = 315_532_800
"""Seconds; a zip knows no earlier time (PKWARE APPNOTE 4.4.6)."""

MAIN = """\
# An older Python must be able to parse this file: it is told what it lacks in one line.
import sys

if sys.version_info < ({major}, {minor}):
    sys.stderr.write(
        "vfioctl: this file needs Python {major}.{minor} or newer, and this is Python %d.%d\\n"
        % sys.version_info[:2]
    )
    sys.exit(3)

from vfio_cli.main import main

main()
"""

METADATA = """\
Metadata-Version: 2.4
Name: {name}
Version: {version}
Summary: {description}
License-Expression: {license}
License-File: LICENSE
Requires-Python: {requires-python}
"""

Files = dict[str, bytes]
"""Path in the zip -> content."""


class BuildError(Exception):
    """What cannot go into the file, and why."""


def gather_files() -> Files:
    """All that goes into the zip. BuildError when a module would need what is not in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    files = {**read_own_packages(), **read_vendored()}
    info = f"{project['name']}-{project['version']}.dist-info"
    files[f"{info}/METADATA"] = METADATA.format(**project).encode()
    files[f"{info}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    major, _, minor = str(project["requires-python"]).removeprefix(">=").partition(".")
    files["__main__.py"] = MAIN.format(major=int(major), minor=int(minor)).encode()
    return files


def read_own_packages() -> Files:
    """Our modules that need nothing that is not in the file, and the data files beside them."""
    files: Files = {}
    for package, source_root in PACKAGES.items():
        top = ROOT / source_root
        for path in sorted((top / package).rglob("*")):
            inside = path.relative_to(top)
            if path.is_file() and not _is_left_behind(inside):
                files[inside.as_posix()] = path.read_bytes()
    modules = {
        module_name(path): ast.parse(data, path)
        for path, data in files.items()
        if path.endswith(".py")
    }
    out = find_left_out(modules)
    _require_self_contained({name: tree for name, tree in modules.items() if name not in out})
    return {p: d for p, d in files.items() if not (p.endswith(".py") and module_name(p) in out)}


def _is_left_behind(path: Path) -> bool:
    return "__pycache__" in path.parts or path.name.startswith(".") or path.suffix == ".pyc"


def module_name(path: str) -> str:
    """`a/b/__init__.py` is `a.b`, `a/b.py` is `a.b`."""
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_left_out(modules: Mapping[str, ast.Module]) -> set[str]:
    """Modules whose import needs what is not in the file, directly or through another."""
    out: set[str] = set()
    needs = {name: set(_imports(tree, deep=False)) for name, tree in modules.items()}
    while True:
        more = {
            name
            for name in modules
            if name not in out
            and (
                _is_below(name, NEEDS_INSTALL)
                or _is_below(name, out)
                or any(_is_foreign(n) or _is_below(n, out) for n in needs[name])
            )
        }
        if not more:
            return out
        out |= more


def _is_below(name: str, tops: Collection[str]) -> bool:
    """True when importing `name` imports one of these."""
    parts = name.split(".")
    return any(".".join(parts[:n]) in tops for n in range(1, len(parts) + 1))


def _is_foreign(name: str) -> bool:
    top = name.partition(".")[0]
    known = top in sys.stdlib_module_names or top in PACKAGES or top in VENDORED.values()
    return not known


def _imports(tree: ast.AST, *, deep: bool) -> Iterator[str]:
    """Dotted names that are imported; what is inside functions only when `deep`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise BuildError(f"line {node.lineno}: a relative import cannot be followed")
            # `from a import b` may be the module a.b; where it is none, a.b is harmless
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            continue
        elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(node, deep=deep)


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _require_self_contained(modules: Mapping[str, ast.Module]) -> None:
    """Also inside functions nothing foreign; what is ours and left out, the CLI answers for."""
    for name, tree in modules.items():
        foreign = sorted({n for n in _imports(tree, deep=True) if _is_foreign(n)})
        if foreign:
            raise BuildError(f"{name} imports {', '.join(foreign)} inside a function")


def read_vendored() -> Files:
    """The sources of the packages that ours stand on, with metadata and licences."""
    files: Files = {}
    for name, package in VENDORED.items():
        for entry in distribution(name).files or ():
            path = PurePosixPath(entry.as_posix())
            source = path.parts[0] == package and path.suffix == ".py"
            info = path.parts[0].endswith(".dist-info")
            if source or (info and (path.name == "METADATA" or "licenses" in path.parts)):
                files[str(path)] = entry.read_binary()
        licences = [p for p in files if p.lower().startswith(f"{name.lower()}-") and "/lic" in p]
        if f"{package}/__init__.py" not in files or not licences:
            raise BuildError(f"{name}: its sources or its licence are not installed here")
    return files


def pack(files: Mapping[str, bytes], *, seconds: int) -> bytes:
    """The executable zip; `seconds` since 1970 (UTC) is the time of every entry."""
    moment = time.gmtime(max(seconds, EPOCH_1980))[:6]
    buffer = io.BytesIO()
    buffer.write(SHEBANG)  # before the zip is opened: its offsets then count from here
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, moment)
            entry.create_system = 3  # Unix, wherever this runs
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, files[name])
    return buffer.getvalue()


def write_executable(path: Path, data: bytes) -> None:
    """All of it or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(data)
        new.chmod(0o755)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def main() -> int:
    """Build and say what came out; 1 with one line when it cannot be built."""
    parser = argparse.ArgumentParser(description="Build the one-file vfioctl.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "vfioctl.pyz")
    output: Path = parser.parse_args().output
    try:
        files = gather_files()
    except BuildError as error:
        print(f"build_pyz: {error}", file=sys.stderr)
        return 1
    data = pack(files, seconds=int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH_1980))
    write_executable(output, data)
    print(f"{output}  {len(data)} bytes  sha256 {hashlib.sha256(data).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
