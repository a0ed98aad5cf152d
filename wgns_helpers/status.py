"""What a tunnel is right now, for a person and for monitoring: its unit, who is inside, peers, what differs."""

from __future__ import annotations

import os
import time
from binascii import b2a_base64
from shlex import quote

from . import config, dns_files, errors, netlink, netns, resolve, signals
from .errors import Failure, MissingError, PermissionRefusedError
from .tunnel import NOWHERE, UNANSWERED, Peer, Session, Tunnel
from .wireguard import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Watched = tuple[dict[str, Any], Link, dict[bytes, Session]]  # a tunnel, its link, and the sessions at first

_OPEN = {"LoadState": "loaded", "PrivateNetwork": "no", "NetworkNamespacePath": ""}  # a unit in the host's network
_ASKED = f"--property=Id,ActiveState,Result,MainPID,{','.join(_OPEN)}"
_SHOW = ("systemctl", "show", "--all", _ASKED, "--", "wg@*.service", "wg.service")
_WANTED = "/etc/systemd/system/*.wants/wg*.service"  # by which systemctl enable works
_UNITS = (".service", ".scope", ".socket", ".mount", ".swap")  # those that can have processes (systemd.unit(5))
_STATES = ("inactive", "failed", "deactivating", "activating", "reloading", "active")  # of two units, the last counts
_LINK = ("up", "public_key", "listen_port", "addresses", "mtu", "open_ports", "peers", "differences")
_SPANS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_IFNAMSIZ = 16  # linux/if.h: the bytes of a link's name, with a null byte at the end
_RETRY = 6.0  # seconds within which the kernel tries a handshake again (REKEY_TIMEOUT and its jitter), if it has to
_PAUSE = 0.2  # seconds between two looks


def names() -> list[str]:
    """The named network namespaces that can have a tunnel of their name; not the one that this process is in."""
    named = {name: space for name, space in netns.named().items() if len(os.fsencode(name)) < _IFNAMSIZ}
    return [name for name, space in named.items() if space != netns.own()]


def look(name: str = "") -> list[dict[str, Any]]:
    """Everything about the tunnel `name` or about all, as wgns(8) describes it; without private and preshared keys.

    All are those that are there, those with a configuration and a namespace, and those whose unit is enabled, failed or
    active. What cannot be seen is None, and why is in "unseen". Raises `MissingError` if `name` is not there at all.
    """
    from . import doors

    spaces = {each: netns.pinned(each) for each in ([name] if name else names())}
    processes, hidden = netns.processes()
    within = {each: by_unit(processes.get(space, []) if space else []) for each, space in spaces.items()}
    linked = {each: _linked(each) for each in spaces}
    properties = _properties([unit for found in (*within.values(), *linked.values()) for unit in found if unit])
    units = _tunnels(properties)
    if name and not spaces[name] and name not in units:
        os.close(netns.open_namespace(name))  # raises why
    tunnels: list[dict[str, Any]] = []
    for each in [name] if name else sorted({*spaces, *units}):
        unit, inside, ways = units.get(each, ""), within.get(each, {}), doors.of(each)
        main = {unit: int(properties.get(unit, {}).get("MainPID") or 0) for unit in inside}
        chosen = {unit: main[unit] if main[unit] in found else min(found) for unit, found in inside.items()}
        doors_of = {f"{stem}.service": "a door" for stem in ways}
        judged = {unit: doors_of.get(unit) or _judged(each, process) for unit, process in chosen.items()}
        tunnel: dict[str, Any] = {
            "name": each,
            "unit": unit,
            "unit_state": properties.get(unit, {}).get("ActiveState", "inactive") if unit else "",
            "namespace": f"{netns.DIRECTORY}/{each}",
            "inode": (spaces.get(each) or (0, 0))[1],
            "inside": inside,
            "confined": judged,
            "published": [f"{at} -> {to}" for verb, _, at, to in ways.values() if verb == "publish"],
            "reaches": [f"{at} -> {to}" for verb, _, at, to in ways.values() if verb == "reach"],
        }
        unseen = [f"whether {hidden} processes of others are inside"] * bool(hidden)
        tunnels.append({**tunnel, **_dns(each), "present": False, **dict.fromkeys(_LINK), "unseen": unseen})
    _watch([watched for tunnel in tunnels if tunnel["inode"] for watched in _link(tunnel)])
    for tunnel in tunnels:
        result = properties.get(tunnel["unit"], {}).get("Result", "success")
        others = {u: properties.get(u, {}) for u in linked.get(tunnel["name"], ()) if u not in tunnel["inside"]}
        loose = [unit for unit, found in others.items() if _OPEN.items() <= found.items()]
        down = [unit for unit, found in others.items() if found.get("ActiveState") == "failed" and unit not in loose]
        tunnel["faults"], tunnel["hints"] = _faults(tunnel, result, loose, down)
    expected = {name, *units, *(each for each in spaces if os.path.exists(config.path_of(each)))}
    return [tunnel for tunnel in tunnels if tunnel["name"] in expected or tunnel["present"] is not False]


