"""The cluster's certificate authority: it is made on first start and issues every certificate.

    <directory>/              0700
        authority.pem         0600  the CA's private key and certificate, in one file
        ca.pem                0644  the certificate alone, for people to copy
        lock                        held while anything here or a bundle is written
        server/               the coordinator's own bundle (vfio_contract.bundle)

One file holds key and certificate, so that one rename makes an authority or none: a crash leaves
either nothing (a left-over `.authority.pem.new` is removed) or a complete one. A bundle has several
files: a new one gets its `cert.pem` last, and a renewal keeps the key and replaces `cert.pem` only,
so a reader never meets halves of two. A key is replaced only if it is lost, not the certificate's,
or was readable by others.

Keys are EC P-256, created with mode 0600 and never wider for an instant. What a certificate is for
is in its extended key usage: serverAuth for coordinators only, clientAuth for nodes and users; who
its owner is, in a URI SAN (`vfio_coordinator.peer`). The CA's path length is 1: each coordinator
may get an intermediate of its own under the root that agents pin.

This module must never replace an authority, hand out its key, give a bundle to another owner than
it had, or read a clock: an Authority judges by the `now` of its opening; `at` is a later moment.

Length: what is issued and what counts as still good must agree line by line, so they stay together.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vfio_contract.address import NodeName
from vfio_contract.bundle import (
    CA_FILE,
    CERTIFICATE_FILE,
    ENDPOINT_FILE,
    KEY_FILE,
    WORLD_WRITABLE,
    BundleError,
    make_directory,
    parse_endpoint,
    read_file,
    write_file,
)
from vfio_coordinator.peer import NodeIdentity, Role, UserIdentity

AUTHORITY_FILE = "authority.pem"
LOCK_FILE = "lock"
SERVER_DIRECTORY = "server"

CA_LIFE = timedelta(days=3652)
"""10 years."""
LEAF_LIFE = timedelta(days=90)
CLOCK_SKEW = timedelta(minutes=5)
"""How far a peer's clock may be behind ours: certificates begin this much in the past."""

_ANEW = "move the directory away: a new authority is made and every node and user joins anew"
_RESTORE = f"restore it from a backup; without one, {_ANEW}"

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


class AuthorityError(BundleError):
    """The authority cannot be made or used, or will not issue what was asked; names the path."""

    def __init__(self, path: Path, problem: str, fix: str) -> None:
        super().__init__(str(path), problem, fix)


@dataclass(frozen=True, slots=True)
class _Leaf:
    """What one certificate is to say."""

    common_name: str
    usage: x509.ObjectIdentifier
    names: tuple[x509.GeneralName, ...]


