"""`diff` between evidence of every kind: what is compared, and what honestly is not."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.snapshots import make_host, nic
from vfio_agent.inspect import inspect_host
from vfio_agent.vmconf.mapping import parse_mappings
from vfio_agent.vmconf.proxmox import parse_proxmox
from vfio_cli.comparison import compare_evidence
from vfio_cli.main import run
from vfio_contract.artifact import encode_artifact
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP

HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"
F10, F11 = str(HOSTS / "gpubox-f10.tar.gz"), str(HOSTS / "gpubox-f11.tar.gz")
NUMA = str(HOSTS / "numa-2gpu.tar.gz")

Captured = pytest.CaptureFixture[str]


def paste_of(root: str) -> str:
    """What a person would paste of that host: `lspci -nnk` and a listing of groups."""
    host = inspect_host(root).host
    rows = []
    for f in host.functions:
        assert f.class_code is not None
        kind = "PCI bridge" if f.is_bridge else "Ethernet controller"
        code = 0x0604 if f.is_bridge else f.class_code >> 8
        rows.append(f"{f.address[5:]} {kind} [{code:04x}]: Maker Thing [{f.ids}] (rev 01)")
        if f.driver:
            rows.append(f"\tKernel driver in use: {f.driver}")
    for group in host.facts.groups or ():
        rows += [
            f"/sys/kernel/iommu_groups/{group.number}/devices/{member}" for member in group.members
        ]
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every kind of evidence of one host before (f10) and after (f11) a firmware update."""
    top = tmp_path_factory.mktemp("sides")
    found = {"/f10": F10, "/f11": F11}
    for name, root in (("f10", F10), ("f11", F11)):
        (top / f"{name}.txt").write_text(paste_of(root))
        found[f"{name}.txt"] = str(top / f"{name}.txt")
        for kind, options in (("json", []), ("redacted", ["--redact"])):
            target = str(top / f"{name}.{kind}.json")
            assert run(["collect", "--root", root, "-o", target, *options]) == 0
            found[f"{name}.{kind}"] = target
    return found


def compare_files(before: str, after: str, capsys: Captured) -> tuple[int, str]:
    status = run(["diff", before, after])
    said = capsys.readouterr()
    assert said.err == ""
    assert all(len(line) <= 80 for line in said.out.splitlines())
    return status, said.out


@pytest.mark.parametrize("before", ["/f10", "f10.json", "f10.redacted", "f10.txt"])
@pytest.mark.parametrize("after", ["/f10", "f10.json", "f10.redacted", "f10.txt"])
def test_the_same_host_is_the_same_in_every_form(
    before: str, after: str, sides: dict[str, str], capsys: Captured
) -> None:
    status, text = compare_files(sides[before], sides[after], capsys)
    assert "SAME" in text
    assert status == 0
    unequal = (before == "f10.redacted") != (after == "f10.redacted")
    assert ("redacted, so names and serial numbers" in text.replace("\n         ", " ")) is unequal
    assert ("NOT COMPARED" in text) is ("f10.txt" in (before, after))


@pytest.mark.parametrize("before", ["/f10", "f10.json", "f10.redacted", "f10.txt"])
@pytest.mark.parametrize("after", ["/f11", "f11.json", "f11.redacted", "f11.txt"])
def test_what_widened_is_seen_in_every_form(
    before: str, after: str, sides: dict[str, str], capsys: Captured
) -> None:
    status, text = compare_files(sides[before], sides[after], capsys)
    assert status == 2
    assert "GROUP_WIDENED  2 devices (merged)" in text
    assert "DEVICE_MOVED  4 devices" in text
    assert "VANISHED" not in text


def test_two_files_with_different_keys_say_so(sides: dict[str, str], capsys: Captured) -> None:
    _, text = compare_files(sides["f10.redacted"], sides["f11.redacted"], capsys)
    assert "both sides are, with different keys" in text.replace("\n         ", " ")


def test_one_of_several_equal_devices_that_moved_is_neither_gone_nor_new(
    tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "before").write_text(paste_of(NUMA))
    (tmp_path / "after").write_text(paste_of(NUMA).replace("22:00.0", "25:00.0"))
    status, text = compare_files(str(tmp_path / "before"), str(tmp_path / "after"), capsys)
    assert "VANISHED" not in text
    assert "HARMFUL" not in text
    assert "UNKNOWN" in text
    assert status == 3
    assert "2 devices not at the same address on both sides" in text.replace("\n        ", " ")
    assert "sudo lspci -nnvvxxxx" in text.replace("\n         ", " ")


