"""The recipes of netns-up and netns-down."""

from __future__ import annotations

import os
import stat

from . import dns_files, netlink, netns, signals
from .errors import Failure, PermissionRefusedError, TryAgainError, listed, say, say_absent, warn
from .signals import Lock

_FOLDER_PATIENCE = 5.0  # seconds
# The sysctls that are off, for all present and later links
_OFF = {
    "ipv4": ("forwarding", "route_localnet", "accept_local", "accept_redirects", "accept_source_route"),
    "ipv6": ("forwarding", "accept_redirects", "accept_source_route", "accept_ra"),
}


def up(name: str) -> None:
    """Give this process's network namespace the name `name`; in the host's namespace, make a new one for it.

    The host's own namespace never gets a name: services confined to it would be on the host's network.
    Raises `Failure` or OSError.
    """
    host = netns.in_host()
    if host and netns.in_unit():
        problem = "this unit is in the host's network namespace, which is never given a name"
        raise PermissionRefusedError(problem, "the unit lacks PrivateNetwork=true, or the kernel refused it")
    if os.statvfs("/run").f_flag & os.ST_RDONLY:  # ProtectSystem=strict
        raise PermissionRefusedError("/run is read-only: others would not see the name", netns.MOUNTS_HINT)
    signals.hold()
    with Lock(name):
        pinned, own = netns.pinned(name), netns.own()
        if host and pinned == own:
            raise Failure(f'"{name}" is the host\'s own network namespace', f"netns-down {name} takes it away")
        if pinned and not host and pinned != own:
            problem = f'"{name}" is network namespace {pinned[1]} already, this one is {own[1]}'
            hint = f"netns-down {name} takes the name away; services that run in {pinned[1]} stay there"
            raise PermissionRefusedError(problem, hint)
        if pinned:
            say(f'"{name}" exists already')
        else:
            _attach(name, new=host)
        dns_files.publish(name)


def _attach(name: str, *, new: bool) -> None:
    """Give this process's namespace, or a new one, the name; where PID 1 does not see it, the name is as before."""
    if new:
        netns.call("unshare", netns.CLONE_NEWNET)
        with netlink.Socket() as socket:
            socket.run([netlink.set_link(1, up=True)])  # lo: LOOPBACK_IFINDEX of the kernel
    elif links := netns.foreign_links():
        problem = f"this network namespace has other links than lo ({', '.join(links)}): does one lead outside?"
        hint = "only a namespace with nothing but lo is given a name; PrivateNetwork=true makes one"
        raise PermissionRefusedError(problem, hint)
    _write_sysctls()
    _prepare_directory()
    path = f"{netns.DIRECTORY}/{name}"
    made = not os.path.lexists(path)
    if made:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    else:
        _check_placeholder(path)
    try:
        netns.call("mount", b"/proc/self/ns/net", path.encode(), b"none", netns.MS_BIND, None)
        signals.check()
        _check_mounts_of_pid1(path, netns.own(), mounted=True)
    except BaseException:
        _unmount(path)
        if made:
            os.unlink(path)
        raise


def _write_sysctls() -> None:
    """Have the namespace forward nothing and obey nobody; users may ping, as in a host where systemd runs.

    A new namespace takes over the host's settings for IPv4 (net.core.devconf_inherit_init_net). Raises `Failure`.
    """
    values: dict[str, str] = {}
    for family, settings in _OFF.items():
        folder = f"/proc/sys/net/{family}/conf"
        links = os.listdir(folder) if os.path.isdir(folder) else ()
        # forwarding comes first: the kernel resets accept_redirects with it
        values |= {f"{folder}/{link}/{setting}": "0" for setting in settings for link in links}
    values["/proc/sys/net/ipv4/ping_group_range"] = "0 2147483647"
    for path, value in values.items():
        try:
            if os.path.exists(path) and netns.text(path).split() != value.split():
                with open(path, "w", encoding="utf-8") as file:
                    file.write(value)
        except OSError as error:
            problem = f'{path} cannot be set to "{value}": {(error.strerror or "").lower()}'
            hint = "is /proc/sys read-only (ProtectKernelTunables=, a container), or CAP_NET_ADMIN missing?"
            raise PermissionRefusedError(problem, hint) from None


