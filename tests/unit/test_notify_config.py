"""notify.toml: what it means, and that each mistake in it is named by its field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vfio_agent.checks import CATALOGUE
from vfio_contract.check_codes import CHECK_CODES
from vfio_contract.codes import CLUSTER_CODES
from vfio_coordinator.notify_config import (
    ExecTarget,
    NotifyConfigError,
    WebhookTarget,
    read_targets,
)

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "notify.toml"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "notify.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_both_kinds_with_all_that_can_be_said(tmp_path: Path) -> None:
    text = """
        [[webhook]]
        name = "team-chat"
        url = "https://[2001:db8::1]:8443/hooks/3f9?x=1"
        min-level = "ERR"
        codes = ["GROUP_WIDENED"]
        timeout-s = 2.5

        [[exec]]
        argv = ["/bin/sh", "-c", "true"]

        [[webhook]]
        url = "http://127.0.0.1"
    """
    assert read_targets(write(tmp_path, text)) == (
        ExecTarget(
            name="exec-1",
            min_level="WARN",
            codes=(),
            timeout_s=10.0,
            argv=("/bin/sh", "-c", "true"),
        ),
        WebhookTarget(
            name="team-chat",
            min_level="ERR",
            codes=("GROUP_WIDENED",),
            timeout_s=2.5,
            tls=True,
            host="2001:db8::1",
            port=8443,
            path="/hooks/3f9?x=1",
        ),
        WebhookTarget(
            name="webhook-2",
            min_level="WARN",
            codes=(),
            timeout_s=10.0,
            tls=False,
            host="127.0.0.1",
            port=80,
            path="/",
        ),
    )


def test_every_code_that_a_check_gives_can_be_named(tmp_path: Path) -> None:
    assert {code.name for check in CATALOGUE for code in check.codes} == CHECK_CODES
    listed = ", ".join(f'"{code.name}"' for code in CLUSTER_CODES)
    assert read_targets(write(tmp_path, f"{WEB}codes = [{listed}]"))


def test_an_empty_file_tells_nobody(tmp_path: Path) -> None:
    assert read_targets(write(tmp_path, "")) == ()


def test_the_example_can_be_used_as_it_is(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert read_targets(write(tmp_path, text)) == ()
    told = re.sub(r"^#(\[\[|[a-z-]+ = )", r"\1", text, flags=re.MULTILINE)
    told = told.replace("/usr/local/sbin/page-oncall", "/bin/true")
    kinds = [type(t) for t in read_targets(write(tmp_path, told))]
    assert kinds == [ExecTarget, WebhookTarget]


WEB = '[[webhook]]\nurl = "http://h/"\n'
EXEC = '[[exec]]\nargv = ["/bin/true"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[mail]]", r"\[\[mail\]\] is not known"),
        ("[exec]\nargv = []", "exec is not a list of tables"),
        ("exec = 3", "exec is not a list of tables"),
        ("[[exec]]", r"\[\[exec\]\] 1: argv: missing"),
        ('[[exec]]\nargv = "rm -rf"', r"\[\[exec\]\] 1: argv: it is no list of texts"),
        ('[[exec]]\nargv = ["page"]', "argv: 'page' is no absolute path"),
        ('[[exec]]\nargv = ["/nowhere/page"]', "argv: /nowhere/page is no program"),
        ('[[exec]]\nargv = ["/etc/passwd"]', "argv: /etc/passwd is no program"),
        ('[[exec]]\nargv = ["/bin/true", "a\\u0000b"]', "argv: a word holds a NUL"),
        (f"{EXEC}shell = true", "shell: not known; known are argv, codes, min-level"),
        ("[[webhook]]", r"\[\[webhook\]\] 1: url: missing"),
        ('[[webhook]]\nurl = "ftp://h/"', "url: it is no http:// or https://"),
        ('[[webhook]]\nurl = "https:///x"', "url: it is no http:// or https://"),
        ('[[webhook]]\nurl = "http://h:99999/"', "url: its host or port cannot be read"),
        ('[[webhook]]\nurl = "http://me:secret@h/"', "url: user and password"),
        ('[[webhook]]\nurl = "http://h/a b"', "url: it holds a space"),
        ('[[webhook]]\nurl = "http://h/\\r\\nX: y"', "url: it holds a space or something"),
        (f'{WEB}{WEB}min-level = "INFO"', r"\[\[webhook\]\] 2: min-level: 'INFO' is none of"),
        (f'{WEB}codes = ["widened"]', "codes: 'widened' is no health code"),
        (f"{WEB}codes = []", "codes: it is empty"),
        (f'{WEB}codes = ["BOGUS"]', "line 3: codes: BOGUS of webhook-1 is no code .*; docs/"),
        (
            f'{WEB}# GROUP_WIDEND\ncodes = [\n"NODE_LOST", # that\n"GROUP_WIDEND"]',
            "line 6: codes: GROUP_WIDEND .*; near it: GROUP_WIDENED",
        ),
        (f"{WEB}timeout-s = 0", "timeout-s: 0 is not within 60 seconds"),
        (f"{WEB}timeout-s = 61", "timeout-s: 61 is not within"),
        (f"{WEB}timeout-s = nan", "timeout-s: nan is not within"),
        (f"{WEB}timeout-s = true", "timeout-s: it is no number"),
        (f'{WEB}name = "Team Chat"', "name: 'Team Chat' is not a name"),
        (f'{WEB}name = "a"\n{EXEC}name = "a"', "two targets have one name"),
        (WEB * 17, "17 targets; at most 16"),
        ("[[webhook", r"notify.toml: .* \(at "),
        ("#" * 70_000, "larger than"),
    ],
)
def test_a_mistake_is_named_by_its_field(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(NotifyConfigError, match=said) as caught:
        read_targets(path)
    assert str(caught.value).startswith(str(path))
    assert "secret" not in str(caught.value)


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, EXEC)
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(NotifyConfigError, match="others may write to it: chmod go-w"):
            read_targets(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotifyConfigError, match="No such file"):
        read_targets(tmp_path / "none.toml")