def test_a_group_that_widened_is_seen_by_address_too(tmp_path: Path, capsys: Captured) -> None:
    paste = paste_of(NUMA)
    rows = [r for r in paste.splitlines() if r.startswith("/sys/kernel")]
    groups = {r.rpartition("/")[2]: r.split("/")[4] for r in rows}
    old = f"/iommu_groups/{groups['0000:42:00.0']}/devices/0000:42:00.0"
    new = f"/iommu_groups/{groups['0000:22:00.0']}/devices/0000:42:00.0"
    assert old in paste
    (tmp_path / "before").write_text(paste)
    (tmp_path / "after").write_text(paste.replace(old, new))
    status, text = compare_files(str(tmp_path / "before"), str(tmp_path / "after"), capsys)
    assert status == 2
    assert "GROUP_WIDENED" in text


def blurred(host: Host, **changes: object) -> Host:
    functions = tuple(replace(f, **changes) for f in host.functions)  # type: ignore[arg-type]
    return Host(replace(host.snapshot, facts=replace(host.facts, functions=functions)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subsystem_vendor": None, "subsystem_device": None}, "subsystem ids"),
        ({"parent": None, "root": "", "root_path": None}, "places in the PCI tree"),
        ({"root_path": None}, "host bridges"),
    ],
)
def test_what_one_side_lacks_is_taken_from_both(changes: dict[str, object], words: str) -> None:
    full = make_host(nic("0000:01:00.0"), nic("0000:01:00.1"))
    for pair in ((full, blurred(full, **changes)), (blurred(full, **changes), full)):
        found = compare_evidence(*pair)
        assert found.changes == ()
        assert found.unmatched == 0
        assert any(words in note for note in found.notes)


def test_equal_evidence_is_compared_as_it_is() -> None:
    host = make_host(nic("0000:01:00.0"))
    moved = make_host(nic("0000:05:00.0"))
    assert compare_evidence(host, host).notes == ()
    assert compare_evidence(host, moved).notes == ()


def test_redacted_settings_are_no_change() -> None:
    host = make_host(nic("0000:01:00.0"))
    attributes = (("AssetTag", "text-0011aabb"),)
    firmware = replace(host.facts.firmware, attributes=attributes)
    masked = Host(
        replace(
            host.snapshot,
            facts=replace(host.facts, firmware=firmware),
            readings=replace(host.readings, redacted="00112233"),
        )
    )
    assert compare_evidence(host, masked).changes == ()


def test_a_lost_device_is_lost_with_full_evidence() -> None:
    one, both = make_host(nic("0000:00:01.0")), make_host(nic("0000:00:01.0"), nic("0000:00:02.0"))
    assert "DEVICE_VANISHED" in [c.code for c in compare_evidence(both, one).changes]
    assert "DEVICE_APPEARED" in [c.code for c in compare_evidence(one, both).changes]


@pytest.mark.parametrize(("before", "after", "side"), [("", F10, "BEFORE"), (F10, "nix", "AFTER")])
def test_the_unusable_side_is_named(before: str, after: str, side: str, capsys: Captured) -> None:
    assert run(["diff", before, after]) == 64
    said = capsys.readouterr().err
    assert f"Error: {side} " in said
    assert "--root" not in said
    assert "--from" not in said.partition("Error:")[2].partition("vfioctl check")[0]


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x1f\x8bnot gzip"])
def test_a_file_without_evidence_is_named_too(
    content: bytes, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "x").write_bytes(content)
    assert run(["diff", F10, str(tmp_path / "x")]) == 64
    assert f"Error: AFTER {tmp_path / 'x'}" in capsys.readouterr().err


