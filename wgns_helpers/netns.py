"""Named network namespaces, as ip-netns(8) has them: a name is an nsfs mount on a file in /run/netns."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from . import signals
from .errors import (
    Failure,
    MissingError,
    PermissionRefusedError,
    TryAgainError,
    UsageError,
    say,
    shown,
    system_error,
    warn,
)

DIRECTORY = "/run/netns"

_CLONE_NEWNET = 0x40000000  # sched.h
MS_BIND, MS_REC, _MS_SHARED, _MNT_DETACH = 0x1000, 0x4000, 0x100000, 2  # sys/mount.h
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.@+:")

# The links that each new namespace can have: lo, and what the kernel makes where a module for tunnels is loaded
# (net.core.fb_tunnels_only_for_init_net). None of them can be moved, so none leads out of its namespace.
LOCAL_LINKS = frozenset(
    ("lo", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0")
)

_FOLDER_PATIENCE = 5.0  # seconds

PRIVATE_MOUNTS_HINT = (
    "set PrivateMounts=false in the unit, and none of PrivateTmp=, ProtectSystem=, ProtectHome=, ReadWritePaths=, "
    "BindPaths=, which imply private mounts"
)

# What tells one namespace from another: device and inode number of its nsfs file (namespaces(7))
Identity = tuple[int, int]


def checked_name(text: str) -> str:
    """The name that `text` means, `UsageError` if it cannot be one.

    A slash is read as a dash: systemd's %I makes my/vpn of netns@my-vpn, and no name can hold a slash.
    """
    name = text.replace("/", "-")
    if "\\" in name:
        raise UsageError(f"{shown(text)} is an escaped name", "write %I in the unit, not %i")
    possible = 0 < len(name) <= 255 and name not in (".", "..") and _NAME_CHARACTERS.issuperset(name)
    if not possible or name.startswith("-"):
        raise UsageError(
            f"{shown(text)} is not a name", "expected 1 to 255 letters, digits, _ - . @ + : with no leading dash"
        )
    if name != text and not in_unit():
        say(f"{shown(text)} is read as {shown(name)}, as systemd's %I has it")
    return name


def checked_link(name: str) -> str:
    """`name` if a link can be called so (dev_valid_name of the kernel), `UsageError` otherwise."""
    if len(name) > 15 or ":" in name or name in ("lo", "all", "default"):
        raise UsageError(
            f"{shown(name)} cannot be an interface's name",
            'at most 15 characters, no colon; "lo", "all" and "default" are taken',
        )
    return name


def in_unit() -> bool:
    """Whether this is the main process of a systemd unit, not something started by hand (systemd.exec(5))."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def in_host() -> bool:
    """Whether this process is in the network namespace of PID 1.

    /proc/PID/net/dev has an inode number of its own in each namespace and can be looked at without privilege, unlike
    /proc/1/ns/net. Raises `PermissionRefusedError` where it cannot be told (hidepid, ProtectProc=).
    """
    if os.getpid() == 1:
        raise PermissionRefusedError(
            "cannot tell whether this is the host's network namespace: this process is PID 1 itself",
            "set PrivatePIDs=false in the unit",
        )
    try:
        return os.stat("/proc/1/net/dev").st_ino == os.stat("/proc/self/net/dev").st_ino
    except OSError as error:
        raise PermissionRefusedError(
            f"cannot tell whether this is the host's network namespace: /proc/1/net/dev: {error.strerror}",
            "is /proc mounted with hidepid=, or ProtectProc= set?",
        ) from None


def own(process: str = "self") -> Identity:
    """The network namespace that a process, by default this one, is in. Raises OSError where that cannot be seen."""
    status = os.stat(f"/proc/{process}/ns/net")
    return status.st_dev, status.st_ino


