"""Host names of endpoints -> addresses, and the MTU of the way there, in the namespace that the program runs in."""

from __future__ import annotations

import time

from . import signals
from .errors import TryAgainError, say, shown, warn
from .netlink import socket
from .tunnel import IPV6_MINIMUM, Endpoint, Tunnel

# IP_MTU and IPV6_MTU: the path MTU of a connected socket (ip(7), ipv6(7))
_PATH_MTU = {socket.AF_INET: (socket.IPPROTO_IP, 14), socket.AF_INET6: (socket.IPPROTO_IPV6, 24)}
_OVERHEAD = 80  # bytes that WireGuard adds at most, over IPv6 (wg-quick(8))
_ANYWHERE = Endpoint("", 51820, socket.AF_INET, b"\xc0\0\2\1")  # TEST-NET-1 (RFC 5737): goes by the default route
_AT_ONCE = 16  # names looked up at the same time
_LONGEST_PAUSE = 5  # seconds between two tries; the first pauses are shorter


def ready(tunnel: Tunnel, patience: float = 0) -> Tunnel:
    """The tunnel as `resolve` has it, with an MTU: the configuration's, or that of the ways to the endpoints."""
    resolved = resolve(tunnel, patience)
    return resolved if resolved.mtu else resolved._replace(mtu=_path_mtu(resolved))


def resolve(tunnel: Tunnel, patience: float = 0) -> Tunnel:
    """The tunnel with an address for each endpoint; looks up all names at the same time.

    Tries a name that does not resolve again for `patience` seconds, since a name server may be late at boot. Then
    raises `TryAgainError`. SIGTERM ends the process meanwhile: nothing has been changed yet.
    """
    places = {peer.endpoint: peer.endpoint for peer in tunnel.peers if peer.endpoint}
    end = time.monotonic() + patience
    tries, failures = 0, dict[Endpoint, TryAgainError]()
    while _look_up(places, failures, end if patience else 0):
        left, failure = end - time.monotonic(), next(iter(failures.values()))
        if left <= 0:
            raise failure
        if not tries:
            say(f"trying again for up to {patience:.0f} s: {failure}")
        time.sleep(min(left, 1 + 2 * tries, _LONGEST_PAUSE))
        tries += 1
    peers = (peer._replace(endpoint=peer.endpoint and places[peer.endpoint]) for peer in tunnel.peers)
    return tunnel._replace(peers=tuple(peers))


def _look_up(places: dict[Endpoint, Endpoint], failures: dict[Endpoint, TryAgainError], end: float) -> bool:
    """Look up the addresses of the endpoints that have none, put them into `places`, and return whether some failed.

    A name that has no answer this time keeps the failure of the time before.

    getaddrinfo(3) cannot be interrupted: what has no answer at `end` (time.monotonic(), 0: never) has failed. Its
    threads go on, and do not hold up the program, which ends by os._exit.
    """
    names = [endpoint for endpoint, place in places.items() if not place.family]
    if not names:
        return False
    from concurrent.futures import ThreadPoolExecutor  # 15 ms that most tunnels do not need

    pool = ThreadPoolExecutor(_AT_ONCE)
    signals.hold()  # for the threads: SIGTERM is for this one, also when it changes the kernel and they still run
    lookups = {endpoint: pool.submit(addresses, endpoint) for endpoint in names}
    signals.release()
    for endpoint, lookup in lookups.items():
        try:
            first, *others = lookup.result(max(0.0, end - time.monotonic()) if end else None)
            places[endpoint] = first._replace(others=tuple(others))
            failures.pop(endpoint, None)
        except TimeoutError:
            failures.setdefault(endpoint, _unresolved(endpoint, "no answer yet"))
        except TryAgainError as error:
            failures[endpoint] = error
    pool.shutdown(wait=False, cancel_futures=True)
    return bool(failures)


def addresses(endpoint: Endpoint) -> list[Endpoint]:
    """The endpoint at each address of its name, first where the host has a route to, then in the order of RFC 6724.

    Raises `TryAgainError` for a name that cannot be resolved.
    """
    try:
        # As bytes: a str would load the idna codec
        answers = socket.getaddrinfo(endpoint.host.encode(), endpoint.port, 0, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    except socket.gaierror as error:
        raise _unresolved(endpoint, str(error.args[-1]).lower()) from None
    found = []
    for family, _, _, _, address in answers:
        packed = socket.inet_pton(family, str(address[0]).partition("%")[0])
        scope = int(address[3]) if len(address) == 4 else 0
        found.append(endpoint._replace(family=family, address=packed, scope=scope))
    return sorted(dict.fromkeys(found), key=lambda one: not mtu_to(one))


def _unresolved(endpoint: Endpoint, reason: str) -> TryAgainError:
    hint = "getent ahosts with this name asks the same; is the host online?"
    return TryAgainError(f"endpoint {shown(endpoint.host)} does not resolve: {reason}", hint)


def _path_mtu(tunnel: Tunnel) -> int:
    """The interface's MTU in bytes: what the ways to the endpoints leave for the packets.

    As in wg-quick(8): the largest counts; without an endpoint that of the default route, without one 1500.
    """
    endpoints = {(to.address, to.scope): to for peer in tunnel.peers if (to := peer.endpoint)}
    best = max(map(mtu_to, endpoints.values()), default=0)
    mtu = (best or mtu_to(_ANYWHERE) or 1500) - _OVERHEAD
    if mtu < IPV6_MINIMUM and tunnel.has_ipv6():
        warn(f"the way to the endpoint has room for an mtu of {mtu} only, IPv6 needs 1280: packets will be split")
        return IPV6_MINIMUM
    return mtu


def mtu_to(endpoint: Endpoint) -> int:
    """The path MTU in bytes, 0 where there is no route. Connecting a UDP socket sends nothing."""
    place = socket.inet_ntop(endpoint.family, endpoint.address), endpoint.port
    try:
        udp = socket.socket(endpoint.family, socket.SOCK_DGRAM)
    except OSError:  # the kernel has no IPv6
        return 0
    failed = udp.connect_ex(place if endpoint.family == socket.AF_INET else (*place, 0, endpoint.scope))
    mtu = 0 if failed else udp.getsockopt(*_PATH_MTU[endpoint.family])
    udp.close()
    return mtu
