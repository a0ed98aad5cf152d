"""Proof that a process is confined to a tunnel: by its network namespace, its view of files, and what it may do.

Reads what an unprivileged process can read under the restrictions of an ordinary unit: no pyroute2, and netlink only
for the one point that takes root.
"""

from __future__ import annotations

import ctypes
import errno
import os

from . import dns_files, netns
from .errors import Failure, MissingError, leave_out_warnings

# A name, whether it holds (None: cannot be seen from here), and the reason
Point = tuple[str, bool | None, str]

# Daemons that look names up for others, in the host's network: nscd(8) and nsncd, systemd-resolved(8), and by the
# system bus systemd-resolved and avahi, which has a socket of its own too
SOCKETS = (
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/dbus/system_bus_socket",
    "/run/avahi-daemon/socket",
)

# Each of these leads out of the namespace without the help of another process (capabilities(7)); the drop-in takes them
# away with the reasons. The numbers are those of linux/capability.h.
CAPABILITIES = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_BOOT": 22,
    "CAP_MKNOD": 27,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}

_SYSCTLS = (("ipv4", "forwarding"), ("ipv4", "route_localnet"), ("ipv6", "forwarding"))  # in conf/ of each link
# Calls that change nothing where they are allowed: no key has this type. The last is KEYCTL_GET_KEYRING_ID of
# KEY_SPEC_PROCESS_KEYRING (linux/keyctl.h).
_KEY = (b"wgns", b"wgns", None, 0)
_HARMLESS = ((b"request_key", *_KEY), (b"add_key", *_KEY, 0), (b"keyctl", 0, -2, 0))


def own_name(process: str = "self") -> str:
    """The name of a process's network namespace; `Failure` where it has none that can be seen here."""
    for name, identity in netns.named().items():
        if identity == netns.own(process):
            return name
    raise Failure("this network namespace has no name that can be seen here", "wgns check NAME")


def points(name: str, process: str = "self") -> list[Point]:
    """The points that prove that `process`, a number or "self", is confined to the tunnel `name`.

    To judge another process takes root; this process then moves into that one's network namespace and root directory.
    Raises `Failure`, and OSError for a process that cannot be judged.
    """
    status = dict(line.partition(":")[::2] for line in netns.lines(f"/proc/{process}/status"))
    if not status:
        raise MissingError(f"there is no process {process}")
    namespace = _namespace(name, process)
    host = _host(process, status, inside=bool(namespace[1]))
    outside = [namespace, host, *_privileges(status), _keyrings(status, process)]
    if process != "self":
        root = os.open(f"/proc/{process}/root", os.O_RDONLY)
        netns.enter(os.open(f"/proc/{process}/ns/net", os.O_RDONLY))
    links = [line.partition(":")[0].strip() for line in netns.lines("/proc/self/net/dev")[2:]]
    inside = [_forwarding(links), _inbound(name)]
    if process != "self":  # only now: in its root there may be no /proc
        os.fchdir(root)
        os.chroot(".")
    files = [_file(file, name) for file in dns_files.FILES]
    return [*outside, *inside, _tunnel(name, links), *files, _sockets()]


def _namespace(name: str, process: str) -> Point:
    path = f"{netns.DIRECTORY}/{name}"
    try:
        pinned, own = netns.pinned(name), netns.own(process)
    except Failure as error:
        return "namespace", False, str(error)
    if not pinned:
        return "namespace", False, f"{path} cannot be seen here, so it cannot be compared"
    if pinned != own:
        return "namespace", False, f"network namespace {own[1]}, but {path} is {pinned[1]}"
    return "namespace", True, f"the network namespace is {path}"


def _host(process: str, status: dict[str, str], *, inside: bool) -> Point:
    """By /proc/1: the network namespace of PID 1, which the process is not in and does not see.

    /proc/PID/net/dev has an inode number of its own in each namespace. Root sees it whatever a process may see, so of
    another process the options of its /proc count (proc(5)); to the group of root, hidepid=invisible shows all.
    """
    seen = "/proc" if process == "self" else f"/proc/{process}/root/proc"  # a container has another
    try:
        host, own = (os.stat(path).st_ino for path in (f"{seen}/1/net/dev", f"/proc/{process}/net/dev"))
    except OSError:
        return "host", True, "the host's processes, and by them its networks, are hidden"
    if host == own and inside:  # to which the host's own namespace never belongs (netns-up)
        return "host", None, "PID 1 here is inside, too: it is not the host's (PrivatePIDs=, a container)"
    if host == own:
        return "host", False, "this is the host's network namespace, or that of a container"
    if process != "self":
        mounts = [line.split() for line in netns.lines(f"/proc/{process}/mountinfo")]
        options = next((fields[-1] for fields in reversed(mounts) if fields[4] == "/proc"), "")
        of_root = "0" in (status.get("Gid", "") + status.get("Groups", "")).split()
        hiding = ("ptraceable", "4") if of_root else ("ptraceable", "4", "invisible", "2")
        if any(f"hidepid={value}" in options.split(",") for value in hiding):
            return "host", True, "the host's processes, and by them its networks, are hidden from it"
    return "host", False, "/proc/1/net shows the host's networks; ProtectProc=ptraceable hides them"


