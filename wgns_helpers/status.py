"""What a tunnel is right now, for a person and for monitoring: who is inside, peers, what differs from its file."""

from __future__ import annotations

import os
import time
from binascii import b2a_base64

from . import dns_files, errors, netlink, netns, signals
from .errors import Failure, MissingError, PermissionRefusedError
from .tunnel import NOWHERE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .tunnel import Peer, Session, Tunnel

_UNITS = (".service", ".scope", ".socket", ".mount", ".swap")  # those that can have processes (systemd.unit(5))
_SPANS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def names() -> list[str]:
    """The named network namespaces that can have a tunnel of their name; not the one that this process is in."""
    found = []
    for name, identity in netns.named().items():
        try:
            if identity != netns.own():
                found.append(netns.checked_link(netns.checked_name(name)))
        except Failure:
            continue
    return found


def index(link: str) -> int:
    """The index of the WireGuard link of this name in this process's network namespace, 0 where there is none."""
    with netlink.Socket() as socket:
        number, kind = netlink.read_link(socket, link)
    return number if kind == "wireguard" else 0


def look(name: str) -> dict[str, Any]:
    """Everything about the tunnel `name`, as README.md describes it; without private and preshared keys.

    What cannot be seen is None, and why is in "unseen". Raises `MissingError` where there is no such namespace.
    """
    there = netns.open_namespace(name)
    (_, inode), path = netns.identity(there), f"{netns.DIRECTORY}/{name}"
    processes, hidden = netns.inside(netns.identity(there))
    inside: dict[str, dict[int, str]] = {}
    for process, comm in processes.items():
        inside.setdefault(_unit(process), {})[process] = comm
    unseen = [f"whether {hidden} processes of others are inside"] * bool(hidden)
    tunnel = {"name": name, "namespace": path, "inode": inode, "inside": inside, **_dns(name), "present": None}
    tunnel |= dict.fromkeys(("up", "public_key", "listen_port", "addresses", "mtu", "peers", "differences"))
    try:
        with netns.Inside(there):
            link = index(name)
        tunnel["present"] = bool(link)
        if link:
            details, why = _link(name, link, there)
            tunnel |= details
            unseen += [f"what differs from the configuration: {why}"] * bool(why)
    except PermissionRefusedError as error:
        unseen.append(f"the tunnel itself: {error}")
    finally:
        os.close(there)
    return {**tunnel, "unseen": unseen, "faults": _faults(tunnel)}


def _link(name: str, link_index: int, namespace: int) -> tuple[dict[str, Any], str]:
    """The details of the link, and why it cannot be compared with its configuration, if so."""
    from . import present, wg_up, wireguard

    wanted, why = _configured(name)
    with netns.Inside(namespace), wireguard.Link(name, link_index) as link:
        now, sessions = present.read(link)
        differences = wg_up.differences(link, name, now, wanted) if wanted else None
    clock = int(time.time())
    return {
        "up": now.up,
        "public_key": _key(now.public_key) if now.private_key else "",
        "listen_port": now.listen_port,
        "addresses": [str(address) for address in now.addresses],
        "mtu": now.mtu,
        "peers": [peer_at(peer, sessions[peer.public_key], clock) for peer in now.peers],
        "differences": differences,
    }, why


def _configured(name: str) -> tuple[Tunnel | None, str]:
    """The tunnel of the configuration, or why it cannot be read; with the credentials of the tunnel's unit."""
    from . import config, resolve

    errors.leave_out_warnings()
    places = [f"/run/credentials/{unit}" for unit in (f"wg@{name}.service".replace("+", r"\x2b"), "wg.service")]
    os.environ["CREDENTIALS_DIRECTORY"] = places[name == "wg" and not os.path.isdir(places[0])]
    try:
        return resolve.ready(config.load(config.path_of(name))), ""
    except Failure as error:
        return None, str(error)