def _linked(name: str) -> list[str]:
    """The units that start with the tunnel by links of `wgns confine`, and not by their own WantedBy=."""
    folder = f"/etc/systemd/system/wg-confined@{name}.service.wants".replace("+", r"\x2b")
    units = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [unit for unit in units if "wg-confined@" not in netns.text(f"{folder}/{unit}")]


def by_unit(processes: list[int]) -> dict[str, dict[int, str]]:
    """The names of processes, by unit ("": none) and number; without this program and `wgns refresh` of the timer."""
    found: dict[str, dict[int, str]] = {}
    for process in processes:
        unit, name = _unit(process), netns.text(f"/proc/{process}/comm")
        if name and process != os.getpid() and unit != "wgns-refresh.service":
            found.setdefault(unit, {})[process] = name
    return found


def _unit(process: int) -> str:
    """The unit of a process by its control group, in the unified hierarchy or systemd's own (cgroups(7)); or ""."""
    groups = [line.split(":", 2) for line in netns.lines(f"/proc/{process}/cgroup")]
    path = "/".join(path for _, controllers, path in groups if controllers in ("", "name=systemd"))
    return next((part for part in reversed(path.split("/")) if part.endswith(_UNITS)), "")


def _judged(name: str, process: int) -> str | None:
    """The word "confined", or the first point of `wgns check` that fails; None where that cannot be seen."""
    from . import check

    reading, writing = os.pipe()
    if not os.fork():  # check moves into the network namespace and the root directory of that process
        try:
            failed = [f"{point}: {text}" for point, holds, text in check.points(name, str(process)) if holds is False]
            os.write(writing, (failed or ["confined"])[0].encode(errors="replace"))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:
        return answer.read() or None


def _properties(units: list[str]) -> dict[str, dict[str, str]]:
    """What systemd says of the units of tunnels and of these; empty where no systemd runs (sd_booted(3))."""
    import subprocess

    if not os.path.isdir("/run/systemd/system"):
        return {}
    done = subprocess.run([*_SHOW, *units], capture_output=True, text=True, check=False)
    if done.returncode:
        errors.warn("systemd does not answer: units are left out")
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in done.stdout.split("\n\n")]
    return {block["Id"]: block for block in blocks if "Id" in block}


def _tunnels(properties: dict[str, dict[str, str]]) -> dict[str, str]:
    """The unit of each tunnel that has one which is enabled or not inactive; the livelier one of two."""
    import glob
    import re

    units = {os.path.basename(path): "inactive" for path in glob.glob(_WANTED)}
    for unit, found in properties.items():
        if unit in units or found["ActiveState"] != "inactive":
            units[unit] = found["ActiveState"]
    tunnels = {}
    for unit in sorted(units, key=lambda unit: _STATES.index(units[unit]) if units[unit] in _STATES else 0):
        if instance := re.fullmatch(r"wg@(.+)\.service|wg\.service", unit):
            escaped = re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), instance[1] or "wg")
            tunnels[escaped.replace("/", "-")] = unit
    return tunnels


