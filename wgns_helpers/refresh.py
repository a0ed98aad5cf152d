"""The recipe of `wgns refresh`: moves peers that do not answer, and gives services the tunnel's files in /etc back.

A DHCP client that renames a new /etc/resolv.conf into place takes away what was mounted on the former one, in all mount
namespaces: names are then looked up by the host's file.
"""

from __future__ import annotations

import os
import time
from shlex import quote

from . import config, errors, netlink, netns, resolve, status
from .dns_files import FILES
from .errors import Failure, MissingError, TryAgainError, say
from .netlink import socket
from .signals import DIRECTORY, Lock
from .tunnel import NOWHERE, Endpoint, Peer
from .wireguard import Link

_PATIENCE = 0.2  # seconds; a wg-up that has the lock looks the names up itself


def refresh(name: str = "") -> None:
    """Refresh the endpoints of the tunnel `name`, or of all that have a configuration; one line for each change.

    Changes nothing but endpoints, and what services see in /etc. Raises `Failure` after the last tunnel, and
    `TryAgainError` if a name does not resolve.
    """
    errors.leave_out_warnings()
    failures: list[Failure] = []
    processes, _ = netns.processes()
    for each in [name] if name else [each for each in status.names() if os.path.exists(config.path_of(each))]:
        try:
            with open(netns.open_namespace(each), "rb") as namespace:
                failures += mend(each, processes.get(netns.identity(namespace.fileno()), []))
                failures += _refresh(each, namespace.fileno(), required=bool(name))
        except Failure as error:
            failures.append(error)
    failures.sort(key=lambda failure: failure.code)
    for failure in failures[:-1]:
        say(f"warning: {failure}", failure.hint, errors.WARNING)
    if failures:
        raise failures[-1]


def mend(name: str, processes: list[int]) -> list[Failure]:
    """Give each service among the processes the tunnel's files in /etc back; the failures."""
    failures: list[Failure] = []
    for unit, found in status.by_unit(processes).items():
        for file in _lost(name, min(found)) if unit.endswith(".service") else ():
            import subprocess  # 8 ms that are seldom needed

            command = ["systemctl", "bind", "--read-only", "--", unit, f"{DIRECTORY}/{name}/{file}", f"/etc/{file}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if file in _lost(name, min(found)):
                reason = done.stderr.strip().partition("\n")[0] or "it is mounted elsewhere"
                text = f'"{name}": {unit} no longer sees the tunnel\'s {file}: {reason}'
                failures.append(TryAgainError(text, f"systemctl restart {quote(unit)}"))
            else:
                say(f'"{name}": {unit} sees the tunnel\'s {file} again', priority=errors.NOTICE)
    return failures


def _lost(name: str, process: int) -> list[str]:
    """The tunnel's files that a process was given by the drop-in, and that it does not see any more.

    The drop-in shows the process /run/netns/NAME and hides /run/wgns. A symlink in the place of a file leads to another
    mount point; in proc_pid_mountinfo(5), the root of a mount comes before that.
    """
    root = f"/proc/{process}/root"
    if not os.path.exists(f"{root}{netns.DIRECTORY}/{name}") or os.path.exists(f"{root}{DIRECTORY}"):
        return []
    mounts = netns.text(f"/proc/{process}/mountinfo")
    lost = []
    for file in FILES:
        seen, ours = f"{root}/etc/{file}", f"{DIRECTORY}/{name}/{file}"
        if mounts and os.path.exists(ours):
            try:
                mounted = os.path.islink(seen) or os.path.samefile(seen, ours)
            except OSError:
                mounted = True  # the process has ended; a file that is missing is not among the mounts
            lost += [] if mounted and f"/wgns/{name}/{file} " in mounts else [file]
    return lost


def _refresh(name: str, descriptor: int, *, required: bool) -> list[Failure]:
    """Refresh one tunnel; the failures to look a name up, which happens in this process's namespace."""
    tunnel = config.load_endpoints(config.path_of(name))
    named = {peer.public_key: to for peer in tunnel.peers if (to := peer.endpoint) and not to.family}
    if not named:
        return []
    with netns.Inside(descriptor):
        link = Link(name)
    places: dict[bytes, list[Endpoint]] = {}
    failures: list[Failure] = []
    with link:
        silent = {peer.public_key for peer in _silent(link)}
        if required and not link.index:
            raise MissingError(f'namespace "{name}" has no WireGuard link "{name}"', f"wg-up {name} makes it")
        for key in [key for key in named if key in silent]:
            try:
                addresses = resolve.addresses(named[key])
                places[key] = list(filter(resolve.mtu_to, addresses)) or addresses  # those that there is a route to
            except TryAgainError as error:
                failures.append(error)
        if places:
            try:
                with Lock(name, _PATIENCE):
                    _move(link, places, tunnel.names())
            except TryAgainError as error:
                say(f'"{name}" is left out: {error}', priority=errors.NOTICE)
    return failures


def _silent(link: Link) -> list[Peer]:
    """The present peers without a session. Looks for the link anew: wg-down and wg-up may have replaced it."""
    index, kind = netlink.read_link(link, link.name)
    link.index = index if kind == "wireguard" else 0
    if not link.index:
        return []
    tunnel, sessions = link.read()
    return [peer for peer in tunnel.peers if not sessions[peer.public_key].alive(time.time())]


def _move(link: Link, places: dict[bytes, list[Endpoint]], names: dict[bytes, str]) -> None:
    """Give each peer that is still silent the next of its addresses; after the last one, and from elsewhere, the first.

    With one message for each peer, since looking its name up has taken much longer.
    """
    for peer in [peer for peer in _silent(link) if peer.public_key in places]:
        key, former = peer.public_key, peer.endpoint or NOWHERE
        known = [place.sockaddr() for place in places[key]]
        position = known.index(former.sockaddr()) if former.sockaddr() in known else -1
        place = places[key][(position + 1) % len(known)]
        if place.sockaddr() != former.sockaddr():
            link.change(names[key], key, endpoint=place)
            address = place._replace(host=socket.inet_ntop(place.family, place.address))
            formerly = "" if former == NOWHERE else f", no longer {former}"
            say(f'"{link.name}": {names[key]}: endpoint {place} is {address} now{formerly}', priority=errors.NOTICE)