def _prepare_directory() -> None:
    """Make /run/netns a shared mount, so that other mount namespaces see names made later (ip-netns(8)).

    `ip netns add` does the same under the folder's lock (Debian bug 949235). Any user can hold that, so this process
    takes it only for the first name, until it ends, and does not wait longer than ip(8) can need.
    """
    signals.make_folder(netns.DIRECTORY)
    path = netns.DIRECTORY.encode()
    if netns.DIRECTORY not in dict(_mounts("self")):
        try:
            signals.take(os.open(path, os.O_RDONLY), netns.DIRECTORY, _FOLDER_PATIENCE)
        except TryAgainError as error:
            warn(f"{error}: going on without it")
        if netns.DIRECTORY not in dict(_mounts("self")):
            netns.call("mount", path, path, b"none", netns.MS_BIND | netns.MS_REC, None)
    netns.call("mount", b"", path, b"none", netns.MS_SHARED | netns.MS_REC, None)


def _mounts(process: str) -> list[tuple[str, str]]:
    """The mount point and the root of each mount that a process sees: fields 5 and 4 in proc_pid_mountinfo(5)."""
    with open(f"/proc/{process}/mountinfo", encoding="utf-8", errors="replace") as lines:
        return [(fields[4], fields[3]) for fields in map(str.split, lines)]


def _check_placeholder(path: str) -> None:
    """Raise `Failure` unless it is an empty file, as one is left where a mount has gone."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        raise Failure(f"{path} is no network namespace and not empty: left alone", "who put it there?")


def _check_mounts_of_pid1(path: str, namespace: netns.Identity | None, *, mounted: bool) -> None:
    """Raise `Failure` unless PID 1 has that namespace (None: any) mounted at `path`, or has not.

    In a chroot, the mount points of PID 1 have the chroot's path in front.
    """
    wanted = f"net:[{namespace[1]}]" if namespace else "net:["
    if any(point.endswith(path) and root.startswith(wanted) for point, root in _mounts("1")) != mounted:
        problem = f"{path} is mounted differently inside and outside this process: the unit has private mounts"
        raise PermissionRefusedError(problem, netns.MOUNTS_HINT)


def _unmount(path: str) -> None:
    while os.lstat(path).st_dev == netns.own()[0]:  # a name can be mounted over
        netns.call("umount2", path.encode(), netns.MNT_DETACH)


def down(name: str) -> None:
    """Take the name away, with a warning about what is still inside. No such name: nothing to do.

    Run inside a namespace other than the host's it takes away only that one's name. Raises `Failure` or OSError.
    """
    try:
        host = netns.in_host()
    except PermissionRefusedError:
        host = False  # unknown: then only the name of this namespace
    path = f"{netns.DIRECTORY}/{name}"
    signals.hold()
    with Lock(name):
        if not os.path.lexists(path):
            say_absent(f'there is no "{name}"')
            return
        pinned = netns.pinned(name)
        if pinned and not host and pinned != netns.own():
            problem = f'"{name}" is network namespace {pinned[1]}, this one is {netns.own()[1]}: left alone'
            raise Failure(problem, "run it in the host's network namespace, or in that one")
        inside = _inside(name, pinned) if pinned else ""
        _unmount(path)
        _check_mounts_of_pid1(path, pinned, mounted=False)
        _check_placeholder(path)
        os.unlink(path)
        dns_files.unpublish(name)
        if inside:
            hint = "they keep running in the namespace, which no longer has a name"
            warn(f'"{name}" was still in use: {inside}', hint)


def _inside(name: str, pinned: netns.Identity) -> str:
    """The processes and links in a namespace, without this process and lo."""
    numbers = [number for number in netns.processes()[0].get(pinned, ()) if number != os.getpid()]
    processes = [f"{comm} ({number})" for number in numbers if (comm := netns.text(f"/proc/{number}/comm"))]
    try:
        if pinned != netns.own():
            netns.enter(netns.open_namespace(name))
        links = [f"link {link}" for link in netns.foreign_links()]
    except Failure:
        links = []  # this process may not enter
    return listed(links + processes)