def _link(tunnel: dict[str, Any]) -> list[Watched]:
    """Add the details of the link, if there is one, and return what has to be watched for a while."""
    from . import inbound, present, wg_up

    name = tunnel["name"]
    wanted, why = _configured(name)
    try:
        with open(netns.open_namespace(name), "rb") as namespace, netns.Inside(namespace.fileno()):
            link = Link(name)
            link.index, kind = netlink.read_link(link, name)
            tunnel["present"] = kind == "wireguard"
            if not tunnel["present"]:
                link.__exit__()
                return []
            now, sessions = present.read(link)
            forwarded = [f"{port} forwarded" for port in inbound.forwarded(link, name)]
            tunnel["differences"] = wg_up.differences(link, name, now, wanted) if wanted else None
    except PermissionRefusedError as error:
        tunnel["present"] = None
        tunnel["unseen"].append(f"the tunnel itself: {error}")
        return []
    key = _key(now.public_key) if now.private_key else ""
    tunnel |= {"up": now.up, "public_key": key, "listen_port": now.listen_port, "mtu": now.mtu}
    tunnel["addresses"] = [str(address) for address in now.addresses]
    tunnel["open_ports"] = inbound.words(now.open_ports) + forwarded
    tunnel["peers"] = [peer_at(peer, sessions[peer.public_key], time.time()) for peer in now.peers]
    tunnel["unseen"] += [f"what differs from the configuration: {why}"] * bool(why)
    return [(tunnel, link, sessions)]


def _watch(watched: list[Watched]) -> None:
    """Look at peers that may be idle or dead, or whose first answer is on its way, until all are alive or time is up.

    While there is something to send, the kernel tries a handshake every 5 s, and that counts as sent.
    """
    end = time.monotonic() + _RETRY
    while any(_is_doubtful(row) for tunnel, *_ in watched for row in tunnel["peers"]) and time.monotonic() < end:
        time.sleep(_PAUSE)
        for tunnel, link, former in watched:
            try:
                now, sessions = link.read()
            except Failure:  # it is gone
                continue
            clock, keys = time.time(), [(peer, peer.public_key) for peer in now.peers]
            tunnel["peers"] = [peer_at(peer, sessions[key], clock, former.get(key)) for peer, key in keys]
    for _, link, _ in watched:
        link.__exit__()


def _is_doubtful(row: dict[str, Any]) -> bool:
    """Whether a peer may be another one in some seconds: not one that has to be alive by its keepalives."""
    if row["keepalive"]:
        return row["state"] == "never" or (row["state"] == "waiting" and bool(row["endpoint"]))
    return row["state"] in ("stale", "idle", "never")


def _configured(name: str) -> tuple[Tunnel | None, str]:
    """The tunnel of the configuration, or why it cannot be read; with the credentials of the tunnel's unit."""
    errors.leave_out_warnings()
    places = [f"/run/credentials/{unit}" for unit in (f"wg@{name}.service".replace("+", r"\x2b"), "wg.service")]
    os.environ["CREDENTIALS_DIRECTORY"] = places[name == "wg" and not os.path.isdir(places[0])]
    try:
        return resolve.ready(config.load(config.path_of(name))), ""
    except Failure as error:
        return None, str(error)


def _dns(name: str) -> dict[str, list[str] | None]:
    content = dns_files.read(f"{signals.DIRECTORY}/{name}/resolv.conf")
    lines = [line.split() for line in (content or b"").decode("ascii", "replace").splitlines()]
    return {
        title: None if content is None else [word for line in lines if line[:1] == [key] for word in line[1:]]
        for title, key in (("name_servers", "nameserver"), ("search", "search"))
    }


def peer_at(peer: Peer, session: Session, clock: float, former: Session | None = None) -> dict[str, Any]:
    """A peer at the time `clock`, `former` being its session at the first look."""
    age = max(int(clock) - session.handshake, 0) if session.handshake else None
    endpoint = "" if peer.endpoint in (None, NOWHERE) else str(peer.endpoint)
    state = "stale" if session.handshake else "never" if session.sent else "waiting"
    if session.alive(clock):
        state = "alive"
    elif state == "stale" and not peer.keepalive and former and former.sent == session.sent:
        state = "idle"
    elif state == "waiting" and peer.keepalive and endpoint and former:  # which the kernel cannot send
        state = "never"
    return {
        "public_key": _key(peer.public_key),
        "state": state,
        "handshake": age,
        "endpoint": endpoint,
        "received": session.received,
        "sent": session.sent,
        "allowed_ips": [str(network) for network in peer.allowed_ips],
        "keepalive": peer.keepalive,
        "may_idle": not peer.keepalive,
    }


