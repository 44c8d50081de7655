"""Who gets in and as whom: real gRPC servers, real TLS, certificates made by `pki`.

A refusal is believed only beside its control: the same server serves a good peer, and its handler
saw none of the bad one. BoringSSL judges dates by the real clock, so certificates are of today.

Length: one house, one desk and one bare HTTP/2 client serve every refusal and its control.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vfio_contract.address import NodeName
from vfio_contract.bundle import Bundle, load_bundle
from vfio_coordinator.peer import (
    Doubt,
    NodeIdentity,
    RequireTls13,
    Role,
    Unidentified,
    UserIdentity,
    identify,
    server_credentials,
)
from vfio_coordinator.pki import Authority

NOW = datetime.now(UTC)
DEADLINE_S = 30.0
"""Ends a hung call; no test depends on how long anything takes."""
PVE07 = NodeIdentity(NodeName("pve07"))
Seen = list[object]


@dataclass(frozen=True, slots=True)
class House:
    """An authority with one bundle of each kind."""

    authority: Authority
    server: Bundle
    node: Bundle
    user: Bundle


def make_house(directory: Path, *, now: datetime = NOW) -> House:
    authority = Authority.open_or_create(directory / "pki", now=now)
    return House(
        authority,
        load_bundle(authority.ensure_server(["localhost", "127.0.0.1"])),
        load_bundle(authority.ensure_node_bundle("pve07", directory / "node")),
        load_bundle(authority.ensure_user_bundle("ann", Role.OPERATOR, directory / "ann")),
    )


@pytest.fixture
def house(tmp_path: Path) -> House:
    return make_house(tmp_path / "house")


def issue(
    house: House,
    *names: x509.GeneralName,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
) -> Bundle:
    """A certificate by our authority that `pki` itself would never issue."""
    key = load_pem_private_key(house.node.key, password=None)
    assert isinstance(key, EllipticCurvePrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pve07")]))
        .issuer_name(house.authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(minutes=5))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(house.authority.key, SHA256()).public_bytes(Encoding.PEM)
    return dataclasses.replace(house.node, certificate=certificate)


@dataclass(slots=True)
class Desk:
    """Handlers of all kinds that answer who the caller is, and what they saw."""

    now: datetime | None = None
    seen: Seen = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def name(self, context: Any) -> bytes:
        try:
            caller: object = identify(context, now=self.now)
        except Unidentified as error:
            caller = error.reason
        self.seen.append(caller)
        return str(caller).encode()

    async def unary(self, request: bytes, context: Any) -> bytes:
        return self.name(context)

    async def answers(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield self.name(context)

    async def writes(self, request: bytes, context: Any) -> None:
        await context.write(self.name(context))

    async def asks(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return self.name(context)

    async def talks(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield self.name(context)

    async def waits(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield self.name(context)
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    def threaded(self, request: bytes, context: Any) -> bytes:
        return self.name(context)

    def generic_handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "test.Desk",
            {
                "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
                "Answers": grpc.unary_stream_rpc_method_handler(self.answers),
                "Writes": grpc.unary_stream_rpc_method_handler(self.writes),
                "Asks": grpc.stream_unary_rpc_method_handler(self.asks),
                "Talks": grpc.stream_stream_rpc_method_handler(self.talks),
                "Waits": grpc.unary_stream_rpc_method_handler(self.waits),
                "Threaded": grpc.unary_unary_rpc_method_handler(self.threaded),
            },
        )


@asynccontextmanager
async def serving(desk: Desk, bundle: Bundle | None) -> AsyncIterator[int]:
    """The port of a running server; without a bundle it speaks plain text."""
    server = grpc.aio.server(interceptors=[RequireTls13()])
    server.add_generic_rpc_handlers((desk.generic_handler(),))
    if bundle is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", server_credentials(bundle))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def channel(port: int, bundle: Bundle, *, ca: bytes = b"") -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        ca or bundle.ca, bundle.key or None, bundle.certificate or None
    )
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials)


async def ask(port: int, bundle: Bundle, *, ca: bytes = b"", method: str = "Unary") -> bytes:
    async with channel(port, bundle, ca=ca) as opened:
        line: Any = opened  # without stubs of a service the types of messages are not known
        path = f"/test.Desk/{method}"
        if method in ("Answers", "Writes"):
            replies = line.unary_stream(path)(b"", timeout=DEADLINE_S)
            return b"".join([reply async for reply in replies])
        if method == "Asks":
            return bytes(await line.stream_unary(path)(iter([b""]), timeout=DEADLINE_S))
        if method == "Talks":
            replies = line.stream_stream(path)(iter([b""]), timeout=DEADLINE_S)
            return b"".join([reply async for reply in replies])
        return bytes(await line.unary_unary(path)(b"", timeout=DEADLINE_S))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


METHODS = ["Unary", "Answers", "Writes", "Asks", "Talks"]


@pytest.mark.parametrize("method", METHODS)
def test_nodes_and_users_are_known_by_their_certificates(house: House, method: str) -> None:
    async def test() -> None:
        desk = Desk()
        async with serving(desk, house.server) as port:
            assert await ask(port, house.node, method=method) == b"node:pve07"
            assert await ask(port, house.user, method=method) == b"user:ann"
        assert desk.seen == [PVE07, UserIdentity("ann", Role.OPERATOR)]

    run(test)


def test_the_sync_server_gives_the_same_identity(house: House) -> None:
    desk = Desk()
    handler = grpc.method_handlers_generic_handler(
        "test.Desk", {"Unary": grpc.unary_unary_rpc_method_handler(desk.threaded)}
    )
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, handlers=[handler])
        port = server.add_secure_port("127.0.0.1:0", server_credentials(house.server))
        server.start()
        credentials = grpc.ssl_channel_credentials(
            house.user.ca, house.user.key, house.user.certificate
        )
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as opened:
            line: Any = opened  # without stubs of a service the types of messages are not known
            assert line.unary_unary("/test.Desk/Unary")(b"", timeout=DEADLINE_S) == b"user:ann"
        server.stop(None).wait()
    assert desk.seen == [UserIdentity("ann", Role.OPERATOR)]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), Doubt.NO_IDENTITY),
        ((x509.DNSName("pve07"),), Doubt.NO_IDENTITY),
        # As text this stands among the alternative names just like a URI.
        ((x509.DNSName("vfioctl://node/pve07"),), Doubt.NO_IDENTITY),
        ((x509.UniformResourceIdentifier("https://node/pve07"),), Doubt.BAD_IDENTITY),
        ((x509.UniformResourceIdentifier("vfioctl://user/ann?role=root"),), Doubt.BAD_IDENTITY),
        ((x509.UniformResourceIdentifier("vfioctl://node/pve07\n"),), Doubt.BAD_IDENTITY),
        (
            (
                x509.UniformResourceIdentifier("vfioctl://node/pve07"),
                x509.UniformResourceIdentifier("vfioctl://user/ann?role=admin"),
            ),
            Doubt.SEVERAL_IDENTITIES,
        ),
    ],
)
def test_our_own_certificate_without_one_clear_identity_is_nobody(
    house: House, names: tuple[x509.GeneralName, ...], reason: Doubt
) -> None:
    async def test() -> None:
        desk = Desk()
        async with serving(desk, house.server) as port:
            await ask(port, issue(house, *names))
        assert desk.seen == [reason]

    run(test)


def first_bytes(port: int, house: House, bundle: Bundle | None, directory: Path) -> bytes:
    """What the server says once it has judged the client's certificate; b"" if it hangs up.

    A client of TLS 1.3 is done before that, and grpcio sends no alert: it closes.
    """
    context = client_context(house, bundle, directory)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as line,
        context.wrap_socket(line, server_hostname="localhost") as tls,
    ):
        try:
            return tls.recv(4096)
        except ConnectionResetError:
            return b""


def client_context(house: House, bundle: Bundle | None, directory: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=house.authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    if bundle is not None:
        pem = directory / "client.pem"
        pem.write_bytes(bundle.key + bundle.certificate)
        context.load_cert_chain(pem)
    return context


URI = x509.UniformResourceIdentifier(PVE07.uri)


def no_client(house: House, directory: Path) -> Bundle | None:
    return None


def server_as_client(house: House, directory: Path) -> Bundle | None:
    return house.server


def server_with_a_node_s_name(house: House, directory: Path) -> Bundle | None:
    return issue(house, URI, usage=ExtendedKeyUsageOID.SERVER_AUTH)


def node_of_another_authority(house: House, directory: Path) -> Bundle | None:
    return make_house(directory / "stranger").node


def node_of_tomorrow(house: House, directory: Path) -> Bundle | None:
    ahead = Authority.open_or_create(house.authority.directory, now=NOW + timedelta(days=2))
    return load_bundle(ahead.ensure_node_bundle("pve07", directory / "early"))


@pytest.mark.parametrize(
    "make_bad",
    [
        no_client,
        server_as_client,
        server_with_a_node_s_name,
        node_of_another_authority,
        node_of_tomorrow,
    ],
)
def test_a_wrong_client_certificate_never_reaches_a_handler(
    house: House, tmp_path: Path, make_bad: Callable[[House, Path], Bundle | None]
) -> None:
    bad = make_bad(house, tmp_path)

    async def test() -> None:
        desk = Desk()
        async with serving(desk, house.server) as port:
            await expect_refusal(port, house, bad, tmp_path)
            assert desk.seen == []
            assert await ask(port, house.node) == b"node:pve07"
            # The same form with the right purpose gets in: it is the purpose that was refused.
            assert await ask(port, issue(house, URI)) == b"node:pve07"
            assert await asyncio.to_thread(first_bytes, port, house, house.node, tmp_path) != b""

    run(test)


async def expect_refusal(port: int, house: House, bad: Bundle | None, directory: Path) -> None:
    nobody = Bundle(ca=house.authority.pem, certificate=b"", key=b"", endpoint="")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(port, bad or nobody, ca=house.authority.pem)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.to_thread(first_bytes, port, house, bad, directory) == b""


def test_an_expired_certificate_is_refused_and_its_renewal_gets_in(tmp_path: Path) -> None:
    old = make_house(tmp_path / "house", now=NOW - timedelta(days=100))
    renewed = make_house(tmp_path / "house")
    assert renewed.authority.pem == old.authority.pem
    assert renewed.node.key == old.node.key

    async def test() -> None:
        desk = Desk()
        async with serving(desk, renewed.server) as port:
            await expect_refusal(port, renewed, old.node, tmp_path)
            assert desk.seen == []
            assert await ask(port, renewed.node) == b"node:pve07"

    run(test)


@pytest.mark.parametrize("who", ["node", "user", "stranger", "other name"])
def test_a_client_refuses_what_is_not_its_coordinator(
    house: House, tmp_path: Path, who: str
) -> None:
    wrong, why = {
        "node": (house.node, "CERTIFICATE_VERIFY_FAILED"),
        "user": (house.user, "CERTIFICATE_VERIFY_FAILED"),
        "stranger": (make_house(tmp_path / "stranger").server, "CERTIFICATE_VERIFY_FAILED"),
        "other name": (
            issue(house, x509.DNSName("elsewhere"), usage=ExtendedKeyUsageOID.SERVER_AUTH),
            "127.0.0.1",
        ),
    }[who]

    async def test() -> None:
        desk = Desk()
        async with serving(desk, dataclasses.replace(wrong, ca=house.authority.pem)) as port:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(port, house.node)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert why in str(caught.value.details())
        assert desk.seen == []

    run(test)


def request_over(tls: ssl.SSLSocket, method: str) -> bytes:
    """One gRPC call in bare HTTP/2 (RFC 9113, 7541), because grpcio cannot speak TLS 1.2 only."""

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
        return head + stream.to_bytes(4, "big") + payload

    headers = b"".join(
        literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":path", f"/test.Desk/{method}".encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
    )
    tls.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")  # SETTINGS
        + frame(1, 0x4, 1, headers)  # HEADERS, END_HEADERS
        + frame(0, 0x1, 1, b"\0" * 5)  # DATA, one empty message, END_STREAM
    )
    answer = b""
    with tls.makefile("rb") as reader:
        while True:
            head = reader.read(9)
            assert len(head) == 9, "the server hung up"
            payload = reader.read(int.from_bytes(head[:3], "big"))
            if int.from_bytes(head[5:9], "big") == 1:
                answer += payload
                if head[4] & 0x1:  # END_STREAM
                    return answer


def call_with(
    context: ssl.SSLContext, port: int, *, method: str = "Unary", last: ssl.SSLSession | None = None
) -> tuple[bytes, ssl.SSLSession | None, bool]:
    """The answer as it came, the TLS session, and whether that was a resumed one."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as line,
        context.wrap_socket(line, server_hostname="localhost", session=last) as tls,
    ):
        answer = request_over(tls, method)
        return answer, tls.session, bool(tls.session_reused)


