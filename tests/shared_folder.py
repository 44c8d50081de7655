"""Where the neighbouring folder of real captures is, if this machine has it.

Tests that need it carry the marker `shared` and take the fixture of that name; this function
is for what must be known while tests are collected. It must never make the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def locate_shared() -> Path | None:
    """Return `$VFIOCTL_SHARED`, else `../shared` beside the checkout; None if it is no folder."""
    named = os.environ.get("VFIOCTL_SHARED")
    folder = Path(named) if named else CHECKOUT.parent / "shared"
    return folder.resolve() if folder.is_dir() else None
