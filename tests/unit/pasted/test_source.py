"""What a PATH may be: packed, endless, silent, a picture; each is read to an end or refused."""

from __future__ import annotations

import gzip
import io
import os
import socket
import threading
from pathlib import Path

import pytest

from tests.unit.pasted.pastes import DMESG, by_subject, judge_stdin, judge_text
from vfio_agent.inspect import inspect_evidence
from vfio_agent.pasted import EvidenceError, source
from vfio_agent.pasted.source import LIMIT_BYTES, Source, decode_pieces
from vfio_contract.findings import Verdict


def test_a_packed_log_is_unpacked(tmp_path: Path) -> None:
    seen = judge_text(gzip.compress(DMESG.encode()), tmp_path=tmp_path)
    assert by_subject(seen, "iommu-active")["node"].verdict is Verdict.PASS
    assert judge_stdin(gzip.compress(DMESG.encode())).given[0].text == "113 lines, whole boot"


@pytest.mark.parametrize("damaged", [b"\x1f\x8b\x08\x00", gzip.compress(b"x" * 999)[:-9]])
def test_a_damaged_package_is_refused(damaged: bytes) -> None:
    with pytest.raises(EvidenceError, match="damaged"):
        judge_stdin(damaged)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "JPEG"),
        (b"\x7fELF\x02\x01\x01", "program"),
        (b"PK\x03\x04", "ZIP"),
        (b"\x28\xb5\x2f\xfd", "zstd -d"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_what_cannot_be_evidence_is_refused_by_name(data: bytes, what: str, tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=what):
        judge_text(data + DMESG.encode(), tmp_path=tmp_path)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(path: str) -> None:
    with pytest.raises(EvidenceError, match="device"):
        inspect_evidence([path])


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match="s"):
            inspect_evidence([str(tmp_path / "s")])


def test_an_empty_folder_is_a_host_of_which_nothing_is_known(tmp_path: Path) -> None:
    assert inspect_evidence([str(tmp_path)]).report.verdict is Verdict.UNKNOWN


def test_a_fifo_without_a_writer_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    assert inspect_evidence([str(tmp_path / "f")]).given[0].text == "empty"


def test_a_fifo_is_read_to_its_end(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    data = DMESG.encode() * 2000  # more than a pipe holds

    def write() -> None:
        with open(writing, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = inspect_evidence([f"/dev/fd/{reading}"])
    finally:
        os.close(reading)
        thread.join()
    assert "the last of 2000 boots" in seen.given[0].text


def test_a_fifo_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "SILENCE_S", 0.0)
    reading, writing = os.pipe()
    try:
        with pytest.raises(EvidenceError, match="nothing came"):
            inspect_evidence([f"/dev/fd/{reading}"])
    finally:
        os.close(reading)
        os.close(writing)


class Endless(io.RawIOBase):
    """Zeros without an end."""

    def __init__(self) -> None:
        self.given = 0

    def read(self, size: int = -1, /) -> bytes:
        assert size > 0
        self.given += size
        return bytes(size)


def test_what_never_ends_is_cut() -> None:
    endless = Endless()
    made = Source("-", endless, head_bytes=1 << 20)  # type: ignore[arg-type]
    assert sum(map(len, made.rest())) + len(made.head) == LIMIT_BYTES
    assert made.cut
    assert endless.given == LIMIT_BYTES + 1


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_utf16_in_pieces(step: int) -> None:
    text = "[    1.000000] vfio-pci: größe \U0001f600\n" * 3
    data = text.encode("utf-16")
    # the mark has to be in the first piece
    pieces = [data[:2], *(data[i : i + step] for i in range(2, len(data), step))]
    assert b"".join(decode_pieces(iter(pieces))).decode() == text