def test_one_side_may_be_stdin(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    paste = io.TextIOWrapper(io.BytesIO(paste_of(F11).encode()))
    monkeypatch.setattr("sys.stdin", paste)
    assert run(["diff", F10, "-"]) == 2
    assert "GROUP_WIDENED" in capsys.readouterr().out


def test_the_document_says_how_devices_were_matched(
    sides: dict[str, str], capsys: Captured
) -> None:
    run(["diff", sides["f10.json"], sides["f10.txt"], "-o", "json"])
    document = json.loads(capsys.readouterr().out)
    assert document["unmatched"] == 0
    assert len(document["notes"]) == 1


def test_two_machines_and_a_side_without_groups_are_said(tmp_path: Path, capsys: Captured) -> None:
    snapshot = inspect_host(F10).snapshot
    facts = snapshot.facts
    other = replace(facts.firmware, product_uuid=None, board_name="Other board")
    functions = tuple(replace(f, group=NO_GROUP) for f in facts.functions or ())
    changed = replace(facts, firmware=other, functions=functions, groups=())
    target = tmp_path / "other.json"
    target.write_bytes(encode_artifact(replace(snapshot, facts=changed)))
    _, text = compare_files(F10, str(target), capsys)
    flat = " ".join(text.split())
    assert "the two sides are different machines: board" in flat
    assert "AFTER has no IOMMU group at all" in flat
    _, text = compare_files(F10, F11, capsys)
    assert "MATCHED" not in text


# --- what to edit --------------------------------------------------------------------------------

VM_101 = "name: render\nhostpci0: 01:00,pcie=1\nhostpci1: 0000:03:00\n"
MAPPINGS = "disk\n\tmap id=1b36:0010,iommugroup={group},node={node},path=0000:02:00.0\n"


def with_vms(root: str, target: Path) -> str:
    """The captured host, with a VM and a mapping that name its devices as they were under F10."""
    f10, snapshot = inspect_host(F10).host, inspect_host(root).snapshot
    group = next(f.group for f in f10.functions if f.address == "0000:02:00.0")
    source = "/etc/pve/qemu-server/101.conf"
    facts = replace(
        snapshot.facts,
        vms=(parse_proxmox(VM_101, name="101", source=source),),
        mappings=parse_mappings(
            MAPPINGS.format(group=group, node=snapshot.facts.host),
            source="/etc/pve/mapping/pci.cfg",
        ),
    )
    target.write_bytes(encode_artifact(replace(snapshot, facts=facts)))
    return str(target)


def test_the_lines_of_vms_and_mappings_to_edit_are_listed(tmp_path: Path, capsys: Captured) -> None:
    before = with_vms(F10, tmp_path / "f10.json")
    after = with_vms(F11, tmp_path / "f11.json")
    status, text = compare_files(before, after, capsys)
    assert status == 2
    for moved in ("01:00.0 -> 0000:04:00.0", "02:00.0 -> 0000:05:00.0", "03:00.1 -> 0000:06:00.1"):
        assert moved in text
    flat = " ".join(text.split())
    assert "EDIT 3 lines that mean another device now" in flat
    assert "/etc/pve/qemu-server/101.conf:2 hostpci0: 01:00 -> 04:00" in flat
    assert "/etc/pve/qemu-server/101.conf:3 hostpci1: 0000:03:00 -> 0000:06:00" in flat
    assert "path=0000:02:00.0 -> 0000:05:00.0, iommugroup=" in flat
    run(["diff", before, after, "-o", "json"])
    document = json.loads(capsys.readouterr().out)
    assert [row["code"] for row in document["stale"]] == [
        "MAPPING_STALE",
        "VM_ADDRESS_STALE",
        "VM_ADDRESS_STALE",
    ]
    run(["diff", before, before, "-o", "json"])
    assert json.loads(capsys.readouterr().out)["stale"] == []


def test_a_change_names_the_vms_and_units_that_it_concerns(
    tmp_path: Path, capsys: Captured
) -> None:
    before = with_vms(F10, tmp_path / "f10.json")
    after = with_vms(F11, tmp_path / "f11.json")
    _, text = compare_files(before, after, capsys)
    widened = text[text.index("GROUP_WIDENED") : text.index("meaning")]
    # the disk, too, which nobody names: it is one unit with the card of 101 now
    assert widened.count("affects  101") == 2
    run(["diff", before, after, "-o", "json"])
    document = json.loads(capsys.readouterr().out)
    card = next(c for c in document["changes"] if c["address_after"] == "0000:04:00.0")
    assert (card["vms"], len(card["units"])) == (["101"], 1)
    assert document["codes"]["GROUP_WIDENED"]["verdict"] == "FAIL"
    assert "Isolation was lost" in document["codes"]["GROUP_WIDENED"]["meaning"]
    assert set(document["codes"]) == {change["code"] for change in document["changes"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([F10], "give BEFORE and AFTER"),
        ([F10, F11, "--node", "pve01"], "--node pve01 needs --baseline"),
        (["--baseline", F10, F11], "--baseline is BEFORE"),
    ],
)
def test_which_sides_are_meant_must_be_said(words: list[str], said: str, capsys: Captured) -> None:
    assert run(["diff", *words]) == 64
    assert said in capsys.readouterr().err


# --- what cannot be read -------------------------------------------------------------------------


def test_an_artifact_of_another_version_is_not_to_be_made_again(
    tmp_path: Path, capsys: Captured
) -> None:
    target = tmp_path / "other.json"
    made = encode_artifact(inspect_host(F10).snapshot)
    target.write_bytes(made.replace(b"vfioctl.artifact/v1", b"vfioctl.artifact/v9"))
    for arguments in (["diff", F10, str(target)], ["check", "--from", str(target)]):
        assert run(arguments) == 64
        said = " ".join(capsys.readouterr().err.split())
        assert "schema is 'vfioctl.artifact/v9', this version reads 'vfioctl.artifact/v1'" in said
        assert "Read it with the version of vfioctl that wrote it" in said
    target.write_bytes(made.replace(b"vfioctl.artifact/v1", b"somebody.else/v1"))
    assert run(["diff", F10, str(target)]) == 64
    assert "Make one: vfioctl collect -o FILE" in " ".join(capsys.readouterr().err.split())
