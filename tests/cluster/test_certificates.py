"""Certificates that are renewed while the coordinator runs, seen by whoever connects.

The library judges dates by the real clock, so what is issued here began in the past.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.cluster.agents import Agent, Cluster, nic_host
from tests.cluster.users import DEADLINE_S, User
from vfio_contract.bundle import load_bundle
from vfio_contract.codes import CERT_NOT_RENEWED
from vfio_contract.views import HealthItem
from vfio_coordinator import certificates
from vfio_coordinator.bootstrap import Settings
from vfio_coordinator.state.events import Tick

NODE = "pve07"
HOUR = timedelta(hours=1)
LIFE = timedelta(days=90)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks again and again."""
    monkeypatch.setattr(certificates, "LOOK_S", 0.01)


@asynccontextmanager
async def nearly_due(state: Path) -> AsyncIterator[Cluster]:
    """A coordinator all of whose certificates are to be renewed within the hour."""
    cluster = Cluster(state)
    cluster.settings = Settings(state, "127.0.0.1:0", nodes=(NODE, "pve08"))
    cluster.clock.wall -= LIFE * 2 / 3 + timedelta(days=1)
    async with cluster:
        pass
    cluster.clock.wall += LIFE * 2 / 3 - HOUR
    async with cluster:
        yield cluster


async def shown(cluster: Cluster) -> x509.Certificate:
    """What a new connection is shown."""

    def look() -> bytes:
        ours = cluster.directory / "nodes" / NODE
        context = ssl.create_default_context(cafile=ours / "ca.pem")
        context.load_cert_chain(ours / "cert.pem", ours / "key.pem")
        host, _, port = cluster.serving.endpoint.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=DEADLINE_S) as line,
            context.wrap_socket(line, server_hostname=host) as tls,
        ):
            found = tls.getpeercert(binary_form=True)
        assert found is not None
        return found

    return x509.load_der_x509_certificate(await asyncio.to_thread(look))


async def until_renewed(cluster: Cluster, old: x509.Certificate) -> x509.Certificate:
    async with asyncio.timeout(DEADLINE_S):
        while (found := await shown(cluster)) == old:
            continue
    return found


async def troubles(cluster: Cluster, admin: User) -> list[HealthItem]:
    """What health says of it now."""
    cluster.serving.runtime.feed(Tick())
    return [item for item in (await admin.status()).items if item.code == CERT_NOT_RENEWED.name]


async def until_trouble(cluster: Cluster, admin: User, words: str) -> HealthItem:
    """Health's line of it, once it has these words."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            for item in await troubles(cluster, admin):
                if words in item.text:
                    return item


async def until_over(cluster: Cluster, admin: User) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await troubles(cluster, admin):
            continue


async def told(admin: User, *, rows: int) -> list[str]:
    """What the event log says of it, once there are so many rows: they come after their commit."""
    async with asyncio.timeout(DEADLINE_S):
        while len(found := await admin.until_event(CERT_NOT_RENEWED.name)) < rows:
            continue
    return [row.text for row in found]


def on_disk(cluster: Cluster, where: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((cluster.directory / where / "cert.pem").read_bytes())


async def test_a_running_coordinator_renews_and_its_sessions_live_on(state: Path) -> None:
    async with nearly_due(state) as cluster:
        bundle = load_bundle(state / "nodes" / NODE)
        agent = Agent(NODE, await cluster.channel(bundle), nic_host(), 1)
        await agent.join()
        old, old_node = await shown(cluster), on_disk(cluster, f"nodes/{NODE}")

        cluster.clock.go_on(2 * HOUR)
        new = await until_renewed(cluster, old)

        assert new == on_disk(cluster, "ca/server")
        assert new.public_key() == old.public_key()
        assert new.not_valid_after_utc - old.not_valid_after_utc > timedelta(days=60)
        await agent.observe()  # on the stream from before
        assert on_disk(cluster, f"nodes/{NODE}") != old_node
        renewed = load_bundle(state / "nodes" / NODE)
        await Agent(NODE, await cluster.channel(renewed), nic_host(), 1).join()
        events = await (await cluster.admin()).events()
        assert CERT_NOT_RENEWED.name not in {row.code for row in events}


async def test_a_renewal_that_fails_is_shown_and_tried_again(state: Path) -> None:
    async with nearly_due(state) as cluster:
        admin = await cluster.admin()
        old = await shown(cluster)
        own = state / "ca" / "server"
        own.chmod(0o777)
        cluster.clock.go_on(2 * HOUR)
        item = await until_trouble(cluster, admin, "the coordinator's own, which ends ")
        assert (item.level, item.scope) == ("WARN", "cluster")
        assert f"{old.not_valid_after_utc:%Y-%m-%d}: {own} is open to others" in item.text
        assert await shown(cluster) == old

        own.chmod(0o700)
        assert await until_renewed(cluster, old) == on_disk(cluster, "ca/server")
        await until_over(cluster, admin)
        assert await told(admin, rows=2) == [item.text, "over: every certificate is renewed"]


async def test_one_node_s_trouble_keeps_no_other_certificate_old(state: Path) -> None:
    async with nearly_due(state) as cluster:
        old, old_other = await shown(cluster), on_disk(cluster, "nodes/pve08")
        (state / "nodes" / NODE).chmod(0o777)
        cluster.clock.go_on(2 * HOUR)
        item = await until_trouble(cluster, await cluster.admin(), f"node {NODE}: ")
        assert "more" not in item.text
        assert await until_renewed(cluster, old)
        assert on_disk(cluster, "nodes/pve08") != old_other


async def test_a_clock_that_jumped_renews_nothing(state: Path) -> None:
    async with nearly_due(state) as cluster:
        old = await shown(cluster)
        cluster.clock.wall += 2 * HOUR
        (state / "ca" / "authority.pem").rename(state / "aside")
        # a look after the jump
        item = await until_trouble(cluster, await cluster.admin(), "all: ")
        assert "authority.pem is missing" in item.text
        assert not (state / "ca" / "authority.pem").exists()
        (state / "aside").rename(state / "ca" / "authority.pem")
        await until_over(cluster, await cluster.admin())
        assert await shown(cluster) == old
        cluster.clock.wall -= 2 * HOUR
        cluster.clock.go_on(2 * HOUR)
        await until_renewed(cluster, old)