@dataclass(frozen=True, slots=True)
class Authority:
    """A complete CA, checked, as of `opened`. The `ensure_*` functions may be repeated freely.

    They issue what is missing, has other names or another role, or has lived two thirds of its
    life (60 of 90 days), and leave everything else untouched. All raise BundleError, of which
    AuthorityError is the authority's own kind.
    """

    directory: Path
    opened: datetime
    certificate: x509.Certificate = field(repr=False)
    key: EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def open_or_create(cls, directory: Path, *, now: datetime) -> Authority:
        """The authority kept in `directory`, made if there is none. `now` is aware.

        AuthorityError names the file and the fix where it is damaged, readable by others, out of
        its time, or where `ca.pem` tells of an authority whose key is gone.
        """
        now = _whole_second(now)
        make_directory(directory, forbidden=0o077)
        path, public = directory / AUTHORITY_FILE, directory / CA_FILE
        with _locked(directory):
            if not os.path.lexists(path):
                if os.path.lexists(public):
                    # Never made anew where there was one: every agent pins the one it knows.
                    raise AuthorityError(
                        path, f"is missing, but {public.name} tells of an authority", _RESTORE
                    )
                write_file(path, _new_authority(now), mode=0o600)
            authority = cls(directory, now, *_load_authority(path, now))
            if not os.path.lexists(public):
                write_file(public, authority.pem, mode=0o644)
            elif _load_public(public) != authority.pem:
                raise AuthorityError(
                    public,
                    f"is not the certificate in {AUTHORITY_FILE}",
                    f"restore the {AUTHORITY_FILE} that agents trust, or remove {public} "
                    "to keep this one",
                )
        return authority

    def at(self, now: datetime) -> Authority:
        """The same authority at another moment, which is aware.

        AuthorityError where its time is over, or where its file is gone, damaged or another's:
        a process that runs never makes one, and never takes one that its peers do not know.
        """
        path = self.directory / AUTHORITY_FILE
        now = _whole_second(now)
        with _locked(self.directory):
            if not os.path.lexists(path):
                raise AuthorityError(path, "is missing", _RESTORE)
            certificate, _ = _load_authority(path, now)
        if certificate != self.certificate:
            raise AuthorityError(path, "is not the authority of this start", _RESTORE)
        return replace(self, opened=now)

    @property
    def pem(self) -> bytes:
        """The CA certificate, as `ca.pem` holds it."""
        return self.certificate.public_bytes(Encoding.PEM)

    def ensure_server(self, names: Sequence[str]) -> Path:
        """The bundle directory of a coordinator that answers to these DNS names and addresses."""
        if isinstance(names, str):
            raise TypeError("names must be a sequence of names, not one text")
        directory = self.directory / SERVER_DIRECTORY
        wanted = {_server_name(directory, name) for name in names}
        if not wanted:
            raise AuthorityError(
                directory, "has no name to answer to", "give a DNS name or address"
            )
        ordered = tuple(sorted(wanted, key=lambda name: (type(name).__name__, str(name.value))))
        leaf = _Leaf("vfioctl coordinator", ExtendedKeyUsageOID.SERVER_AUTH, ordered)
        with _locked(self.directory):
            self._ensure(directory, leaf)
        return directory

    def ensure_node_bundle(self, name: str, directory: Path, *, endpoint: str = "") -> Path:
        """`directory`, holding a bundle that speaks for node `name` and no other.

        `endpoint` "" leaves the bundle's endpoint file as it is. ValueError for a bad name.
        """
        identity = NodeIdentity(NodeName(name))
        return self._ensure_client(identity, directory, endpoint)

    def ensure_user_bundle(
        self, name: str, role: Role, directory: Path, *, endpoint: str = ""
    ) -> Path:
        """`directory`, holding a bundle of user `name`; another role than it had is issued anew.

        The certificate with the old role holds until it expires: taking a role away needs a
        revocation as well. `endpoint` as for a node. ValueError for a bad name.
        """
        return self._ensure_client(UserIdentity(name, role), directory, endpoint)

    def _ensure_client(
        self, identity: NodeIdentity | UserIdentity, directory: Path, endpoint: str
    ) -> Path:
        line = parse_endpoint(endpoint).encode() + b"\n" if endpoint else b""
        leaf = _Leaf(
            identity.name,
            ExtendedKeyUsageOID.CLIENT_AUTH,
            (x509.UniformResourceIdentifier(identity.uri),),
        )
        with _locked(self.directory):
            self._refuse_other_owner(directory, identity.uri)
            self._ensure(directory, leaf)
            if line:
                write_file(directory / ENDPOINT_FILE, line, mode=0o644)
        return directory

    def _ensure(self, directory: Path, leaf: _Leaf) -> None:
        make_directory(directory, forbidden=WORLD_WRITABLE)
        key_path, certificate_path = directory / KEY_FILE, directory / CERTIFICATE_FILE
        key = _load_key(key_path)
        certificate = _parse_certificate(_load_public(certificate_path))
        if key is None or certificate is None or not self._belong(certificate, key):
            key, certificate = generate_private_key(SECP256R1()), None
            write_file(key_path, _private_pem(key), mode=0o600)
        if _load_public(directory / CA_FILE) != self.pem:
            write_file(directory / CA_FILE, self.pem, mode=0o644)
        if certificate is None or not self._is_current(certificate, leaf):
            data = self._issue(leaf, key.public_key()).public_bytes(Encoding.PEM)
            write_file(certificate_path, data, mode=0o644)

    def _issue(self, leaf: _Leaf, public_key: EllipticCurvePublicKey) -> x509.Certificate:
        return (
            _start(_subject(leaf.common_name), public_key, self.opened - CLOCK_SKEW)
            .issuer_name(self.certificate.subject)
            # A certificate that outlives its issuer would fail on a date that it does not show.
            .not_valid_after(min(self.opened + LEAF_LIFE, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([leaf.usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(leaf.names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .sign(self.key, SHA256())
        )

    def _issued(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _belong(self, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> bool:
        return self._issued(certificate) and certificate.public_key() == key.public_key()

    def _is_current(self, certificate: x509.Certificate, leaf: _Leaf) -> bool:
        """It says what it should and is in the first two thirds of its life."""
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return (
            start <= self.opened < start + (end - start) * 2 / 3
            and _usages(certificate) == (leaf.usage,)
            and _names(certificate) == leaf.names
        )

    def _refuse_other_owner(self, directory: Path, uri: str) -> None:
        """A bundle that is already somebody's is not given to somebody else."""
        certificate = _parse_certificate(_load_public(directory / CERTIFICATE_FILE))
        if certificate is None:
            return
        fix = "choose another directory, or move this one away"
        if not self._issued(certificate):
            raise AuthorityError(directory, "holds a bundle of another authority", fix)
        held = " ".join(str(name.value) for name in _names(certificate))
        if held.partition("?")[0] != uri.partition("?")[0]:
            raise AuthorityError(directory, f"holds the bundle of {held or 'nobody'}", fix)


def _whole_second(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError("now must be an aware datetime")
    return now.astimezone(UTC).replace(microsecond=0)


def _new_authority(now: datetime) -> bytes:
    key = generate_private_key(SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Named after its key, so that two clusters' authorities are told apart in any tool.
    subject = _subject(f"vfioctl authority {identifier.digest.hex()[:16]}")
    certificate = (
        _start(subject, key.public_key(), now - CLOCK_SKEW)
        .issuer_name(subject)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, SHA256())
    )
    return _private_pem(key) + certificate.public_bytes(Encoding.PEM)


def _subject(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "vfioctl"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _start(
    subject: x509.Name, public_key: EllipticCurvePublicKey, not_before: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _usages(certificate: x509.Certificate) -> tuple[x509.ObjectIdentifier, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return ()
    return tuple(extension.value)


def _names(certificate: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(extension.value)


def _server_name(directory: Path, text: str) -> x509.DNSName | x509.IPAddress:
    with suppress(ValueError):
        if "%" not in text:  # a zone (fe80::1%eth0) means something on one host only
            return x509.IPAddress(ip_address(text))
    name = text.lower()
    # A last label of digits is a mistyped address, never a name (RFC 1123 section 2.1).
    if not _DNS_NAME.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise AuthorityError(
            directory, f"cannot answer to {text!r}", "give a DNS name or an IP address, no port"
        )
    return x509.DNSName(name)


def _load_authority(path: Path, now: datetime) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    """Certificate and key of a complete, unspoilt authority whose time this is."""
    data, mode = read_file(path)
    if mode & 0o077:
        raise AuthorityError(
            path,
            f"is readable by others (mode {mode:04o})",
            f"if nobody else can have read it: chmod 600 {path}; if somebody can, {_ANEW}",
        )
    key, certificate = _parse_key(data), _parse_certificate(data)
    if key is None:
        raise AuthorityError(path, "is damaged (no usable private key)", _RESTORE)
    if certificate is None:
        raise AuthorityError(path, "is damaged (no usable certificate)", _RESTORE)
    if certificate.public_key() != key.public_key() or not _is_authority(certificate):
        raise AuthorityError(path, "is damaged (key and certificate are no authority)", _RESTORE)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        raise AuthorityError(
            path,
            f"is not valid before {start:%Y-%m-%dT%H:%M:%SZ}",
            f"set this machine's clock, it says {now:%Y-%m-%dT%H:%M:%SZ}",
        )
    if now >= end:
        raise AuthorityError(path, f"expired on {end:%Y-%m-%dT%H:%M:%SZ}", _ANEW)
    return certificate, key


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, ValueError):
        return False
    return constraints.value.ca


def _parse_key(data: bytes) -> EllipticCurvePrivateKey | None:
    """The P-256 key in PEM bytes, None where there is none that can be used."""
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key
    return None


def _parse_certificate(data: bytes) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        return None


def _load_key(path: Path) -> EllipticCurvePrivateKey | None:
    """A bundle's key; one that others could read counts as none, so that it is replaced."""
    try:
        data, mode = read_file(path)
    except FileNotFoundError:
        return None
    return None if mode & 0o077 else _parse_key(data)


def _load_public(path: Path) -> bytes:
    """A file's bytes, b"" where there is none."""
    try:
        return read_file(path)[0]
    except FileNotFoundError:
        return b""


def _private_pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Alone in `directory`, among threads and processes; waits for the other, some milliseconds."""
    path = directory / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AuthorityError(
            path, f"cannot be opened ({error.strerror})", f"let uid {os.geteuid()} write there"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