def context_of(version: ssl.TLSVersion, house: House, directory: Path) -> ssl.SSLContext:
    context = client_context(house, house.node, directory)
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("method", METHODS)
def test_tls_1_2_is_refused_before_the_handler(house: House, tmp_path: Path, method: str) -> None:
    async def test() -> None:
        desk = Desk()
        async with serving(desk, house.server) as port:
            old = context_of(ssl.TLSVersion.TLSv1_2, house, tmp_path)
            answer, _, _ = await asyncio.to_thread(call_with, old, port, method=method)
            assert b"grpc-status\x0216" in answer
            assert b"TLSv1.3 is required; this connection uses TLSv1.2" in answer
            assert desk.seen == []
            new = context_of(ssl.TLSVersion.TLSv1_3, house, tmp_path)
            answer, _, _ = await asyncio.to_thread(call_with, new, port, method=method)
            assert b"node:pve07" in answer
            assert desk.seen == [PVE07]

    run(test)


def test_without_the_interceptor_identify_itself_refuses_tls_1_2(
    house: House, tmp_path: Path
) -> None:
    async def test() -> None:
        desk = Desk()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((desk.generic_handler(),))
        port = server.add_secure_port("127.0.0.1:0", server_credentials(house.server))
        await server.start()
        old = context_of(ssl.TLSVersion.TLSv1_2, house, tmp_path)
        await asyncio.to_thread(call_with, old, port)
        await server.stop(None)
        assert desk.seen == [Doubt.OLD_TLS]

    run(test)


