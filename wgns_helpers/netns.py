"""Named network namespaces, as ip-netns(8) has them: a name is an nsfs mount on a file in /run/netns."""

from __future__ import annotations

import fcntl
import os
import stat

from .errors import Failure, MissingError, PermissionRefusedError, UsageError, did_you_mean, say, shown, system_error
from .netlink import socket

DIRECTORY = "/run/netns"

CLONE_NEWNET = 0x40000000  # sched.h
MS_BIND, MS_REC, MS_SHARED, MNT_DETACH = 0x1000, 0x4000, 0x100000, 2  # sys/mount.h
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_READ_LIMIT = 1 << 21  # bytes; of files in /proc/sys the kernel refuses to read 4 MiB at once (KMALLOC_MAX_SIZE)
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.@+:")

# The links that each new namespace can have: lo, and what the kernel makes where a module for tunnels is loaded
# (net.core.fb_tunnels_only_for_init_net). None of them can be moved, so none leads out of its namespace.
LOCAL_LINKS = {"lo", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"}

# These settings imply private mounts, and others like ReadWritePaths=
MOUNTS_HINT = "set PrivateMounts=false in the unit, and none of PrivateTmp=, ProtectSystem=, ProtectHome=, BindPaths="

# What tells one namespace from another: device and inode number of its nsfs file (namespaces(7))
Identity = tuple[int, int]


def checked_name(text: str) -> str:
    """The name that `text` means, `UsageError` if it cannot be one.

    A slash is read as a dash: systemd's %I makes my/vpn of netns@my-vpn, and no name can hold a slash.
    """
    name = text.replace("/", "-")
    if "\\" in name:
        raise UsageError(f"{shown(text)} is an escaped name", "write %I in the unit, not %i")
    if not _NAME_CHARACTERS.issuperset(name) or not 0 < len(name) <= 255 or name.startswith("-") or name in (".", ".."):
        problem = f"{shown(text)} is not a name"
        raise UsageError(problem, "expected 1 to 255 letters, digits, _ - . @ + : with no leading dash")
    if name != text and not in_unit():
        say(f"{shown(text)} is read as {shown(name)}, as systemd's %I has it")
    return name


def checked_link(name: str) -> str:
    """`name` if a link can be called so (dev_valid_name of the kernel), `UsageError` otherwise."""
    if len(name) > 15 or ":" in name or name in ("lo", "all", "default"):
        problem = f"{shown(name)} cannot be an interface's name"
        raise UsageError(problem, 'at most 15 characters, no colon; "lo", "all" and "default" are taken')
    return name


def foreign_links() -> list[str]:
    """The links of this process's network namespace that the kernel has not made with it."""
    return [name for _, name in socket.if_nameindex() if name not in LOCAL_LINKS]


def in_unit() -> bool:
    """Whether this is the main process of a systemd unit, not something started by hand (systemd.exec(5))."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def in_host() -> bool:
    """Whether this process is in the network namespace of PID 1.

    /proc/PID/net/dev has an inode number of its own in each namespace, and needs no privilege, unlike /proc/1/ns/net.
    Raises `PermissionRefusedError` where /proc does not show it (hidepid=, ProtectProc=).
    """
    reason, hint = "this process is PID 1 itself", "set PrivatePIDs=false in the unit"
    try:
        if os.getpid() != 1:
            return os.path.samefile("/proc/1/net/dev", "/proc/self/net/dev")
    except OSError as error:
        reason, hint = f"/proc/1/net/dev: {error.strerror}", "is /proc mounted with hidepid=, or ProtectProc= set?"
    raise PermissionRefusedError(f"cannot tell whether this is the host's network namespace: {reason}", hint)


def own(process: str = "self") -> Identity:
    """The network namespace of a process, by default of this one. Raises OSError where that cannot be seen."""
    return identity(f"/proc/{process}/ns/net")


def identity(namespace: int | str) -> Identity:
    """Which namespace an open file or a path is."""
    status = os.stat(namespace)
    return status.st_dev, status.st_ino


def pinned(name: str) -> Identity | None:
    """The network namespace that is called `name`; None where there is no such name, or a plain file."""
    try:
        with open(open_namespace(name), "rb") as namespace:
            return identity(namespace.fileno())
    except MissingError:
        return None


def named() -> dict[str, Identity]:
    """The named network namespaces."""
    namespaces = {}
    for name in sorted(os.listdir(DIRECTORY)) if os.path.isdir(DIRECTORY) else ():
        try:
            namespaces[name] = pinned(name)
        except Failure:  # another kind of namespace
            continue
    return {name: namespace for name, namespace in namespaces.items() if namespace}


def processes() -> tuple[dict[Identity, list[int]], int]:
    """The processes by their network namespaces, and how many processes this one may not inspect."""
    members: dict[Identity, list[int]] = {}
    hidden = 0
    for process in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
        try:
            members.setdefault(own(str(process)), []).append(process)
        except PermissionError:
            hidden += 1
        except OSError:  # it has ended
            continue
    return members, hidden


def text(path: str) -> str:
    """The text of a small file as `read` has it, without blanks around it."""
    return read(path).decode(errors="replace").strip()


def lines(path: str) -> list[str]:
    """The lines of a file as `read` has it."""
    return read(path).decode(errors="replace").splitlines()


def read(path: str) -> bytes:
    """What a regular file contains; nothing if it is another, for a process may put a FIFO there, or cannot be read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
            return file.read(_READ_LIMIT) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return b""


def open_namespace(name: str) -> int:
    """A descriptor of the namespace `name`, which the caller closes; `MissingError` where there is none."""
    path = f"{DIRECTORY}/{name}"
    try:
        if os.stat(path).st_dev != own()[0]:  # all of nsfs is one device; a symlink to a namespace will do
            problem = f'"{path}" is no network namespace: nothing is mounted on it'
            raise MissingError(problem, f"was it pinned where this mount cannot be seen? {MOUNTS_HINT}")
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        near = did_you_mean(name, os.listdir(DIRECTORY) if os.path.isdir(DIRECTORY) else [])
        hint = f"{near}netns-up {name} makes one; systemctl start wg@{name}, a tunnel"
        raise MissingError(f'there is no network namespace "{name}"', hint) from None
    except OSError as error:
        raise system_error(path, error) from None
    if fcntl.ioctl(descriptor, _NS_GET_NSTYPE) != CLONE_NEWNET:
        os.close(descriptor)
        raise Failure(f"{path} is a namespace, but not one for the network", "who put it there?")
    return descriptor


def lacking(what: str, modules: str) -> MissingError:
    """The exception for a part of the kernel that is in modules; they are not loaded by themselves everywhere."""
    hint = f"modprobe -a {modules}"
    if text("/proc/sys/kernel/modules_disabled") == "1":
        hint = f"no module can be loaded before a reboot: name {modules} in /etc/modules-load.d/wgns.conf"
    return MissingError(f"the kernel has no {what}", hint)


def enter(descriptor: int) -> None:
    """Move this process into the open network namespace."""
    try:
        if hasattr(os, "setns"):  # Python 3.12; without ctypes 3 ms sooner
            os.setns(descriptor, CLONE_NEWNET)
        else:
            call("setns", descriptor, CLONE_NEWNET)
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


def call(name: str, *arguments: int | bytes | None) -> None:
    """A system call by its C function; raises OSError. All numbers go as unsigned long, which mount(2) takes."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"{name}(2)")