def _privileges(status: dict[str, str]) -> list[Point]:
    held = [int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    found = [name for name, number in CAPABILITIES.items() if any(each >> number & 1 for each in held)]
    sealed = status.get("NoNewPrivs", "").strip() == "1"
    return [
        ("capabilities", not found, ", ".join(found) or "none that leads out, nor can one be gained"),
        ("no_new_privs", sealed, f"set-id programs {'do not' if sealed else 'would'} run as somebody else"),
    ]


def _keyrings(status: dict[str, str], process: str) -> Point:
    """Whether a system call filter holds back keyrings(7), by which the kernel has names looked up in the host."""
    if status.get("Seccomp", "").strip() != "2":
        return "keyrings", False, "there is no system call filter, so the kernel can be asked to look up names"
    if process != "self":
        return "keyrings", None, "there is a system call filter; whether it holds them back only the process can tell"
    try:
        library = libseccomp()
    except MissingError as error:
        return "keyrings", None, f"there is a system call filter, but it cannot be tried: {error}"
    libc = ctypes.CDLL(None, use_errno=True)
    for name, *arguments in _HARMLESS:
        made = libc.syscall(library.seccomp_syscall_resolve_name(name), *arguments)
        if made >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            return "keyrings", False, f"{name.decode()}(2) can look up names; SystemCallFilter=~@keyring forbids it"
    return "keyrings", True, "the kernel cannot be asked to look up names"


def libseccomp() -> ctypes.CDLL:
    """The library that systemd makes its filters with; `MissingError` where it is not installed."""
    try:
        return ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        raise MissingError("the library libseccomp is missing", "apt-get install libseccomp2") from None


def _tunnel(name: str, links: list[str]) -> Point:
    """Links that are down count too: they can come up later."""
    others = [link for link in links if link not in netns.LOCAL_LINKS | {name}]
    if others:
        return "links", False, f"besides lo and {name} there is {', '.join(others)}"
    if name not in links:
        return "links", False, f"{name} is gone: there is nothing but lo, by which nothing gets out"
    kind = netns.lines(f"/sys/class/net/{name}/uevent")
    if not kind:
        return "links", None, f"there is nothing but lo and {name}; its kind cannot be seen here"
    if "DEVTYPE=wireguard" not in kind:
        return "links", False, f"{name} is not a WireGuard link"
    return "links", True, f"there is nothing but lo and the WireGuard link {name}"


def _forwarding(links: list[str]) -> Point:
    names = ("all", "default", *links)
    paths = [f"/proc/sys/net/{family}/conf/{link}/{setting}" for family, setting in _SYSCTLS for link in names]
    paths = [path for path in paths if os.path.exists(path)]
    on = [path for path in paths if netns.lines(path) != ["0"]]
    if on:
        return "forwarding", False, f"on by {on[0]}; a namespace made by netns-up has it off"
    if not paths:
        return "forwarding", None, "/proc/sys cannot be seen here"
    return "forwarding", True, "packets that arrive are not passed on"


def _inbound(name: str) -> Point:
    """Whether the far side reaches the open ports of the configuration only, which root alone can see."""
    if os.geteuid():
        return "inbound", None, "the filter of inbound packets: only root can see it"
    from . import config, inbound, netlink

    try:
        with netlink.Socket(netlink.NETLINK_NETFILTER) as socket:
            ports, forwarded = inbound.read(socket, name), inbound.forwarded(socket, name)
        leave_out_warnings()
        wanted = config.load_open_ports(config.path_of(name))
    except Failure as error:
        return "inbound", None, f"the filter of inbound packets: {error}"
    now, then = (", ".join(inbound.words(each)) or "no port" for each in (ports, wanted))
    if ports != wanted:
        mend = f"wgns status {name} has the command that applies it"
        return "inbound", False, f"open to the far side: {now}; by the configuration: {then}; {mend}"
    return "inbound", True, f"open to the far side: {now}{''.join(f', {port} forwarded' for port in forwarded)}"


def _file(file: str, name: str) -> Point:
    ours = dns_files.is_ours(netns.read(f"/etc/{file}"), name)
    return file, ours, f"/etc/{file} is {'' if ours else 'not '}the one that wg-up {name} wrote"


def _sockets() -> Point:
    seen = [path for path in SOCKETS if os.path.lexists(path)]
    if seen:
        return "sockets", False, f"{', '.join(seen)} can be seen: the host would look up names there"
    return "sockets", True, "no daemon that looks up names for the host can be seen"
