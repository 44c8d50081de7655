"""Certificates, bundles and identities on disk, at a given time; TLS itself is in tests/cluster.

Length: what `pki` writes, `bundle` reads and `peer` parses; each is tested on the others' work.
"""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from vfio_contract.address import NodeName
from vfio_contract.bundle import Bundle, BundleError, load_bundle, parse_endpoint, validity
from vfio_coordinator.peer import (
    Doubt,
    NodeIdentity,
    Role,
    Unidentified,
    UserIdentity,
    may,
    parse_identity,
)
from vfio_coordinator.pki import Authority, AuthorityError

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def read_certificate(directory: Path, name: str = "cert.pem") -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / name).read_bytes())


def names_of(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in extension.value]


def usage_of(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open_or_create(tmp_path / "pki", now=NOW)


@pytest.fixture
def node(tmp_path: Path, authority: Authority) -> Path:
    return authority.ensure_node_bundle("pve07", tmp_path / "node", endpoint="co1:7443")


class TestAuthority:
    def test_is_a_p256_root_of_ten_years(self, authority: Authority) -> None:
        certificate = authority.certificate
        assert isinstance(authority.key.curve, SECP256R1)
        assert certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
        assert timedelta(days=3650) <= certificate.not_valid_after_utc - NOW < timedelta(days=3660)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert constraints.value == x509.BasicConstraints(ca=True, path_length=1)
        certificate.verify_directly_issued_by(certificate)

    def test_keeps_its_key_to_itself(self, authority: Authority) -> None:
        assert mode_of(authority.directory) == 0o700
        assert mode_of(authority.directory / "authority.pem") == 0o600
        assert b"PRIVATE" not in (authority.directory / "ca.pem").read_bytes()
        assert "key=" not in repr(authority)

    def test_is_the_same_when_opened_again(self, authority: Authority) -> None:
        again = Authority.open_or_create(authority.directory, now=NOW + 300 * DAY)
        assert again.pem == authority.pem == (authority.directory / "ca.pem").read_bytes()

    def test_two_are_told_apart_by_subject(self, tmp_path: Path, authority: Authority) -> None:
        other = Authority.open_or_create(tmp_path / "other", now=NOW)
        assert other.certificate.subject != authority.certificate.subject

    def test_opened_by_many_at_once_is_made_once(self, tmp_path: Path) -> None:
        made: list[bytes] = []

        def open_it() -> None:
            made.append(Authority.open_or_create(tmp_path / "pki", now=NOW).pem)

        threads = [threading.Thread(target=open_it) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 6
        assert len(set(made)) == 1

    def test_a_naive_time_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="aware"):
            Authority.open_or_create(tmp_path, now=NOW.replace(tzinfo=None))

    @pytest.mark.parametrize("kept", [0, 1, 100, 240, 300, 800])
    def test_a_half_written_file_is_named_with_the_fix(
        self, authority: Authority, kept: int
    ) -> None:
        path = authority.directory / "authority.pem"
        cut = path.read_bytes()[:kept]
        path.write_bytes(cut)
        with pytest.raises(AuthorityError, match=r"authority\.pem is damaged") as caught:
            Authority.open_or_create(authority.directory, now=NOW)
        assert "restore it from a backup" in caught.value.fix
        assert path.read_bytes() == cut

    def test_another_authority_s_key_is_damage(self, tmp_path: Path, authority: Authority) -> None:
        other = Authority.open_or_create(tmp_path / "other", now=NOW)
        mixed = (other.directory / "authority.pem").read_bytes().partition(b"-----BEGIN CERT")[0]
        (authority.directory / "authority.pem").write_bytes(mixed + authority.pem)
        with pytest.raises(AuthorityError, match="key and certificate are no authority"):
            Authority.open_or_create(authority.directory, now=NOW)

    def test_a_leaf_is_no_authority(self, authority: Authority, node: Path) -> None:
        leaf = (node / "key.pem").read_bytes() + (node / "cert.pem").read_bytes()
        (authority.directory / "authority.pem").write_bytes(leaf)
        with pytest.raises(AuthorityError, match="are no authority"):
            Authority.open_or_create(authority.directory, now=NOW)

    def test_a_key_that_others_can_read_is_refused(self, authority: Authority) -> None:
        path = authority.directory / "authority.pem"
        path.chmod(0o640)
        with pytest.raises(AuthorityError, match=r"readable by others \(mode 0640\).*chmod 600"):
            Authority.open_or_create(authority.directory, now=NOW)

    def test_an_open_directory_is_refused_not_narrowed(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        with pytest.raises(BundleError, match=r"open to others \(mode 0755\): chmod 700"):
            Authority.open_or_create(tmp_path, now=NOW)
        assert mode_of(tmp_path) == 0o755
        assert list(tmp_path.iterdir()) == []

    def test_a_lost_key_is_not_replaced(self, authority: Authority) -> None:
        (authority.directory / "authority.pem").unlink()
        with pytest.raises(AuthorityError, match=r"is missing, but ca.pem tells"):
            Authority.open_or_create(authority.directory, now=NOW)
        assert not (authority.directory / "authority.pem").exists()

    def test_a_foreign_public_copy_is_refused(self, tmp_path: Path, authority: Authority) -> None:
        other = Authority.open_or_create(tmp_path / "other", now=NOW)
        (authority.directory / "ca.pem").write_bytes(other.pem)
        with pytest.raises(AuthorityError, match=r"ca.pem is not the certificate in authority.pem"):
            Authority.open_or_create(authority.directory, now=NOW)

    @pytest.mark.parametrize(
        ("now", "message"),
        [
            (datetime(1970, 1, 1, tzinfo=UTC), "not valid before 2026-03-01T11:55:00Z: set this"),
            (NOW + 3700 * DAY, "expired on 2036-"),
        ],
    )
    def test_out_of_its_time_it_says_so(
        self, authority: Authority, now: datetime, message: str
    ) -> None:
        with pytest.raises(AuthorityError, match=message):
            Authority.open_or_create(authority.directory, now=now)

    def test_the_same_authority_at_a_later_moment(self, authority: Authority, node: Path) -> None:
        before = read_certificate(node)
        later = authority.at(NOW + 61 * DAY)
        assert later.pem == authority.pem
        later.ensure_node_bundle("pve07", node)
        assert read_certificate(node) != before

    def test_at_a_later_moment_it_must_still_be_the_one_on_disk(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        path = authority.directory / "authority.pem"
        with pytest.raises(ValueError, match="aware"):
            authority.at(NOW.replace(tzinfo=None))
        with pytest.raises(AuthorityError, match=r"authority\.pem expired on"):
            authority.at(NOW + 3653 * DAY)
        other = Authority.open_or_create(tmp_path / "other", now=NOW)
        path.write_bytes((other.directory / "authority.pem").read_bytes())
        with pytest.raises(AuthorityError, match="is not the authority of this start"):
            authority.at(NOW)
        path.unlink()
        with pytest.raises(AuthorityError, match=r"authority\.pem is missing: restore it"):
            authority.at(NOW)
        assert not path.exists()


class TestLeaves:
    def test_a_node_is_named_in_a_uri_and_is_a_client_only(self, node: Path) -> None:
        certificate = read_certificate(node)
        assert names_of(certificate) == ["vfioctl://node/pve07"]
        assert usage_of(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        assert certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
        assert certificate.not_valid_after_utc == NOW + 90 * DAY
        assert mode_of(node / "key.pem") == 0o600
        assert mode_of(node) == 0o700

    def test_a_user_carries_the_role(self, tmp_path: Path, authority: Authority) -> None:
        certificate = read_certificate(
            authority.ensure_user_bundle("ann", Role.OPERATOR, tmp_path / "ann")
        )
        assert names_of(certificate) == ["vfioctl://user/ann?role=operator"]
        assert usage_of(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]

    def test_a_server_answers_to_names_and_addresses_only(self, authority: Authority) -> None:
        certificate = read_certificate(
            authority.ensure_server(["Co1.example", "127.0.0.1", "::1", "co1.example"])
        )
        assert names_of(certificate) == ["co1.example", "127.0.0.1", "::1"]
        assert usage_of(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]

    @pytest.mark.parametrize(
        "name", ["", "a b", "co1:7443", "[::1]", "fe80::1%eth0", "10.0.0.256", "-a", "a..b", "*.x"]
    )
    def test_a_name_no_server_can_have_is_refused(self, authority: Authority, name: str) -> None:
        with pytest.raises(AuthorityError, match="cannot answer to"):
            authority.ensure_server([name])

    def test_a_server_needs_a_name(self, authority: Authority) -> None:
        with pytest.raises(AuthorityError, match="no name to answer to"):
            authority.ensure_server([])
        with pytest.raises(TypeError):
            authority.ensure_server("localhost")

    @pytest.mark.parametrize("name", ["", "PVE07", "-x", "a/b", "a?role=admin", "a" * 64, "a\n"])
    def test_a_bad_name_gets_nothing(self, tmp_path: Path, authority: Authority, name: str) -> None:
        with pytest.raises(ValueError, match="is not a valid name"):
            authority.ensure_node_bundle(name, tmp_path / "x")
        with pytest.raises(ValueError, match="is not a valid name"):
            authority.ensure_user_bundle(name, Role.VIEWER, tmp_path / "x")
        assert not (tmp_path / "x").exists()

    def test_the_longest_name_fits(self, tmp_path: Path, authority: Authority) -> None:
        authority.ensure_node_bundle("a" * 63, tmp_path / "x")
        assert names_of(read_certificate(tmp_path / "x")) == [f"vfioctl://node/{'a' * 63}"]

    def test_repeating_changes_nothing(self, authority: Authority, node: Path) -> None:
        before = {path.name: path.read_bytes() for path in node.iterdir()}
        later = Authority.open_or_create(authority.directory, now=NOW + 59 * DAY)
        later.ensure_node_bundle("pve07", node)
        assert {path.name: path.read_bytes() for path in node.iterdir()} == before

    @pytest.mark.parametrize("days", [60, 89, 91, 3640])
    def test_two_thirds_of_a_life_renew_the_certificate_and_keep_the_key(
        self, authority: Authority, node: Path, days: int
    ) -> None:
        key, serial = (node / "key.pem").read_bytes(), read_certificate(node).serial_number
        now = NOW + days * DAY
        Authority.open_or_create(authority.directory, now=now).ensure_node_bundle("pve07", node)
        renewed = read_certificate(node)
        assert (node / "key.pem").read_bytes() == key
        assert renewed.serial_number != serial
        assert renewed.not_valid_after_utc == min(
            now + 90 * DAY, authority.certificate.not_valid_after_utc
        )
        assert load_bundle(node, now=now).endpoint == "co1:7443"

    def test_a_clock_that_went_back_renews(self, tmp_path: Path, authority: Authority) -> None:
        later = Authority.open_or_create(authority.directory, now=NOW + 30 * DAY)
        later.ensure_node_bundle("pve07", tmp_path / "node")
        authority.ensure_node_bundle("pve07", tmp_path / "node")
        assert load_bundle(tmp_path / "node", now=NOW)

    def test_changed_names_and_roles_are_issued_anew(
        self, tmp_path: Path, authority: Authority
    ) -> None:
        authority.ensure_server(["co1"])
        assert names_of(read_certificate(authority.ensure_server(["co2"]))) == ["co2"]
        ann = authority.ensure_user_bundle("ann", Role.ADMIN, tmp_path / "ann")
        authority.ensure_user_bundle("ann", Role.VIEWER, ann)
        assert names_of(read_certificate(ann)) == ["vfioctl://user/ann?role=viewer"]

    def test_a_bundle_is_never_given_to_another(
        self, tmp_path: Path, authority: Authority, node: Path
    ) -> None:
        before = (node / "cert.pem").read_bytes()
        with pytest.raises(AuthorityError, match="holds the bundle of vfioctl://node/pve07"):
            authority.ensure_node_bundle("pve08", node)
        with pytest.raises(AuthorityError, match="holds the bundle of vfioctl://node/pve07"):
            authority.ensure_user_bundle("pve07", Role.ADMIN, node)
        other = Authority.open_or_create(tmp_path / "other", now=NOW)
        with pytest.raises(AuthorityError, match="holds a bundle of another authority"):
            other.ensure_node_bundle("pve07", node)
        assert (node / "cert.pem").read_bytes() == before

    @pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem"])
    @pytest.mark.parametrize("content", [None, b"", b"-----BEGIN "])
    def test_a_damaged_bundle_is_made_whole(
        self, authority: Authority, node: Path, name: str, content: bytes | None
    ) -> None:
        if content is None:
            (node / name).unlink()
        else:
            (node / name).write_bytes(content)
        authority.ensure_node_bundle("pve07", node)
        assert load_bundle(node, now=NOW).ca == authority.pem

    def test_another_bundle_s_key_is_not_shared(
        self, tmp_path: Path, authority: Authority, node: Path
    ) -> None:
        other = authority.ensure_node_bundle("pve08", tmp_path / "other")
        (node / "key.pem").write_bytes((other / "key.pem").read_bytes())
        authority.ensure_node_bundle("pve07", node)
        assert load_bundle(node).key != load_bundle(other).key

    def test_a_new_authority_issues_a_left_over_server_bundle_anew(
        self, authority: Authority
    ) -> None:
        server = authority.ensure_server(["co1"])
        for name in ("authority.pem", "ca.pem"):
            (authority.directory / name).unlink()
        new = Authority.open_or_create(authority.directory, now=NOW)
        new.ensure_server(["co1"])
        assert load_bundle(server).ca == new.pem != authority.pem
        read_certificate(server).verify_directly_issued_by(new.certificate)

    def test_a_key_that_others_could_read_is_replaced(
        self, authority: Authority, node: Path
    ) -> None:
        before = (node / "key.pem").read_bytes()
        (node / "key.pem").chmod(0o644)
        authority.ensure_node_bundle("pve07", node)
        assert (node / "key.pem").read_bytes() != before
        assert mode_of(node / "key.pem") == 0o600


class TestBundle:
    def test_is_read_as_written_and_hides_its_key(self, authority: Authority, node: Path) -> None:
        bundle = load_bundle(node, now=NOW)
        assert bundle == Bundle(
            ca=authority.pem,
            certificate=(node / "cert.pem").read_bytes(),
            key=(node / "key.pem").read_bytes(),
            endpoint="co1:7443",
        )
        assert "PRIVATE" not in repr(bundle)

    def test_without_an_endpoint_file_it_names_none(
        self, tmp_path: Path, authority: Authority
    ) -> None:
        assert load_bundle(authority.ensure_node_bundle("a", tmp_path / "a")).endpoint == ""

    def test_an_absent_directory_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="nowhere does not exist") as caught:
            load_bundle(tmp_path / "nowhere")
        assert caught.value.field == str(tmp_path / "nowhere")

    def test_a_file_in_its_place_is_named(self, node: Path) -> None:
        with pytest.raises(BundleError, match="is not a directory"):
            load_bundle(node / "key.pem")

    def test_a_directory_that_all_can_write_is_refused(self, node: Path) -> None:
        node.chmod(0o777)
        with pytest.raises(BundleError, match=r"open to others \(mode 0777\): chmod 700"):
            load_bundle(node)

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
    def test_a_key_open_to_others_is_refused_with_the_command(self, node: Path, mode: int) -> None:
        (node / "key.pem").chmod(mode)
        with pytest.raises(BundleError) as caught:
            load_bundle(node)
        assert str(caught.value) == (
            f"key.pem is readable by others (mode {mode:04o}): chmod 600 {node / 'key.pem'}"
        )
        assert caught.value.fix == f"chmod 600 {node / 'key.pem'}"

    @pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda path: path.unlink(), "is missing in"),
            (lambda path: path.write_bytes(b""), "(holds no|does not hold one) PEM"),
            (lambda path: path.write_bytes(b"\xff\x00hello"), "(holds no|does not hold one) PEM"),
            (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is cut off or damaged"),
            (lambda path: path.write_bytes(path.read_bytes().replace(b"M", b"!")), "damaged"),
            (lambda path: path.write_bytes(b" " * 70_000), "is larger than 65536 bytes"),
            (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
            (replace_by_fifo, "is not a regular file"),
            (lambda path: (path.unlink(), path.symlink_to(path)), "cannot be read"),
        ],
    )
    def test_each_spoilt_file_is_named(
        self, node: Path, name: str, spoil: Callable[[Path], object], message: str
    ) -> None:
        spoil(node / name)
        with pytest.raises(BundleError, match=message) as caught:
            load_bundle(node)
        assert caught.value.field == name

    @pytest.mark.parametrize("name", ["ca.pem", "cert.pem"])
    def test_a_private_key_among_certificates_is_an_alarm(self, node: Path, name: str) -> None:
        (node / name).write_bytes((node / name).read_bytes() + (node / "key.pem").read_bytes())
        with pytest.raises(BundleError, match=rf"{name} holds a private key.*replace that key"):
            load_bundle(node)

    def test_a_key_of_another_certificate_is_refused(
        self, tmp_path: Path, authority: Authority, node: Path
    ) -> None:
        other = authority.ensure_node_bundle("pve08", tmp_path / "other")
        (node / "key.pem").write_bytes((other / "key.pem").read_bytes())
        with pytest.raises(BundleError, match=r"key.pem does not belong to cert.pem"):
            load_bundle(node)

    def test_an_encrypted_key_is_refused_and_asks_nobody(self, node: Path) -> None:
        key = load_pem_private_key((node / "key.pem").read_bytes(), password=None)
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            (node / "key.pem").write_bytes(
                key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
            )
            with pytest.raises(BundleError, match=r"key.pem is encrypted"):
                load_bundle(node)

    @pytest.mark.parametrize("name", ["ca.pem", "cert.pem"])
    def test_valid_base64_that_is_no_certificate_is_named(self, node: Path, name: str) -> None:
        (node / name).write_bytes(
            b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"
        )
        with pytest.raises(BundleError, match=rf"{name}.*(not an X.509|cannot be used)"):
            load_bundle(node, now=NOW)

    def test_dates_are_judged_where_the_time_is_known(self, node: Path) -> None:
        assert load_bundle(node, now=NOW + 90 * DAY)
        with pytest.raises(BundleError, match=r"cert.pem expired on 2026-05-30T12:00:00Z: have"):
            load_bundle(node, now=NOW + 90 * DAY + timedelta(seconds=1))
        with pytest.raises(BundleError, match=r"not valid before 2026-03-01T11:55:00Z: set this"):
            load_bundle(node, now=NOW - DAY)
        assert load_bundle(node)

    @pytest.mark.parametrize("good", ["co1:7443", " 127.0.0.1:1\n", "[::1]:65535", "a.b-c.d:80"])
    def test_an_endpoint_is_host_and_port(self, good: str) -> None:
        assert parse_endpoint(good) == good.strip()

    @pytest.mark.parametrize(
        "bad", ["", "co1", "co1:0", "co1:65536", "::1:80", "a b:1", "a:1\nb:2"]
    )
    def test_another_endpoint_is_refused(self, node: Path, bad: str) -> None:
        (node / "endpoint").write_text(bad)
        with pytest.raises(BundleError, match="endpoint is not host:port") as caught:
            load_bundle(node)
        assert caught.value.field == "endpoint"


# From 1950, where X.509 dates begin, to the last day of 9999.
TIMES = st.integers(-7304, 2932896).map(lambda day: datetime(1970, 1, 1, tzinfo=UTC) + day * DAY)
SECONDS = st.integers(0, 86399).map(lambda second: timedelta(seconds=second))
KEY = generate_private_key(SECP256R1())


def make_certificate(start: datetime, end: datetime) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "any")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    return builder.sign(KEY, SHA256()).public_bytes(Encoding.PEM)


@given(st.tuples(TIMES, TIMES).map(sorted), SECONDS)
def test_validity_reads_what_cryptography_wrote(days: list[datetime], time: timedelta) -> None:
    start, end = (day + time for day in days)
    got = validity(make_certificate(start, end))
    assert (got.not_before, got.not_after) == (start, end)


ORDINARY = make_certificate(NOW, NOW + DAY)


@given(st.data())
def test_no_damaged_certificate_gets_past_the_error(data: st.DataObject) -> None:
    der = bytearray(x509.load_pem_x509_certificate(ORDINARY).public_bytes(Encoding.DER))
    del der[data.draw(st.integers(0, len(der))) :]
    for _ in range(min(len(der), data.draw(st.integers(0, 4)))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    body = base64.b64encode(bytes(der)).decode()
    text = f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
    with suppress(BundleError):
        got = validity(text.encode())
        assert got.not_before.tzinfo is got.not_after.tzinfo is UTC


FIRST = "abcdefghijklmnopqrstuvwxyz0123456789"
NAMES = st.builds(str.__add__, st.sampled_from(FIRST), st.text(alphabet=FIRST + "._-", max_size=62))


@given(NAMES, st.sampled_from(Role))
def test_an_identity_survives_its_uri(name: str, role: Role) -> None:
    for identity in (NodeIdentity(NodeName(name)), UserIdentity(name, role)):
        assert parse_identity(identity.uri) == identity


@given(st.one_of(st.text(), st.from_regex(r"vfioctl://(node|user)/.*", fullmatch=True)))
def test_no_other_text_is_an_identity(text: str) -> None:
    with suppress(Unidentified):
        assert parse_identity(text).uri == text


@pytest.mark.parametrize(
    "text",
    [
        "vfioctl://node/a\n",
        "vfioctl://node/a?role=admin",
        "vfioctl://user/a",
        "vfioctl://user/a?role=root",
        "vfioctl://user/a?role=viewer&role=admin",
        "vfioctl://user/a?role=admin#x",
        "VFIOCTL://node/a",
        "vfioctl://node/A",
        "vfioctl://node/" + "a" * 64,
        "https://node/a",
    ],
)
def test_near_misses_are_refused(text: str) -> None:
    with pytest.raises(Unidentified) as caught:
        parse_identity(text)
    assert caught.value.reason is Doubt.BAD_IDENTITY


def test_the_event_log_s_names_tell_nodes_from_users() -> None:
    assert str(NodeIdentity(NodeName("ann"))) == "node:ann"
    assert str(UserIdentity("ann", Role.ADMIN)) == "user:ann"


def test_roles_include_the_lesser_ones_and_have_no_order_by_text() -> None:
    order = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
    assert set(order) == set(Role)
    for held, role in enumerate(order):
        for needed, other in enumerate(order):
            assert may(role, other) is (held >= needed)
    with pytest.raises(TypeError):
        _ = Role.ADMIN < Role.VIEWER  # type: ignore[operator]


CRASH_SCRIPT = '''
"""Acts at every call into C that our file code makes (open, write, fsync, rename, ...)."""
import os, resource, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from vfio_contract.bundle import BundleError, load_bundle
from vfio_coordinator.pki import Authority

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OURS = ("bundle.py", "pki.py", "pathlib.py", "contextlib.py")
CALLS = ("open", "write", "flush", "fsync", "close", "replace", "unlink", "mkdir", "flock")


def make(directory, now=NOW):
    authority = Authority.open_or_create(directory / "pki", now=now)
    authority.ensure_node_bundle("pve07", directory / "node", endpoint="co1:7443")
    return authority


def make_with(directory, act, now=NOW):
    def hook(frame, event, argument):
        if (
            event in ("c_call", "c_return")
            and frame.f_code.co_filename.endswith(OURS)
            and argument.__name__ in CALLS
        ):
            sys.setprofile(None)
            act()
            sys.setprofile(hook)
    sys.setprofile(hook)
    make(directory, now)
    sys.setprofile(None)


def stops_at(directory, point):
    """True if a child was stopped at that point, False if it had finished before."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 77), status
        return status == 77
    passed = 0
    def act():
        nonlocal passed
        passed += 1
        if passed == point:
            os._exit(77)
    try:
        make_with(directory, act)
    except BaseException:
        os._exit(1)
    os._exit(0)


def crash(base):
    point = 1
    while True:
        directory = base / str(point)
        stopped = stops_at(directory, point)
        kept = directory / "pki" / "authority.pem"
        before = kept.read_bytes() if kept.exists() else b""
        authority = make(directory)
        assert not before or kept.read_bytes() == before, point
        bundle = load_bundle(directory / "node", now=NOW)
        assert bundle.ca == authority.pem and bundle.endpoint == "co1:7443", point
        left = [path.name for path in directory.rglob("*.new")]
        assert not left, (point, left)
        if not stopped:
            return point
        point += 1


def watch(base):
    looks = keys = 0
    def act():
        nonlocal looks, keys
        looks += 1
        for path in base.rglob("*"):
            name = path.name
            if path.is_file() and ("key" in name or "authority" in name):
                keys += b"PRIVATE KEY" in path.read_bytes()
                assert path.stat().st_mode & 0o077 == 0, path
    os.umask(0)
    make_with(base, act)
    return f"{looks} {keys}"


def renew(base):
    """A reader at any point of a renewal gets the old certificate or the new one, whole."""
    make(base)
    seen = []
    make_with(
        base,
        lambda: seen.append(load_bundle(base / "node").certificate),
        now=NOW + timedelta(days=70),
    )
    assert seen == sorted(seen, key=seen.index), "went back"
    return len(set(seen))


def full(base):
    """A disk that takes 100 bytes a file: an error that names the file, and nothing half-made."""
    (base / "pki").mkdir(mode=0o700)
    ordinary = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, ordinary[1]))
    try:
        make(base)
    except BundleError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, ordinary)
    left = sorted(path.name for path in (base / "pki").iterdir())
    assert left == ["lock"], left
    make(base)
    load_bundle(base / "node", now=NOW)
    return said


act = {"crash": crash, "watch": watch, "full": full, "renew": renew}[sys.argv[1]]
print(act(Path(sys.argv[2])))
'''


def run_script(what: str, directory: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", CRASH_SCRIPT, what, str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_from_every_interruption_point_the_next_start_is_whole(tmp_path: Path) -> None:
    assert int(run_script("crash", tmp_path)) > 50


def test_a_reader_never_meets_a_half_renewed_bundle(tmp_path: Path) -> None:
    assert int(run_script("renew", tmp_path)) == 2


def test_no_key_is_readable_by_others_for_an_instant(tmp_path: Path) -> None:
    looks, keys = map(int, run_script("watch", tmp_path).split())
    assert looks > 50
    assert keys > 10


def test_a_full_disk_names_the_file_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    assert "authority.pem cannot be written (File too large)" in run_script("full", tmp_path)
