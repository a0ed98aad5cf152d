"""Peers without a session: their endpoints' names are looked up again, and where that may help the endpoint moves.

Services inside that lost the tunnel's resolv.conf or nsswitch.conf get it again.
"""

from __future__ import annotations

import os
import time

from . import config, errors, inside, netns, resolve, status
from .diff import diff
from .errors import ConfigError, Failure, MissingError, TryAgainError, say
from .netlink import socket
from .signals import Lock
from .tunnel import NOWHERE, Peer, Tunnel, endpoint
from .wireguard import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Endpoint, Session

_PATIENCE = 0.2  # seconds; a wg-up that has the lock looks the names up itself


def refresh(name: str = "") -> None:
    """Refresh the endpoints of the tunnel `name`, or of all that have a configuration; one line for each change.

    Changes nothing but endpoints, and what services see in /etc. Raises `Failure` when all is done, `TryAgainError` if
    a name does not resolve.
    """
    failures: list[Failure] = []
    processes, _ = netns.processes()
    for each in [name] if name else [each for each in status.names() if os.path.exists(config.path_of(each))]:
        try:
            descriptor = netns.open_namespace(each)
            try:
                failures += inside.mend(each, processes.get(netns.identity(descriptor), ()))
                failures += _refresh(each, descriptor, required=bool(name))
            finally:
                os.close(descriptor)
        except Failure as error:
            failures.append(error)
    failures.sort(key=lambda failure: failure.code)
    for failure in failures[:-1]:
        say(f"warning: {failure}", failure.hint, errors.WARNING)
    if failures:
        raise failures[-1]


def _refresh(name: str, descriptor: int, *, required: bool) -> list[Failure]:
    """Refresh one tunnel, by addresses that are looked up in this process's namespace; what did not resolve."""
    wanted = _configured(config.path_of(name))
    if not any(peer.endpoint for peer in wanted.peers):
        return []
    with netns.Inside(descriptor):
        index, link = status.index(name), Link(name)
    with link:
        link.index = index
        if not index and required:
            raise MissingError(f'namespace "{name}" has no WireGuard link "{name}"', f"wg-up {name} makes it")
        silent = _silent(*link.read()) if index else set()
        found, failures = _addresses([peer for peer in wanted.peers if peer.public_key in silent])
        if not found:
            return failures
        try:
            with Lock(name, _PATIENCE):
                with netns.Inside(descriptor):
                    link.index = status.index(name)  # wg-down and wg-up may have been there meanwhile
                if link.index:
                    _move(link, found, wanted)
        except TryAgainError as error:
            say(f'"{name}" is left out: {error}', priority=errors.NOTICE)
    return failures


def _silent(now: Tunnel, sessions: dict[bytes, Session]) -> set[bytes]:
    """The peers without a session."""
    return {peer.public_key for peer in now.peers if not sessions[peer.public_key].alive(time.time())}


def _move(link: Link, found: dict[bytes, list[Endpoint]], wanted: Tunnel) -> None:
    """Give each peer that is still silent the next of its addresses."""
    now, sessions = link.read()
    silent = _silent(now, sessions) & found.keys()
    former = {peer.public_key: peer.endpoint or NOWHERE for peer in now.peers if peer.public_key in silent}
    places = {key: _next(former[key], found[key]) for key in silent}
    peers = tuple(peer._replace(endpoint=places.get(peer.public_key, peer.endpoint)) for peer in now.peers)
    for request in diff(now, now._replace(peers=peers), link.device(), wanted.names()):
        link.run([request])
    for peer in wanted.peers:
        key = peer.public_key
        if key in silent and places[key] != former[key]:
            place = places[key]._replace(host=socket.inet_ntop(places[key].family, places[key].address))
            formerly = "" if former[key] == NOWHERE else f", no longer {former[key]}"
            line = f"{wanted.names()[key]}: endpoint {peer.endpoint} is {place} now{formerly}"
            say(f'"{link.name}": {line}', priority=errors.NOTICE)


def _configured(path: str) -> Tunnel:
    """The peers of a configuration, with an endpoint if that is a host name. Reads no keys: it needs none."""
    errors.leave_out_warnings()
    try:
        with open(path, "rb") as file:
            _, sections = config.sections(config.decode(file.read(), path), path)
    except FileNotFoundError:
        raise ConfigError(f'"{path}": no such file or directory') from None
    peers = []
    for section in sections:
        place = section.one("Endpoint", endpoint, None)
        named = place if place and not _is_literal(place.host) else None
        peers.append(Peer(section.one("PublicKey", config.key, b""), endpoint=named))
    return Tunnel(b"", peers=tuple(peers))


def _addresses(peers: list[Peer]) -> tuple[dict[bytes, list[Endpoint]], list[Failure]]:
    """Where peers can be, without the addresses that have no route if others have one; and what did not resolve."""
    found: dict[bytes, list[Endpoint]] = {}
    failures: list[Failure] = []
    for peer in peers:
        try:
            places = resolve.addresses(peer.endpoint) if peer.endpoint else []
        except TryAgainError as error:
            failures.append(error)
        else:
            routed = [place for place in places if resolve.has_route(place)]
            found.update({peer.public_key: routed or places} if places else {})
    return found, failures


def _is_literal(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdecimal()


def _next(current: Endpoint, places: list[Endpoint]) -> Endpoint:
    """The place after the one at which a peer does not answer, or the first; `current` if there is no other."""
    known = [place.sockaddr() for place in places]
    if current.sockaddr() not in known:
        return places[0]
    return places[(known.index(current.sockaddr()) + 1) % len(places)] if len(places) > 1 else current
