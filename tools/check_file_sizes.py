"""Hold every module to 400 lines, unless its docstring says why it is longer.

A reason is a docstring line that starts with `Length:`. Generated stubs are exempt. This
judges length only; it must never rewrite a file.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("proto", "agent", "coordinator", "cli", "tools", "tests")
LIMIT_LINES = 400
GENERATED_SUFFIXES = ("_pb2.py", "_pb2_grpc.py")


def find_modules(root: Path) -> Iterator[Path]:
    """Yield the hand-written modules below the source folders, sorted."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            if not path.name.endswith(GENERATED_SUFFIXES):
                yield path


def judge(source: str) -> str | None:
    """Return why this module is too long, or None. Raises SyntaxError on what is no Python."""
    lines = source.count("\n")
    if lines <= LIMIT_LINES:
        return None
    docstring = ast.get_docstring(ast.parse(source)) or ""
    for line in docstring.splitlines():
        label, colon, reason = line.partition(":")
        if label == "Length" and colon and reason.strip():
            return None
    return f"{lines} lines, limit {LIMIT_LINES}: split it, or say why in a `Length:` line"


def main() -> int:
    """Print each module that is too long; return 1 if there is one, else 0."""
    count = failures = 0
    for path in find_modules(ROOT):
        count += 1
        complaint = judge(path.read_text(encoding="utf-8"))
        if complaint is not None:
            failures += 1
            print(f"{path.relative_to(ROOT)}: {complaint}", file=sys.stderr)
    print(f"file sizes: {count} modules, {failures} too long")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
