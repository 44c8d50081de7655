"""The certificates that a coordinator keeps: made at its start, renewed while it runs.

    <state>/ca/server      its own; the next handshake shows the new one
    <state>/users/admin    the admin's
    <state>/nodes/<name>   those of the nodes that were named at the start; an agent that reads its
                           bundle there has the new one from its next session on, and to any other
                           host a person carries it

What has lived two thirds of its life is renewed, by the time that is believed (docs/adr/019); what
cannot be is told, and tried again with the next look. While the coordinator runs nothing here may
make an authority, make again a bundle that somebody took away, or end the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from vfio_contract.bundle import (
    CERTIFICATE_FILE,
    KEY_FILE,
    Bundle,
    BundleError,
    load_bundle,
    validity,
)
from vfio_coordinator.clock import Clock, wall_time
from vfio_coordinator.peer import Role
from vfio_coordinator.pki import Authority
from vfio_coordinator.state.events import CertificatesSeen

log = logging.getLogger("vfio-coordinator")

ADMIN = "admin"

LOOK_S = 3_600.0
"""Between two looks. A certificate has 30 days left when it is first to be renewed."""

_Ensure = Callable[[Authority], Path]


class Certificates:
    """`bundle` is the coordinator's own, as it was last issued. Lives on one event loop."""

    def __init__(
        self, state: Path, *, names: Sequence[str], nodes: Sequence[str], now: datetime
    ) -> None:
        """Opens or makes the authority under `state` and its bundle for `names`: BundleError."""
        self._state = state
        self._names = names
        self._nodes = nodes
        self._authority = Authority.open_or_create(state / "ca", now=now)
        self.bundle = load_bundle(self._authority.ensure_server(names))
        self._news: Bundle | None = None

    @property
    def until(self) -> datetime:
        """When the coordinator's own ends."""
        return validity(self.bundle.certificate).not_after

    def make_bundles(self, endpoint: str) -> None:
        """The admin's bundle and one for each node that was named. Raises BundleError."""
        for _, _, ensure in self._others(endpoint):
            ensure(self._authority)

    def news(self) -> Bundle | None:
        """A renewed bundle, once; None while there is none. From any thread."""
        news, self._news = self._news, None
        return news

    async def keep(self, clock: Clock, tell: Callable[[CertificatesSeen], None]) -> None:
        """Look again and again until cancelled, and tell what came of it."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = wall_time(clock)
            try:
                # A look that is cancelled goes on in its thread: what it writes are whole files.
                renewed, troubles = await asyncio.to_thread(self._renew, now)
            except Exception:
                log.exception("the look at the certificates failed")
                tell(CertificatesSeen(trouble="the look at them failed; the log says where"))
                continue
            if renewed != self.bundle:
                self.bundle = self._news = renewed
                log.info("certificate renewed; it holds until %s", f"{self.until:%Y-%m-%d}")
            for trouble in troubles:
                log.warning("not renewed: %s", trouble)
            more = f" and {len(troubles) - 1} more" if len(troubles) > 1 else ""
            tell(CertificatesSeen(trouble=f"{troubles[0]}{more}" if troubles else ""))

    def _renew(self, now: datetime) -> tuple[Bundle, list[str]]:
        """The coordinator's bundle as it is now, and whose could not be renewed and why."""
        try:
            authority = self._authority.at(now)
        except (BundleError, OSError) as error:
            return self.bundle, [f"all: {error}"]
        bundle, troubles = self.bundle, []
        try:
            bundle = load_bundle(authority.ensure_server(self._names))
        except (BundleError, OSError) as error:
            troubles.append(f"the coordinator's own, which ends {self.until:%Y-%m-%d}: {error}")
        for whose, directory, ensure in self._others(""):
            if not _is_kept(directory):
                continue
            try:
                ensure(authority)
            except (BundleError, OSError) as error:
                troubles.append(f"{whose}: {error}")
        return bundle, troubles

    def _others(self, endpoint: str) -> Iterator[tuple[str, Path, _Ensure]]:
        """(whose, where, what makes or renews it); `endpoint` "" keeps what the bundle says."""
        directory = self._state / "users" / ADMIN
        yield (
            f"user {ADMIN}",
            directory,
            partial(
                Authority.ensure_user_bundle,
                name=ADMIN,
                role=Role.ADMIN,
                directory=directory,
                endpoint=endpoint,
            ),
        )
        for name in self._nodes:
            directory = self._state / "nodes" / name
            yield (
                f"node {name}",
                directory,
                partial(
                    Authority.ensure_node_bundle, name=name, directory=directory, endpoint=endpoint
                ),
            )


def _is_kept(directory: Path) -> bool:
    return all(os.path.lexists(directory / name) for name in (CERTIFICATE_FILE, KEY_FILE))
