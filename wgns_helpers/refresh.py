"""Peers without a session: the names of their endpoints are looked up again, and where that may help they are moved."""

from __future__ import annotations

import os
from _socket import inet_ntop

from . import errors, netlink, netns, reader, resolve, state, status, values, wireguard
from .errors import ConfigError, Failure, MissingError, TryAgainError, say
from .lock import Lock
from .peers import Update

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Endpoint

_PATIENCE = 0.2  # seconds; who has the lock is a wg-up, which looks the names up itself


def refresh(name: str = "") -> None:
    """Look after the tunnel `name`, or after all whose configuration is in its place; one line for each change.

    Nothing but endpoints is changed. Raises `Failure` when all is done, `TryAgainError` if a name does not resolve.
    """
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    failures: list[Failure] = []
    for link in [name] if name else [each for each in status.names() if os.path.exists(_path(each))]:
        try:
            descriptor = netns.open_namespace(link)
            try:
                failures += _refresh(link, descriptor, here, wanted=bool(name))
            finally:
                netns.enter(here)
                os.close(descriptor)
        except Failure as error:
            failures.append(error)
    failures.sort(key=lambda failure: failure.code)
    for failure in failures[:-1]:
        say(f"warning: {failure}", failure.hint, errors.WARNING)
    if failures:
        raise failures[-1]


def _refresh(link: str, descriptor: int, here: int, *, wanted: bool) -> list[Failure]:
    """Look after one tunnel, whose names are looked up in the namespace `here`; what did not resolve."""
    updates = _configured(_path(link))
    if not updates:  # without host names there is nothing to do, and no pyroute2 to load
        return []
    index, silent = _look(link, descriptor)
    if not index and wanted:
        raise MissingError(f'namespace "{link}" has no WireGuard link "{link}"', f"wg-up {link} makes it")
    if not silent:
        return []
    netns.enter(here)
    found, failures = _addresses([update for key, update in updates.items() if key in silent])
    try:
        with Lock(link, _PATIENCE):
            _move(link, descriptor, updates, found)
    except TryAgainError as error:
        say(f'"{link}" is left out: {error}', priority=errors.NOTICE)
    return failures


def _move(link: str, descriptor: int, updates: dict[bytes, Update], found: dict[bytes, list[Endpoint]]) -> None:
    """Set the endpoints, by what the link is now that nobody else changes it. Leaves this process in its namespace."""
    index, silent = _look(link, descriptor)
    moves = {key: (silent[key], _next(silent[key], found[key])) for key in found.keys() & silent.keys()}
    with netlink.Socket(netlink.NETLINK_GENERIC) as generic:
        for key, (old, new) in moves.items():
            if not new:
                continue
            update = updates[key]._replace(endpoint=new)
            generic.run(wireguard.configure(wireguard.family(generic), index, (None, None, None), [update]))
            place = new._replace(host=inet_ntop(new.family, new.address))
            say(f'"{link}": {update} is {place} now{f", no longer {old}" if old else ""}', priority=errors.NOTICE)


def _look(link: str, descriptor: int) -> tuple[int, dict[bytes, Endpoint | None]]:
    """The link's index, and its peers without a session with their endpoints. Leaves this process in its namespace."""
    netns.enter(descriptor)
    index = status.index(link)
    now = state.read(link, index) if index else state.State()
    return index, {key: peer.endpoint for key, peer in now.peers.items() if key not in now.alive}


def _path(link: str) -> str:
    return f"/etc/wireguard/{link}.conf"


def _configured(path: str) -> dict[bytes, Update]:
    """The peers of a configuration that have a host name for an endpoint. Its keys are no business of this program."""
    errors.leave_out_warnings()
    try:
        with open(path, "rb") as file:
            _, peers = reader.sections(reader.decode(file.read(), path), path)
    except FileNotFoundError:
        raise ConfigError(f'"{path}": no such file or directory') from None
    found = {}
    for number, peer in enumerate(peers, 1):
        key, endpoint = peer.one("PublicKey", values.key, b""), peer.one("Endpoint", values.endpoint, None)
        if endpoint and not _is_literal(endpoint.host):
            found[key] = Update(f"peer {number}", key, known=True, endpoint=endpoint)
    return found


def _addresses(updates: list[Update]) -> tuple[dict[bytes, list[Endpoint]], list[Failure]]:
    """Where peers can be, places without a route left out if there are others; and what did not resolve."""
    found: dict[bytes, list[Endpoint]] = {}
    failures: list[Failure] = []
    for update in updates:
        try:
            places = resolve.addresses(update.endpoint) if update.endpoint else []
        except TryAgainError as error:
            failures.append(error)
        else:
            found[update.public_key] = [place for place in places if resolve.has_route(place)] or places
    return found, failures


def _is_literal(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdecimal()


def _next(current: Endpoint | None, found: list[Endpoint]) -> Endpoint | None:
    """Where to look for a peer that does not answer where it is; None: there is nowhere else."""
    places = [place.sockaddr() for place in found]
    if not current or current.sockaddr() not in places:
        return found[0]
    position = places.index(current.sockaddr())
    return found[(position + 1) % len(found)] if len(found) > 1 else None
