"""A command with the isolation of a confined service: what `ip netns exec` lacks."""

from __future__ import annotations

import os
import stat

from . import check, dropin, netns
from .errors import Failure, PermissionRefusedError, UsageError, shown, system_error, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pwd
    import signal as _signal
    from typing import NoReturn
else:
    import _signal

_CLONE_NEWNS = 0x20000  # sched.h
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_SLAVE = 1, 2, 4, 32, 1 << 19  # sys/mount.h


class CommandError(Failure):
    """The command cannot be executed; the exit codes are those of env(1)."""

    def __init__(self, command: str, error: OSError) -> None:
        super().__init__(f"{shown(command)}: {(error.strerror or '').lower()}")
        self.code = 127 if isinstance(error, FileNotFoundError) else 126


def execute(name: str, user: str, command: list[str]) -> NoReturn:
    """Become `command`, confined to the tunnel `name`, as `user` ("": who called sudo, or the caller).

    Its isolation is proved before, as `wgns check` does. Raises `Failure`; then nothing has been changed but this
    process itself.
    """
    account = _account(user)
    descriptor = netns.open_namespace(name)
    folder = os.getcwd()
    netns.enter(descriptor)
    try:
        _hide(name)
    except OSError as error:
        raise system_error(str(error.filename or "mount"), error) from None
    for point, holds, found in check.points(name, default=False):
        if holds is False:
            raise PermissionRefusedError(f'not confined to "{name}": {point}: {found}', f"wgns check {name}")
    try:
        os.chdir(folder)  # anew, by its name: where this process stood, the host's /run is still to be seen
    except OSError:
        os.chdir("/")
        warn(f"{folder} is hidden: the command starts in /")
    if account:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        names = {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name, "SHELL": account.pw_shell}
        os.environ.update(names)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # which Python ignores
        _signal.signal(number, _signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise CommandError(command[0], error) from None


def _account(user: str) -> pwd.struct_passwd | None:
    """Whose process it is to be; None: it stays the caller's."""
    if os.geteuid():
        raise PermissionRefusedError(
            "wgns exec has to be started by root", "sudo wgns exec … runs it as who calls sudo"
        )
    import pwd

    user = user or os.environ.get("SUDO_UID", "")
    try:
        return (pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)) if user else None
    except KeyError:
        raise UsageError(f"there is no user {shown(user)}") from None


def _hide(name: str) -> None:
    """Give this process mounts of its own, as the drop-in describes them: another /run, and files in /etc."""
    netns.call("unshare", _CLONE_NEWNS)
    netns.call("mount", b"none", b"/", None, netns.MS_REC | _MS_SLAVE, None)
    settings = [line.partition("=") for line in dropin.text(name).splitlines()]
    binds = [value for key, _, value in settings if key == "BindReadOnlyPaths"]
    sources = {}
    for bind in binds:
        source, _, target = bind.removeprefix("-").partition(":")
        try:
            sources[target or source] = os.open(source, os.O_PATH)
        except FileNotFoundError:
            if not bind.startswith("-"):
                raise
    targets = {os.path.realpath(target): descriptor for target, descriptor in sources.items()}
    netns.call("mount", b"tmpfs", b"/run", b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=755")
    umask = os.umask(0o022)  # the command's user has to get there
    for target, descriptor in targets.items():
        if target.startswith("/run/"):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                os.mkdir(target)
            else:
                os.close(os.open(target, os.O_CREAT | os.O_EXCL, 0o644))
        if os.path.exists(target) or "nsswitch" not in target:  # a C library that has none needs none
            place = target.encode()
            netns.call("mount", f"/proc/self/fd/{descriptor}".encode(), place, None, netns.MS_BIND | netns.MS_REC, None)
            netns.call("mount", None, place, None, netns.MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID, None)
    os.umask(umask)
