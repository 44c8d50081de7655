"""Giving up root, for ever: what the network process does before it opens anything.

The program is loaded as root, so that an installation below a directory of root's works too; then
this runs, then the first connection is made. It must never leave a way back, nor go on as root when
it was told not to.
"""

from __future__ import annotations

import ctypes
import os
import pwd

ACCOUNT = "vfioctl"
"""What packages create; see `choose_account`."""

FALLBACK = "nobody"

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
"""prctl(2)."""


class AccountError(Exception):
    """The account cannot be used; the text names it and the fix."""


def choose_account(named: str) -> str:
    """The account for the network process: the one named, else `vfioctl` if there is one, else
    `nobody`; "" where we are not root and stay who we are. AccountError if there is no such one."""
    if named or os.geteuid() != 0:
        return _find(named).pw_name if named else ""
    try:
        return _find(ACCOUNT).pw_name
    except AccountError:
        return _find(FALLBACK).pw_name


def _find(name: str) -> pwd.struct_passwd:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise AccountError(
            f"--user {name}: there is no such user: adduser --system {name}"
        ) from None
    if entry.pw_uid == 0:
        raise AccountError(f"--user {name}: the network process is root then; name another")
    if os.geteuid() != 0:
        raise AccountError(f"--user {name}: only root can become another user; leave it out")
    return entry


def become(account: str) -> None:
    """Be this account for ever, "" for the present one, and never gain a privilege again."""
    if account:
        entry = _find(account)
        os.setgroups([])
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    if os.getresuid() != (os.getuid(),) * 3 or os.getuid() == 0:
        raise AccountError("the network process is root; give --user an account that is not")
    libc = ctypes.CDLL(None, use_errno=True)
    # Others of this uid may not trace it or read its memory: the node's key is in there.
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, value, 0, 0, 0):
            raise AccountError(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