def test_a_plain_port_serves_nobody(house: House) -> None:
    async def test() -> None:
        desk = Desk()
        async with (
            serving(desk, None) as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened,
        ):
            line: Any = opened
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await line.unary_unary("/test.Desk/Unary")(b"", timeout=DEADLINE_S)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert caught.value.details() == "TLSv1.3 is required; this connection uses no TLS"
        assert desk.seen == []

    run(test)


def test_a_resumed_session_keeps_its_identity_but_not_past_its_dates(
    house: House, tmp_path: Path
) -> None:
    async def test() -> None:
        desk = Desk(now=NOW)
        async with serving(desk, house.server) as port:
            context, session = context_of(ssl.TLSVersion.TLSv1_3, house, tmp_path), None
            for days, resumed in ((0, False), (89, True), (91, True)):
                desk.now = NOW + timedelta(days=days)
                _, session, was_resumed = await asyncio.to_thread(
                    call_with, context, port, last=session
                )
                assert was_resumed is resumed
        assert desk.seen == [PVE07, PVE07, Doubt.NOT_VALID_NOW]

    run(test)


def test_a_handler_on_a_thread_is_refused_because_it_cannot_be_guarded(house: House) -> None:
    async def test() -> None:
        desk = Desk()
        async with serving(desk, house.server) as port:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(port, house.node, method="Threaded")
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(port, house.node, method="Absent")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert desk.seen == []

    run(test)


def test_a_cancelled_stream_runs_the_handler_s_clean_up(house: House) -> None:
    async def test() -> None:
        desk = Desk()
        async with serving(desk, house.server) as port, channel(port, house.node) as opened:
            line: Any = opened
            call = line.unary_stream("/test.Desk/Waits")(b"", timeout=DEADLINE_S)
            assert await call.read() == b"node:pve07"
            assert not desk.closed.is_set()
            call.cancel()
            await asyncio.wait_for(desk.closed.wait(), DEADLINE_S)

    run(test)
