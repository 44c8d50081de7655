"""Certificates that the coordinator keeps and could not renew: shown, and written down once.

Nothing here renews; the process looks again by itself, and says so each time.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.codes import CERT_NOT_RENEWED
from vfio_coordinator.state.events import CertificatesSeen
from vfio_coordinator.state.turn import Turn

_OVER = "over: every certificate is renewed"
_MAX_TEXT = 300


def follow_certificates(turn: Turn, event: CertificatesSeen) -> None:
    """One row of the event log when trouble begins, and one when it is over."""
    trouble = event.trouble[:_MAX_TEXT]
    if bool(trouble) != bool(turn.state.cert_trouble):
        name = CERT_NOT_RENEWED.name
        turn.note("cluster", name, trouble or _OVER, f"auto:{name}")
    turn.state = replace(turn.state, cert_trouble=trouble)