def identity(descriptor: int) -> Identity:
    """Which namespace is open."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def pinned(name: str) -> Identity | None:
    """The network namespace that is called `name`; None where there is no such name, or a plain file."""
    try:
        descriptor = open_namespace(name)
    except MissingError:
        return None
    try:
        return identity(descriptor)
    finally:
        os.close(descriptor)


def named() -> dict[str, Identity]:
    """The named network namespaces."""
    found = {}
    for name in sorted(os.listdir(DIRECTORY)) if os.path.isdir(DIRECTORY) else ():
        try:
            identity = pinned(name)
        except Failure:  # another kind of namespace
            continue
        if identity:
            found[name] = identity
    return found


def processes() -> tuple[dict[Identity, list[int]], int]:
    """The processes by their network namespaces, and how many others cannot be looked at."""
    found: dict[Identity, list[int]] = {}
    hidden = 0
    for process in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
        try:
            found.setdefault(own(str(process)), []).append(process)
        except PermissionError:
            hidden += 1
        except OSError:  # it has ended
            continue
    return found, hidden


def comm(process: int) -> str:
    """The name of a process (proc_pid_comm(5)), "" if it has ended."""
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def open_namespace(name: str) -> int:
    """A descriptor of the namespace `name`, which the caller closes; `MissingError` where there is none."""
    path = f"{DIRECTORY}/{name}"
    try:
        if os.stat(path).st_dev != own()[0]:  # all of nsfs is one device; a symlink to a namespace will do
            raise MissingError(
                f'"{path}" is no network namespace: nothing is mounted on it',
                f"was it pinned where this mount cannot be seen? {PRIVATE_MOUNTS_HINT}",
            )
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f'there is no network namespace "{name}"', f"netns-up {name} makes one") from None
    except OSError as error:
        raise system_error(path, error) from None
    if fcntl.ioctl(descriptor, _NS_GET_NSTYPE) != _CLONE_NEWNET:
        os.close(descriptor)
        raise Failure(f"{path} is a namespace, but not one for the network", "who put it there?")
    return descriptor


def enter(descriptor: int) -> None:
    """Move this process into the open network namespace."""
    try:
        if hasattr(os, "setns"):  # Python 3.12; without ctypes 3 ms sooner
            os.setns(descriptor, _CLONE_NEWNET)
        else:
            call("setns", descriptor, _CLONE_NEWNET)
    except OSError as error:
        raise system_error("cannot enter the network namespace", error) from None


class Inside:
    """Have this process in the open network namespace for a while."""

    def __init__(self, descriptor: int) -> None:
        self._there, self._here = descriptor, -1

    def __enter__(self) -> None:
        self._here = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            enter(self._there)
        except Failure:
            os.close(self._here)
            raise

    def __exit__(self, *_: object) -> None:
        enter(self._here)
        os.close(self._here)


def enter_new() -> None:
    """Move this process into a network namespace of its own."""
    try:
        call("unshare", _CLONE_NEWNET)
    except OSError as error:
        raise system_error("cannot make a network namespace", error) from None


def attach(name: str) -> None:
    """Give this process's namespace the name `name`. The caller holds the lock, and knows that it is not the host's.

    Makes sure that PID 1 sees the mount; where it does not, or anything else fails, the name is as before. Raises
    `Failure`.
    """
    path = f"{DIRECTORY}/{name}"
    made = mounted = False
    try:
        _prepare_directory()
        made = _placeholder(path)
        call("mount", b"/proc/self/ns/net", path.encode(), b"none", MS_BIND, None)
        mounted = True
        signals.check()
        if f"net:[{own()[1]}]" not in _pid1_roots(path):
            raise _private_mounts(path)  # noqa: TRY301
    except BaseException as error:
        if mounted:
            call("umount2", path.encode(), _MNT_DETACH)
        if made:
            os.unlink(path)
        if isinstance(error, OSError):
            raise system_error(path, error) from None
        raise


def detach(name: str, pinned: Identity | None) -> None:
    """Take the name away, of the namespace `pinned` or of an empty file. The caller holds the lock; `Failure`."""
    path = f"{DIRECTORY}/{name}"
    try:
        while os.lstat(path).st_dev == own()[0]:  # a name can be mounted over
            call("umount2", path.encode(), _MNT_DETACH)
        wanted = f"net:[{pinned[1]}]" if pinned else "net:["
        if any(root.startswith(wanted) for root in _pid1_roots(path)):
            raise _private_mounts(path)
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            raise Failure(f"{path} is no network namespace and not empty: left alone", "who put it there?")
        os.unlink(path)
    except OSError as error:
        raise system_error(path, error) from None


def _private_mounts(path: str) -> Failure:
    return PermissionRefusedError(
        f"{path} is mounted differently inside and outside this process: the unit has a private mount namespace",
        PRIVATE_MOUNTS_HINT,
    )


def _prepare_directory() -> None:
    """Make /run/netns a shared mount, so that names made later are seen in other mount namespaces (ip-netns(8)).

    `ip netns add` does the same under the folder's lock (Debian bug 949235). Any user can hold that, so it is taken
    only for the first time, and not waited for longer than ip(8) can need.
    """
    signals.make_folder(DIRECTORY)
    if _share_directory():
        return
    descriptor = os.open(DIRECTORY, os.O_RDONLY)
    try:
        signals.take(descriptor, DIRECTORY, _FOLDER_PATIENCE)
    except TryAgainError as error:
        warn(f"{error}: going on without it")
    try:
        path = DIRECTORY.encode()
        if not _share_directory():
            call("mount", path, path, b"none", MS_BIND | MS_REC, None)
            _share_directory()
    finally:
        os.close(descriptor)


def _share_directory() -> bool:
    """Make the mount on /run/netns a shared one; False where there is no mount yet."""
    try:
        call("mount", b"", DIRECTORY.encode(), b"none", _MS_SHARED | MS_REC, None)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _placeholder(path: str) -> bool:
    """Make the file to mount on; False where a stale one, empty and without a mount, is there already."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    except FileExistsError:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and not status.st_size:
            return False
        raise Failure(f"{path} is there, and it is no network namespace", "who put it there?") from None
    return True


def _pid1_roots(path: str) -> list[str]:
    """What PID 1 has mounted at `path`, as net:[INODE] for a network namespace.

    In proc_pid_mountinfo(5) field 4 is the root, 5 the mount point; in a chroot that has the chroot's path in front.
    """
    with open("/proc/1/mountinfo", encoding="utf-8", errors="replace") as lines:
        return [fields[3] for fields in map(str.split, lines) if fields[4].endswith(path)]


def call(name: str, *arguments: int | bytes | None) -> None:
    """A system call by its C function; numbers are int (mount's flags unsigned long), texts bytes. Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_ulong if name == "mount" else ctypes.c_int
    converted = [number(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    if getattr(libc, name)(*converted):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
