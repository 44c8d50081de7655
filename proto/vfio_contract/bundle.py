"""A bundle: the directory from which an agent, a user or a coordinator speaks mutual TLS.

    ca.pem     the authority that both sides trust, and nobody else
    cert.pem   this side's certificate
    key.pem    its private key, readable by its owner alone
    endpoint   optional, one line: the coordinator's `host:port`

It exists so that everything a person can get wrong with these files is said before a connection is
tried: gRPC only reports that a handshake failed. Writing is here too, so that private keys reach
the disk in one way only. It must never show key bytes in a repr or an error, let a key be readable
by others for an instant, or repair a file that it was asked to read.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

CA_FILE = "ca.pem"
CERTIFICATE_FILE = "cert.pem"
KEY_FILE = "key.pem"
ENDPOINT_FILE = "endpoint"

MAX_BYTES = 64 * 1024
"""Largest file that is read; a certificate of ours is about 0.9 KB."""

WORLD_WRITABLE = 0o002
"""Directory mode bit with which others could replace every file of a bundle."""

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_ENDPOINT = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_KEY_LABELS = ("PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY")

# DER tags, X.690 and RFC 5280 section 4.1.
_SEQUENCE, _INTEGER, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x02, 0xA0, 0x17, 0x18


class BundleError(ValueError):
    """A bundle that cannot be used: `field` is the file at fault, `fix` is what to do about it."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(f"{field} {problem}: {fix}")
        self.field = field
        self.problem = problem
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Bundle:
    """The PEM bytes as gRPC takes them. `endpoint` is "" where the bundle names no coordinator."""

    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)
    endpoint: str


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate holds, both ends included (RFC 5280 section 4.1.2.5)."""

    not_before: datetime
    not_after: datetime


def load_bundle(directory: Path, *, now: datetime | None = None) -> Bundle:
    """The bundle in `directory`, or BundleError with the file, what is wrong and the fix.

    With `now` (aware), a certificate that is expired or not valid yet is refused too; without it
    the time is not known and validity is not judged.
    """
    _require_directory(directory, forbidden=WORLD_WRITABLE)
    ca_path, certificate_path = directory / CA_FILE, directory / CERTIFICATE_FILE
    ca = _read(ca_path)
    _require_certificates(ca_path, ca)
    certificate = _read(certificate_path)
    _require_certificates(certificate_path, certificate)
    key_path = directory / KEY_FILE
    key = _read(key_path, secret=True)
    _require_key(key_path, key)
    _require_usable(directory, ca)
    if now is not None:
        _require_valid(certificate_path, certificate, now)
        _require_valid(ca_path, ca, now)
    endpoint = ""
    if os.path.lexists(directory / ENDPOINT_FILE):
        endpoint = _decode_endpoint(directory / ENDPOINT_FILE)
    return Bundle(ca=ca, certificate=certificate, key=key, endpoint=endpoint)


def parse_endpoint(text: str) -> str:
    """`host:port`, IPv6 as `[::1]:port`, surrounding space removed; BundleError otherwise."""
    endpoint = text.strip()
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match[1]) < 65536:
        raise BundleError(
            ENDPOINT_FILE, f"is not host:port ({endpoint[:80]!r})", "write like coordinator:7443"
        )
    return endpoint


def validity(certificate: bytes) -> Validity:
    """The validity of the first certificate in PEM bytes; BundleError if there is none.

    It walks the DER as RFC 5280 section 4.1 lays it out, because the standard library shows the
    dates only of a peer's certificate, and one's own expired certificate is what fails most often.
    """
    blocks = _pem_blocks(CERTIFICATE_FILE, certificate)
    try:
        return _validity(blocks[0][1])
    except (IndexError, ValueError) as error:
        raise BundleError(
            CERTIFICATE_FILE, f"is not an X.509 certificate ({error})", "import the bundle again"
        ) from None


def read_file(path: Path) -> tuple[bytes, int]:
    """Content and permission bits of one small regular file, both of the same open file.

    FileNotFoundError where there is none; BundleError where it cannot be read, is no regular file
    or is larger than MAX_BYTES.
    """
    try:
        # Without O_NONBLOCK a named pipe in place of the file would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode):
                with open(descriptor, "rb", closefd=False) as file:
                    data = file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise BundleError(path.name, "is not a regular file", f"replace {path}")
    if len(data) > MAX_BYTES:
        raise BundleError(path.name, f"is larger than {MAX_BYTES} bytes", f"replace {path}")
    return data, stat.S_IMODE(mode)


def write_file(path: Path, data: bytes, *, mode: int) -> None:
    """All of `data` durably under `path`, or what was there before; BundleError if it cannot be.

    `mode` holds from the file's creation on, so that a key is never readable by others. Of two
    writers at once one fails or the later wins; who needs more holds a lock.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise BundleError(
            path.name,
            f"cannot be written ({error.strerror})",
            f"see to space and permissions in {path.parent}",
        ) from error


def make_directory(directory: Path, *, forbidden: int) -> None:
    """`directory`, made with mode 0700; BundleError if it has any of the `forbidden` mode bits.

    One that exists is never narrowed: it may be one that others need, such as /tmp.
    """
    try:
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700, parents=True)
            _sync_directory(directory.parent)
    except OSError as error:
        raise BundleError(
            str(directory), f"cannot be made ({error.strerror})", "choose another directory"
        ) from error
    _require_directory(directory, forbidden=forbidden)


