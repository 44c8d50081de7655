"""Files that commands write for people to keep: whole or not at all, readable by their owner."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vfio_cli.exits import FAILURE, Mistake, Stop
from vfio_cli.output import FORMATS


def check_target(target: str | None) -> None:
    """Mistake when `-o` of a command that writes a file was given a form (`json`) instead."""
    if target in FORMATS:
        raise Mistake(
            f"-o {target}: here -o takes a file, and this is the name of a form: "
            f"-o ./{target} writes a file of that name"
        )


def write_atomically(path: Path, data: bytes) -> None:
    """All of it or what was there before; readable by its owner, as evidence names machines.

    Stop when the file cannot be written, or when the path is a device, a pipe or a directory,
    which would be replaced.
    """
    try:
        if path.exists() and not path.is_file():
            raise Stop(f"{path} cannot be written: it is no regular file", status=FAILURE)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise Stop(f"{path} cannot be written: {error.strerror}", status=FAILURE) from error