def _unit(process: int) -> str:
    """The unit of a process by its control group, in the unified hierarchy or systemd's own (cgroups(7)); or ""."""
    for line in _read(f"/proc/{process}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            return next((part for part in reversed(path.split("/")) if part.endswith(_UNITS)), "")
    return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # the process has ended
        return ""


def _dns(name: str) -> dict[str, list[str] | None]:
    content = dns_files.read(f"{signals.DIRECTORY}/{name}/resolv.conf")
    lines = [line.split() for line in (content or b"").decode("ascii", "replace").splitlines()]
    return {
        title: None if content is None else [word for line in lines if line[:1] == [key] for word in line[1:]]
        for title, key in (("name_servers", "nameserver"), ("search", "search"))
    }


def peer_at(peer: Peer, session: Session, clock: int) -> dict[str, Any]:
    """A peer at the time `clock`. One without keepalive may be idle, unless all traffic is its."""
    age = max(clock - session.handshake, 0) if session.handshake else None
    return {
        "public_key": _key(peer.public_key),
        "state": "never" if age is None else "alive" if session.alive(clock) else "stale",
        "handshake": age,
        "endpoint": "" if peer.endpoint in (None, NOWHERE) else str(peer.endpoint),
        "received": session.received,
        "sent": session.sent,
        "allowed_ips": [str(network) for network in peer.allowed_ips],
        "keepalive": peer.keepalive,
        "may_idle": not peer.keepalive and all(network.prefix > 1 for network in peer.allowed_ips),
    }


def _key(key: bytes) -> str:
    return b2a_base64(key, newline=False).decode()


def _faults(tunnel: dict[str, Any]) -> list[str]:
    """Why the tunnel is not as it should be."""
    dead = [peer for peer in tunnel["peers"] or () if peer["state"] != "alive" and not peer["may_idle"]]
    return [
        *["there is no such WireGuard link"] * (tunnel["present"] is False),
        *["the interface is down"] * (tunnel["up"] is False),
        *(f'peer "{peer["public_key"][:8]}…": last handshake {age(peer["handshake"])}' for peer in dead),
        *(f"not as configured: {step}" for step in tunnel["differences"] or ()),
    ]


def verdict(tunnels: list[dict[str, Any]]) -> None:
    """Raise what the exit status is to be: 1 for a fault, 69 for no tunnel, 77 for one that cannot be seen."""
    for tunnel in tunnels:
        if tunnel["faults"]:
            failure = MissingError if tunnel["present"] is False else Failure
            raise failure(f'"{tunnel["name"]}": {"; ".join(tunnel["faults"][:3])}')
    for tunnel in tunnels:
        if tunnel["present"] is None:
            raise PermissionRefusedError(f'"{tunnel["name"]}" cannot be looked into', "run it as root")


def line(tunnel: dict[str, Any]) -> str:
    """The tunnel in one line."""
    peers = tunnel["peers"] or []
    latest = min((peer["handshake"] for peer in peers if peer["handshake"] is not None), default=None)
    traffic = (f"{size(sum(peer[key] for peer in peers))} {key}" for key in ("received", "sent"))
    parts = [*(tunnel["faults"] or [f"last handshake {age(latest)}"]), *traffic, *filter(None, tunnel["inside"])]
    return _printable(f"{tunnel['name']}: {'; '.join(parts if tunnel['present'] else tunnel['unseen'])}") + "\n"


def text(part: dict[str, Any], indent: str = "") -> str:
    """The tunnel in some lines, by the names of JSON."""
    lines = ""
    for key, value in part.items():
        if key == "peers":
            lines += "".join(f"peer:\n{text(peer, '  ')}" for peer in value or ())
        else:
            title = f"{indent}{key.replace('_', ' ')}:"
            lines += "".join(f"{title:16}{_printable(words)}\n" for words in _words(key, value) or ["none"])
    return lines


def _words(key: str, value: Any) -> list[str]:  # noqa: ANN401
    """A value in words, in one line or more."""
    if key == "handshake":
        return [age(value)]
    if key in ("received", "sent"):
        return [size(value)]
    if key in ("addresses", "allowed_ips", "name_servers", "search") and value:
        return [", ".join(value)]
    if key == "inside":
        rows = {
            unit: ", ".join(f"{process} {name}" for process, name in found.items()) for unit, found in value.items()
        }
        return [f"{unit or 'no unit'}: {row}" for unit, row in rows.items()]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return value if isinstance(value, list) else ["?" if value is None else str(value) or "none"]


def age(seconds: int | None) -> str:
    """So many seconds ago in words, in the largest unit that they fill; None: never."""
    if seconds is None:
        return "never"
    span, word = next((span for span in _SPANS if seconds >= span[0]), _SPANS[-1])
    return f"{seconds // span} {word}{'s' * (seconds // span != 1)} ago"


def size(count: float) -> str:
    """So many bytes in words, as wg(8) has them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.{2 * (unit != 'B')}f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def _printable(words: str) -> str:
    """Without what would move a terminal's cursor: a process inside chooses its own name."""
    return "".join(c if c.isprintable() else "?" for c in words)