def _require_directory(directory: Path, *, forbidden: int) -> None:
    try:
        mode = os.stat(directory).st_mode
    except FileNotFoundError:
        raise BundleError(
            str(directory), "does not exist", "name the directory of an imported bundle"
        ) from None
    except OSError as error:
        raise _unreadable(directory, error) from error
    if not stat.S_ISDIR(mode):
        raise BundleError(str(directory), "is not a directory", "name another one")
    if mode & forbidden:
        raise BundleError(
            str(directory),
            f"is open to others (mode {stat.S_IMODE(mode):04o})",
            f"chmod 700 {directory}, and replace its keys if others use this machine",
        )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, *, secret: bool = False) -> bytes:
    try:
        data, mode = read_file(path)
    except FileNotFoundError:
        raise BundleError(
            path.name,
            f"is missing in {path.parent}",
            f"import the whole bundle again ({CA_FILE}, {CERTIFICATE_FILE}, {KEY_FILE})",
        ) from None
    if secret and mode & 0o077:
        raise BundleError(
            path.name, f"is readable by others (mode {mode:04o})", f"chmod 600 {path}"
        )
    return data


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        path.name, f"cannot be read ({error.strerror})", f"let uid {os.geteuid()} read {path}"
    )


def _pem_blocks(name: str, data: bytes) -> tuple[tuple[str, bytes], ...]:
    """(label, decoded bytes) of every PEM block (RFC 7468); a cut or damaged one is an error."""
    text = data.decode("ascii", errors="replace")
    if "-----" in _PEM.sub("", text):
        raise BundleError(name, "is cut off or damaged", "import the bundle again")
    blocks = []
    for label, body in _PEM.findall(text):
        if "ENCRYPTED" in label or "ENCRYPTED" in body:
            raise BundleError(
                name,
                "is encrypted, and nobody is there to type a passphrase",
                "store it without one: openssl pkey -in OLD -out NEW",
            )
        try:
            blocks.append((label, base64.b64decode("".join(body.split()), validate=True)))
        except (binascii.Error, ValueError):
            raise BundleError(
                name, f"has a damaged {label} block", "import the bundle again"
            ) from None
    return tuple(blocks)


def _require_certificates(path: Path, data: bytes) -> None:
    labels = [label for label, _ in _pem_blocks(path.name, data)]
    if any(label.endswith("PRIVATE KEY") for label in labels):
        raise BundleError(
            path.name,
            "holds a private key",
            f"keep only certificates in {path}, and replace that key: it was handed out",
        )
    if not labels or set(labels) != {"CERTIFICATE"}:
        raise BundleError(path.name, "holds no PEM certificate", "import the bundle again")


def _require_key(path: Path, data: bytes) -> None:
    labels = [label for label, _ in _pem_blocks(path.name, data) if label != "EC PARAMETERS"]
    if len(labels) != 1 or labels[0] not in _KEY_LABELS:
        raise BundleError(path.name, "does not hold one PEM private key", "import the bundle again")


def _require_usable(directory: Path, ca: bytes) -> None:
    """OpenSSL takes the authority, and the key belongs to the certificate."""
    # 4 MB that a hostd which has no bundle need not hold
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca.decode("ascii", errors="replace"))
    except ssl.SSLError as error:
        raise BundleError(
            CA_FILE, f"is not an X.509 certificate ({error.reason})", "import the bundle again"
        ) from None
    try:
        # An empty passphrase, because without one OpenSSL may ask at the terminal and wait.
        context.load_cert_chain(directory / CERTIFICATE_FILE, directory / KEY_FILE, password=b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"does not belong to {CERTIFICATE_FILE}"
        else:
            problem = f"and {CERTIFICATE_FILE} cannot be used ({error.reason})"
        raise BundleError(KEY_FILE, problem, "import the bundle again") from None


def _require_valid(path: Path, data: bytes, now: datetime) -> None:
    span = validity(data)
    if now > span.not_after:
        raise BundleError(
            path.name,
            f"expired on {span.not_after:%Y-%m-%dT%H:%M:%SZ}",
            f"have the authority issue {path.parent} again",
        )
    if now < span.not_before:
        raise BundleError(
            path.name,
            f"is not valid before {span.not_before:%Y-%m-%dT%H:%M:%SZ}",
            f"set this machine's clock, it says {now:%Y-%m-%dT%H:%M:%SZ}",
        )


def _decode_endpoint(path: Path) -> str:
    return parse_endpoint(_read(path).decode("utf-8", errors="replace"))


def _validity(der: bytes) -> Validity:
    at, _ = _enter(der, 0, _SEQUENCE)  # Certificate
    at, _ = _enter(der, at, _SEQUENCE)  # TBSCertificate
    if der[at] == _VERSION:
        at = _enter(der, at, _VERSION)[1]
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serial, algorithm, issuer
        at = _enter(der, at, tag)[1]
    at, _ = _enter(der, at, _SEQUENCE)
    not_before, at = _time(der, at)
    not_after, _ = _time(der, at)
    return Validity(not_before=not_before, not_after=not_after)


def _enter(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """(first content byte, first byte after it) of the element at `at`, which has this tag."""
    if der[at] != tag:
        raise ValueError(f"tag {der[at]:#04x} where {tag:#04x} belongs")
    length, start = der[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length = int.from_bytes(der[start : start + octets], "big")
        start += octets
    if start + length > len(der):
        raise ValueError("an element is longer than the certificate")
    return start, start + length


def _time(der: bytes, at: int) -> tuple[datetime, int]:
    """A UTCTime or GeneralizedTime and the byte after it."""
    if der[at] == _UTC_TIME:
        start, end = _enter(der, at, _UTC_TIME)
        text = der[start:end].decode("ascii")
        # RFC 5280 section 4.1.2.5.1: two-digit years from 50 on are 19YY.
        text = ("19" if text[:2] >= "50" else "20") + text
    else:
        start, end = _enter(der, at, _GENERALIZED_TIME)
        text = der[start:end].decode("ascii")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC), end