def _key(key: bytes) -> str:
    return b2a_base64(key, newline=False).decode()


def _faults(tunnel: dict[str, Any], result: str, loose: list[str], down: list[str]) -> tuple[list[str], list[str]]:
    """Why the tunnel is not as it should be, and what mends that.

    `result` is that of its unit; `loose` are the units that it starts in the host's network, `down` those that failed.
    """
    name, unit, state, present = (tunnel[key] for key in ("name", "unit", "unit_state", "present"))
    short, because = quote(unit.removesuffix(".service")), f" ({result})" if result != "success" else ""
    mend = f"systemctl reload {short}" if state == "active" else f"wg-up {name}"
    states = {"failed": "has failed", "activating": "is starting", "deactivating": "is stopping"}
    states |= {"inactive": "is enabled, but it is not running"} if present is False else {}
    found = []
    if state in states:
        hint = f"systemctl start {short}" if state == "inactive" else f"journalctl -u {short} tells why"
        found.append((f"{unit} {states[state]}{because}", hint))
    elif not tunnel["inode"]:
        hint = f"systemctl restart {short.replace('wg', 'netns', 1) if '@' in short else 'netns@wg'}"
        found.append((f'there is no network namespace "{name}"', hint))
    elif present is False:
        found.append(("there is no such WireGuard link", mend))
    found += [("the interface is down", mend)] * (tunnel["up"] is False)
    for peer in tunnel["peers"] or ():
        silent = {"never": "has never answered", "stale": f"does not answer: last handshake {age(peer['handshake'])}"}
        if peer["state"] in silent:
            found.append((f'peer "{peer["public_key"][:8]}…" {silent[peer["state"]]}', UNANSWERED))
    found += [(f"not as configured: {step}", mend) for step in tunnel["differences"] or ()]
    for unit, how in tunnel["confined"].items():
        if (how or "").startswith(dns_files.FILES):  # a DHCP client has put another one into place, see refresh.mend
            hint = f"wgns refresh {name}; if that does not help: systemctl restart {quote(unit)}"
            hint = hint if unit.endswith(".service") else "start the command again"
            found.append((f"{unit or 'a command'}: {how}", hint))
    for unit in loose:
        found.append((f"{unit} starts with the tunnel and is not confined to it", f"wgns confine {name} {quote(unit)}"))
    found += [(f"{unit} is confined to it, and has failed", f"journalctl -u {quote(unit)} tells why") for unit in down]
    return [text for text, _ in found], list(dict.fromkeys(hint for _, hint in found))


def verdict(tunnels: list[dict[str, Any]]) -> None:
    """Raise what the exit status is to be: 1 for a fault, 69 for no tunnel, 77 for one that cannot be seen."""
    for tunnel in sorted(tunnels, key=lambda tunnel: not tunnel["faults"]):
        if tunnel["faults"]:
            failure = MissingError if tunnel["present"] is False else Failure
            raise failure(f'"{tunnel["name"]}": {"; ".join(tunnel["faults"][:3])}', "; ".join(tunnel["hints"][:3]))
        if tunnel["present"] is None:
            raise PermissionRefusedError(f'"{tunnel["name"]}" cannot be looked into', "run it as root")
    if not tunnels:
        hint = "put the provider's file at /etc/wireguard/NAME.conf; systemctl enable --now wg@NAME"
        raise MissingError("there is no tunnel", hint)


def age(seconds: int | None) -> str:
    """So many seconds ago in words, in the largest unit that they fill; None: never."""
    if seconds is None:
        return "never"
    span, word = next((span for span in _SPANS if seconds >= span[0]), _SPANS[-1])
    return f"{seconds // span} {word}{'s' * (seconds // span != 1)} ago"
