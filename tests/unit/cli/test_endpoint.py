"""Where the coordinator is looked for, and what is said when that cannot be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfio_cli.endpoint import MAX_SOCKET_PATH, Endpoint, coordinator_state, resolve
from vfio_cli.exits import USAGE, Mistake


def find(
    endpoint: str | None = None, tls: str | None = None, *, uid: int = 1000, **environ: str
) -> Endpoint:
    return resolve(endpoint, tls, environ={"HOME": "/home/ops"} | environ, uid=uid)


def test_root_and_others_have_their_own_default() -> None:
    assert str(find(uid=0)) == "unix:/var/lib/vfioctl/coordinator/api.sock"
    assert str(find()) == "unix:/home/ops/.local/state/vfioctl/coordinator/api.sock"
    assert str(find(XDG_STATE_HOME="/s")) == "unix:/s/vfioctl/coordinator/api.sock"


def test_the_state_directory_names_the_socket() -> None:
    assert str(find(VFIOCTL_STATE="/srv/co")) == "unix:/srv/co/api.sock"
    assert coordinator_state({"VFIOCTL_STATE": "/srv/co"}, uid=0) == Path("/srv/co")


def test_the_option_wins_over_the_environment() -> None:
    assert str(find("unix:/a.sock", VFIOCTL_ENDPOINT="unix:/b.sock")) == "unix:/a.sock"
    assert str(find(VFIOCTL_ENDPOINT="unix:/b.sock")) == "unix:/b.sock"


def test_an_address_comes_with_its_bundle() -> None:
    expected = Endpoint(socket=None, address="co1:7443", bundle=Path("/b"))
    assert find("co1:7443", "/b") == expected
    assert find(VFIOCTL_ENDPOINT="co1:7443", VFIOCTL_TLS="/b") == expected


def test_a_bundle_may_name_its_coordinator(tmp_path: Path) -> None:
    (tmp_path / "endpoint").write_text("[::1]:7443\n")
    assert find(tls=str(tmp_path)).address == "[::1]:7443"


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("co1:7443", "needs a credential bundle: add --tls DIR"),
        ("co1", "neither host:port nor unix:"),
        ("https://co1:7443", "neither host:port nor unix:"),
        ("unix:/" + "x" * MAX_SOCKET_PATH, "longer than 107 bytes"),
    ],
)
def test_a_mistake_names_the_option_and_the_fix(endpoint: str, says: str) -> None:
    with pytest.raises(Mistake, match="--endpoint") as caught:
        find(endpoint)
    assert says in caught.value.message
    assert caught.value.exit_code == USAGE


def test_a_bundle_without_an_endpoint_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="add --endpoint HOST:PORT"):
        find(tls=str(tmp_path))
    (tmp_path / "endpoint").write_text("nonsense")
    with pytest.raises(Mistake, match="--tls"):
        find(tls=str(tmp_path))
