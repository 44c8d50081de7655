"""Whom to tell of incidents: the coordinator's notify.toml, read once at its start.

    [[exec]]
    argv = ["/usr/local/bin/page", "--team", "virt"]

    [[webhook]]
    url = "https://chat.example.org/hooks/3f9"
    min-level = "ERR"
    codes = ["GROUP_WIDENED", "NODE_LOST"]
    timeout-s = 5

Who can write this file can have programs run as the coordinator, so it must belong to root or to
the coordinator's own user, and be writable to nobody else. Everything in it is checked here: an
error names the field, and nothing is guessed.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vfio_contract.check_codes import CHECK_CODES
from vfio_contract.codes import CLUSTER_CODES

LEVELS = ("ERR", "WARN")

TIMEOUT_S = 10.0
MAX_TIMEOUT_S = 60.0

MAX_TARGETS = 16

MAX_BYTES = 64 * 1024
"""Of the file."""

_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,62}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,30}", re.ASCII)
_COMMON = frozenset({"name", "min-level", "codes", "timeout-s"})
_CODES = CHECK_CODES | {code.name for code in CLUSTER_CODES}
_NEAR = 3


class NotifyConfigError(Exception):
    """One line that names the file, the field and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom to tell, of what: `codes` () for all. `name` is what people see of it: a url may hold a
    secret and is never shown."""

    name: str
    min_level: str
    codes: tuple[str, ...]
    timeout_s: float

    def wants(self, *, level: str, code: str) -> bool:
        """Whether it is to be told of such an incident."""
        return (self.min_level == "WARN" or level == "ERR") and (
            not self.codes or code in self.codes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecTarget(Target):
    """A program, without a shell; it gets the notification as JSON on its standard input."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookTarget(Target):
    """A POST of the notification as JSON. `path` has the query with it."""

    tls: bool
    host: str
    port: int
    path: str


AnyTarget = ExecTarget | WebhookTarget


def read_targets(path: Path) -> tuple[AnyTarget, ...]:
    """What the file says. Raises NotifyConfigError."""
    try:
        content = _read(path).decode()
        targets = _targets(tomllib.loads(content))
        for target in targets:
            _refuse_unknown_codes(target, content)
        return targets
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise NotifyConfigError(f"{path}: {problem}") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (0, os.geteuid()):
            raise ValueError("it belongs to neither root nor the coordinator's user: chown it")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("others may write to it: chmod go-w")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    return content


def _targets(tables: Mapping[str, object]) -> tuple[AnyTarget, ...]:
    unknown = sorted(tables.keys() - {"exec", "webhook"})
    if unknown:
        raise ValueError(f"[[{unknown[0]}]] is not known: write [[exec]] or [[webhook]]")
    found: list[AnyTarget] = []
    for kind in ("exec", "webhook"):
        rows = tables.get(kind, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{kind} is not a list of tables: write [[{kind}]], twice bracketed")
        for number, row in enumerate(rows, 1):
            try:
                found.append(_exec(row, number) if kind == "exec" else _webhook(row, number))
            except ValueError as error:
                raise ValueError(f"[[{kind}]] {number}: {error}") from None
    names = [target.name for target in found]
    if len(found) > MAX_TARGETS:
        raise ValueError(f"{len(found)} targets; at most {MAX_TARGETS}")
    if len(set(names)) < len(names):
        raise ValueError(f"two targets have one name: {' '.join(sorted(names))}")
    return tuple(found)


def _exec(row: Mapping[str, object], number: int) -> ExecTarget:
    _refuse_unknown(row, {"argv"})
    argv = _texts(row, "argv")
    if not argv:
        raise ValueError('argv: missing: give the program and its arguments, ["/path/prog", "arg"]')
    if not argv[0].startswith("/"):
        raise ValueError(f"argv: {argv[0][:80]!r} is no absolute path")
    if any("\0" in word for word in argv):
        raise ValueError("argv: a word holds a NUL")
    if not (os.path.isfile(argv[0]) and os.access(argv[0], os.X_OK)):
        raise ValueError(f"argv: {argv[0][:200]} is no program that can be run")
    return ExecTarget(
        name=_name(row, f"exec-{number}"),
        min_level=_level(row),
        codes=_codes(row),
        timeout_s=_timeout(row),
        argv=argv,
    )


def _webhook(row: Mapping[str, object], number: int) -> WebhookTarget:
    _refuse_unknown(row, {"url"})
    url = row.get("url")
    if not isinstance(url, str) or not url:
        raise ValueError("url: missing: give where to POST to, https://host/path")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ValueError("url: it holds a space or something that is not plain ASCII")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("url: its host or port cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("url: it is no http:// or https:// address")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url: user and password in it are not sent: leave them out")
    query = f"?{parts.query}" if parts.query else ""
    return WebhookTarget(
        name=_name(row, f"webhook-{number}"),
        min_level=_level(row),
        codes=_codes(row),
        timeout_s=_timeout(row),
        tls=parts.scheme == "https",
        host=parts.hostname,
        port=port or (443 if parts.scheme == "https" else 80),
        path=f"{parts.path or '/'}{query}",
    )


def _refuse_unknown(row: Mapping[str, object], own: set[str]) -> None:
    unknown = sorted(row.keys() - _COMMON - own)
    if unknown:
        raise ValueError(f"{unknown[0]}: not known; known are {', '.join(sorted(_COMMON | own))}")


def _texts(row: Mapping[str, object], field: str) -> tuple[str, ...]:
    value = row.get(field, [])
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f'{field}: it is no list of texts, like ["a", "b"]')
    return tuple(value)


def _codes(row: Mapping[str, object]) -> tuple[str, ...]:
    codes = _texts(row, "codes")
    for code in codes:
        if not _CODE.fullmatch(code):
            raise ValueError(f"codes: {code[:40]!r} is no health code, like GROUP_WIDENED")
    if "codes" in row and not codes:
        raise ValueError("codes: it is empty: leave it out for all codes")
    return codes


def _refuse_unknown_codes(target: Target, content: str) -> None:
    """A code that nothing gives would leave people untold without a word."""
    for code in target.codes:
        if code in _CODES:
            continue
        lines = (line.partition("#")[0] for line in content.splitlines())
        at = next((n for n, line in enumerate(lines, 1) if re.search(rf"\b{code}\b", line)), 0)
        near = difflib.get_close_matches(code, sorted(_CODES), n=_NEAR)
        where = f"line {at}: " if at else ""
        hint = f"; near it: {', '.join(near)}" if near else "; docs/checks.md lists them"
        raise ValueError(f"{where}codes: {code} of {target.name} is no code of this version{hint}")


def _level(row: Mapping[str, object]) -> str:
    value = row.get("min-level", "WARN")
    if value not in LEVELS:
        raise ValueError(f"min-level: {str(value)[:40]!r} is none of {', '.join(LEVELS)}")
    return str(value)


def _name(row: Mapping[str, object], usual: str) -> str:
    value = row.get("name", usual)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"name: {str(value)[:40]!r} is not a name like team-chat")
    return value


def _timeout(row: Mapping[str, object]) -> float:
    value = row.get("timeout-s", TIMEOUT_S)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("timeout-s: it is no number of seconds")
    if not 0 < value <= MAX_TIMEOUT_S:
        raise ValueError(f"timeout-s: {value} is not within {MAX_TIMEOUT_S:.0f} seconds")
    return float(value)
