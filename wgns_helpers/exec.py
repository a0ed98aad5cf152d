"""`wgns exec`: a command with the isolation that the drop-in gives a service.

It does by itself what systemd does for a unit: systemd-run(1) with --pipe would leave the command running when its
caller is killed.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
from struct import pack

from . import check, confine, netns
from .errors import Failure, MissingError, PermissionRefusedError, UsageError, shown, warn

_CLONE_NEWNS = 0x20000  # sched.h
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_SLAVE = 1, 2, 4, 8, 32, 1 << 19  # sys/mount.h
_PR_CAPBSET_DROP, _CAPABILITY_VERSION_3 = 24, 0x20080522  # linux/prctl.h, linux/capability.h
_FAMILIES = (40, 42)  # AF_VSOCK, AF_QIPCRTR of sys/socket.h, which no namespace separates
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # asm-generic/ioctls.h
_LOW = 0xFFFFFFFF  # what the kernel reads of these arguments

# seccomp.h
_SCMP_ACT_ALLOW, _SCMP_ACT_EPERM = 0x7FFF0000, 0x00050001
_SCMP_FLTATR_ACT_BADARCH, _SCMP_CMP_MASKED_EQ = 2, 7

_CALLERS = ("SUDO_UID", "PKEXEC_UID", "DOAS_USER")  # how sudo(8), pkexec(1) and doas(1) name their caller

# The further ABIs whose programs a machine may run, by their names in libseccomp; calls by any other are refused
_ABIS = {"aarch64": (b"arm",), "s390x": (b"s390",), "x86_64": (b"x86", b"x32")}


def execute(name: str, user: str, command: list[str], allowed: list[str]) -> None:
    """Become `command`, confined to the tunnel `name`, as `user` ("": who called sudo, or the caller).

    Confines this process, proves that as `wgns check` does, and only then executes the command. Raises `Failure` or
    OSError; nothing but this process itself has changed then.
    """
    allowed = [confine.checked_path(path) for path in allowed]
    account = _account(user)
    descriptor = netns.open_namespace(name)
    folder = os.getcwd()
    os.get_exec_path()  # imports what the user may not be able to read
    netns.enter(descriptor)
    _hide(name, allowed)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)  # descriptors can be above the present limit
    _restrict()
    if account:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name, SHELL=account.pw_shell)
    try:
        os.chdir(folder)  # by its name and as the user: its former place would still show the host's /run
    except OSError:
        os.chdir("/")
        warn(f"{folder} cannot be entered: the command starts in /")
    for point, holds, reason in check.points(name):
        if holds is False:
            raise PermissionRefusedError(f'not confined to "{name}": {point}: {reason}', "nothing was executed")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        failure = Failure(f"{shown(command[0])}: {(error.strerror or '').lower()}")
        failure.code = 127 if isinstance(error, FileNotFoundError) else 126  # as env(1)
        raise failure from None


def _restrict() -> None:
    """Set what the drop-in sets: no_new_privs, the capabilities, and a system call filter for all ABIs of the machine.

    The terminal may be root's, so the filter lets nobody put input into it (TIOCSTI and TIOCLINUX of ioctl_tty(2)).
    """
    library = check.libseccomp()
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_SCMP_ACT_ALLOW))
    calls = [library.seccomp_attr_set(context, _SCMP_FLTATR_ACT_BADARCH, _SCMP_ACT_EPERM)]
    abis = map(library.seccomp_arch_resolve_name, _ABIS.get(os.uname().machine, ()))
    calls += [library.seccomp_arch_add(context, abi) for abi in abis]
    rules = [(name, b"") for name in (b"add_key", b"keyctl", b"request_key")]
    # A call, and as struct scmp_arg_cmp the value that the lower half of one of its arguments has
    rules += [(b"socket", pack("=IiQQ", 0, _SCMP_CMP_MASKED_EQ, _LOW, family)) for family in _FAMILIES]
    rules += [(b"ioctl", pack("=IiQQ", 1, _SCMP_CMP_MASKED_EQ, _LOW, request)) for request in (_TIOCSTI, _TIOCLINUX)]
    for name, condition in rules:
        call = library.seccomp_syscall_resolve_name(name)
        calls.append(library.seccomp_rule_add_array(context, _SCMP_ACT_EPERM, call, len(condition) // 24, condition))
    calls.append(library.seccomp_load(context))  # which sets no_new_privs first
    if any(calls):
        raise OSError(-min(calls), os.strerror(-min(calls)), "system call filter")
    status = netns.lines("/proc/self/status")
    permitted = int(next(line for line in status if line.startswith("CapPrm:")).split()[1], 16)
    for number in check.CAPABILITIES.values():
        netns.call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
        permitted &= ~(1 << number)
    low, high = permitted & _LOW, permitted >> 32
    netns.call("capset", pack("=Ii", _CAPABILITY_VERSION_3, 0), pack("=6I", low, low, 0, high, high, 0))


def _account(user: str) -> pwd.struct_passwd | None:
    """The user that the command runs as; None: the caller."""
    if os.geteuid():
        problem = "wgns exec has to be started by root"
        raise PermissionRefusedError(problem, "sudo wgns exec … runs the command as the user who calls sudo")
    name = user or next(filter(None, map(os.environ.get, _CALLERS)), "")
    try:
        account = (pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)) if name else None
    except (KeyError, OverflowError):
        raise UsageError(f"there is no user {shown(name)}") from None
    if not user and not (account and account.pw_uid):
        warn("the command runs as root", "--user USER makes it another user's; --user root says that this is meant")
    return account


def _hide(name: str, allowed: list[str]) -> None:
    """Give this process mounts of its own, as the drop-in has them: another /run, /proc and /sys, and files in /etc."""
    settings = [line.partition("=")[::2] for line in confine.text(name).splitlines()]
    netns.call("unshare", _CLONE_NEWNS)
    netns.call("mount", b"none", b"/", None, netns.MS_REC | _MS_SLAVE, None)
    sources = {}  # of the bind mounts, by target; open, since a new /run hides their names
    for bind in [*(value for key, value in settings if key == "BindReadOnlyPaths"), *allowed]:
        source, _, target = bind.removeprefix("-").partition(":")
        if os.path.exists(source):
            sources[os.path.realpath(target or source)] = f"/proc/self/fd/{os.open(source, os.O_PATH)}"
        elif not bind.startswith("-"):
            hint = "start first what makes it" if bind in allowed else f"systemctl start {confine.tunnel_unit(name)}"
            raise MissingError(f"there is no {source}", hint)
    _mount("tmpfs", "/run", _MS_NOSUID | _MS_NODEV, "mode=755")
    umask = os.umask(0o022)  # the command's user has to get there
    for target, source in sources.items():
        if target.startswith("/run/"):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            (os.mkdir if os.path.isdir(source) else os.mknod)(target)
        if os.path.exists(target):
            _mount(source, target, netns.MS_BIND | netns.MS_REC)
            _mount("none", target, netns.MS_BIND | _MS_REMOUNT | _MS_NOSUID | _MS_RDONLY * (target not in allowed))
        elif os.path.basename(target) != "nsswitch.conf":  # a C library that has none needs none
            raise MissingError(f"{target} does not exist, so the tunnel's cannot be mounted there", f"touch {target}")
    os.umask(umask)
    sealed = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    for path in [value.removeprefix("-") for key, value in settings if key == "InaccessiblePaths"]:
        if os.path.isdir(path):
            _mount("tmpfs", path, _MS_RDONLY | sealed, "mode=000")
    _mount("sysfs", "/sys", _MS_RDONLY | sealed)
    _mount("proc", "/proc", sealed, "hidepid=4")  # ptraceable, also for the group of root
    _mount("/proc/sys", "/proc/sys", netns.MS_BIND)  # by kernel.core_pattern root would have a program run in the host
    _mount("none", "/proc/sys", netns.MS_BIND | _MS_REMOUNT | _MS_RDONLY | sealed)


def _mount(source: str, target: str, flags: int, options: str = "") -> None:
    """A mount(2) whose errors name the target. `source` is the type too, which a bind mount ignores."""
    try:
        netns.call("mount", source.encode(), target.encode(), source.encode(), flags, options.encode())
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), f"mount on {target}") from None
