"""The extract is that of a plain loop over the lines, whatever is fed and in whatever pieces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vfio_agent.collect import log_extract
from vfio_agent.collect.log_extract import KEEP_FIRST, KEEP_LAST, LogExtract
from vfio_agent.collect.log_kinds import KINDS, MARKED, USERSPACE_MARKS, rank_of, shape_of
from vfio_agent.collect.log_line import LINE_BYTES, parse_line
from vfio_contract.model import KernelLog, LogLine

BANNER = "Linux version 6.1.0-9-amd64 (builder@host) (gcc 12.2.0) #1 SMP Debian 6.1.27-1"
LEVEL = re.compile(rb"<0*(?:[89]|[1-9][0-9]{1,3})>")


def extract_plainly(data: bytes) -> KernelLog:
    """What `LogExtract` gives, line by line, each line understood by itself."""
    rows = data.replace(b"\0", b"").split(b"\n")
    if data.endswith(b"\n") or not data:
        rows.pop()
    kept: list[list[LogLine]] = [[] for _ in KINDS]
    from_boot = reached = False
    stamped = any(parse_line(row).stamped for row in rows)
    for number, row in enumerate(rows, start=1):
        if row.lstrip(b"> ").startswith((b"-- Boot ", b"-- Reboot --")):
            from_boot = reached = False
            kept = [[] for _ in KINDS]
            continue
        line = parse_line(row[:LINE_BYTES])
        rank = rank_of(line.text.lower())
        if re.match(r"\*\* \d+ printk messages dropped", line.text):
            from_boot = from_boot and reached
        elif re.match(r"Linux version \S+ \(", line.text) and not line.foreign:
            from_boot, reached, stamped = True, False, line.stamped
            kept = [[] for _ in KINDS]
        elif stamped and not line.stamped:
            continue
        lowered = row.lower()
        told = any(mark.encode() in lowered for mark in USERSPACE_MARKS) or rank >= 0
        reached = reached or (line.init_ran and (told or LEVEL.search(row) is not None))
        if rank >= 0 and not line.foreign:
            kept[rank].append(LogLine(number, line.seconds, line.text))
    ends = [lines[:KEEP_FIRST] + lines[KEEP_FIRST:][-KEEP_LAST:] for lines in kept]
    return KernelLog(
        source="x",
        from_boot=from_boot,
        reached_userspace=reached,
        total_lines=len(rows),
        lines=tuple(sorted((line for lines in ends for line in lines), key=lambda r: r.number)),
        omitted_lines=sum(map(len, kept)) - sum(map(len, ends)),
    )


def extract(data: bytes, piece: int) -> KernelLog:
    made = LogExtract()
    for start in range(0, len(data), piece):
        made.feed(data[start : start + piece])
    return made.finish("x")


PREFIXES = [
    "",
    "[    1.250000] ",
    "[   12.250000][    T1] ",
    "<6>[    1.250000] ",
    "<30>[    1.250000] ",
    "> ",
    "> > <4>",
    "<07>",
    "<07>[    2.000000] ",
    "<8>",
    "<\0>",
    "kern  :info  : [    1.250000] ",
    "daemon:info  : [    1.250000] ",
    "Oct 20 12:00:00 host kernel: ",
    "Oct 20 12:00:00 beef dead: ",
    "2023-10-02T12:00:00,123456+02:00 ",
    "1600000000.123456 host kernel: ",
    "[Mon Oct  2 12:00:00 2023] ",
    "[  +0.000100] ",
    "-- Boot 0a1 --",
    "\x1b[32m",
    "\0",
    "  ",
]
TEXTS = [mark for kind in KINDS for mark in kind.marks] + [
    BANNER,
    "Run /sbin/init as init process",
    "systemd[1]: hi",
    "systemd-udevd[12ab]: hi",
    "** 12 printk messages dropped **",
    "** 12ab printk messages dropped **",
    "-- Reboot --",
    "x3apic enabled",
    "0x86/fpu x86/fpu",
    "gicv4: 1 gicv3: 2 x2apic",
    "BIOS-e820: [mem 0x0000000000000000-0x1]",
    "BIOS-e820: [mem 0x0000000000000001-0x1]",
    "DMAR: fault addr 0xfffd1a40 fffd1a40 [fault reason 06]",
    "usb 1-1: new device",
    "initialised",
    "0xac" + "s override",
    "dead:info: vfio",
]
WORDS = st.one_of(
    st.sampled_from(TEXTS), st.sampled_from(TEXTS).map(str.upper), st.text(max_size=8)
)
ROWS = st.tuples(
    st.lists(st.sampled_from(PREFIXES), max_size=3).map("".join),
    st.lists(WORDS, min_size=1, max_size=3).map(" ".join),
    st.sampled_from(["", "\r", " 0x1f", " 3", " 42", " deadbeef", " fade1: x", "\0"]),
).map("".join)
LOGS = st.lists(ROWS, max_size=40).map(
    lambda rows: "\n".join(rows).encode("utf-8", "surrogatepass")
)


@settings(max_examples=400)
@given(st.one_of(LOGS, st.binary()), st.sampled_from([1 << 20, 4096]))
@example(b"\0\0", 4096)
@example(b"\n" * 9, 4096)
@example(b"[    1.000000] vfio " + b"y" * 9000 + b"\n[    1.000000] vfio\n", 4096)
def test_it_is_the_plain_loops(data: bytes, piece: int) -> None:
    # a piece holds more lines than the generated log has, so that the head is seen at once
    assert extract(data, max(piece, len(data) if data.count(b"\n") else 1)) == extract_plainly(data)


@settings(max_examples=40)
@given(LOGS, LOGS, st.integers(1, 3))
def test_floods_and_small_pieces_change_nothing(before: bytes, after: bytes, repeat: int) -> None:
    head = b"[    0.000000] x\n"
    row = b"[%5d.000000] vfio-pci 0000:01:00.0: %x DMAR: 0x%x\n"
    flood = b"".join(row % (i, i * repeat, i * 7919) for i in range(700 * repeat))
    data = head + flood + before + b"\n" + flood + after
    expected = extract_plainly(data)
    assert extract(data, 1 << 14) == expected
    assert extract(data, len(data)) == expected


def test_shapes_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_extract, "_SHAPES_KEPT", 3)
    rows = [b"[    0.000000] vfio %s\n" % (b"z" * i) for i in range(400)]
    data = b"".join(rows)
    assert extract(data, 1 << 10) == extract_plainly(data)


def test_no_mark_can_be_cut_by_what_a_shape_leaves_out() -> None:
    """A mark without digits has no hexadecimal word, and does not begin or end with one."""
    for mark in (mark for kind in KINDS for mark in kind.marks):
        assert MARKED.search(shape_of(mark).encode()), mark
        if re.search("[0-9]", mark):
            continue
        assert mark == mark.lower()
        edges = [re.match(r"\w*", mark), re.search(r"\w*$", mark)]
        words = [edge[0] for edge in edges if edge is not None] + re.findall(r"\w+", mark)
        assert not [word for word in words if re.fullmatch("x?[a-f]{2,}|[a-f]x?", word)], mark


@pytest.mark.shared
def test_real_logs_give_what_the_plain_loop_gives(shared: Path) -> None:
    paths = sorted((shared / "captures/dmesg").iterdir())
    assert paths
    for path in paths:
        data = path.read_bytes()
        assert extract(data, len(data)) == extract_plainly(data), path.name
