"""From what a tunnel is to what it should be: the requests for it, and back again if one of them fails."""

from __future__ import annotations

from _operator import itemgetter
from _socket import AF_INET, AF_INET6

from . import netlink, peers, signals, state, wireguard
from .errors import ConfigError, Failure, warn
from .tunnel import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .state import State
    from .tunnel import Tunnel

_ROUNDS = 3  # one change can bring along another: with an IPv4 address go the others of its network
_PLACEHOLDER = Network(AF_INET, b"\xc0\0\0\x08", 32)  # the IPv4 dummy address (RFC 7600): no host has it
_IPV6_MINIMUM = 1280  # bytes (RFC 8200)
_SAID = 20  # steps named in one message


def names(tunnel: Tunnel) -> dict[bytes, str]:
    """What the peers of a configuration are called in messages, which show no keys."""
    return {peer.public_key: f"peer {number}" for number, peer in enumerate(tunnel.peers, 1)}


def listed(steps: list[str]) -> str:
    """The steps in one line, the first of them where there are many."""
    more = [f"{len(steps) - _SAID} more"] * (len(steps) > _SAID)
    return "; ".join(steps[:_SAID] + more)


def changes(
    index: int, family: int, now: State, wanted: State, called: dict[bytes, str]
) -> list[list[netlink.Request]]:
    """The requests that make `wanted` of `now`, in phases: to WireGuard's netlink family and others, by turns.

    What comes is first, what goes last, so that traffic which neither concerns goes on, and a failure finds all still
    there that cannot be restored; of routes only wg-up's go.
    """
    port = wanted.listen_port if wanted.listen_port not in (0, now.listen_port) else None
    key = wanted.private_key if wanted.private_key != now.private_key else None
    settings = (key, port, wanted.fwmark if wanted.fwmark != now.fwmark else None)
    device = wireguard.configure(family, index, settings, peers.updates(now, wanted, called))
    gone = wireguard.configure(family, index, (None, None, None), peers.removals(now, wanted, called))
    new, old = _addresses(index, now, wanted)
    return [[*device], new, [*gone], old]


def apply(socket: netlink.Socket, generic: netlink.Socket, phases: list[list[netlink.Request]]) -> None:
    """Send the requests, those to WireGuard one by one: each is long. Raises `Failure`."""
    for number, requests in enumerate(phases):
        signals.check()
        if number % 2:
            socket.run(requests)
        else:
            for request in requests:
                generic.run([request])


def _addresses(index: int, now: State, wanted: State) -> tuple[list[netlink.Request], list[netlink.Request]]:
    """What comes, and what goes after that: addresses, MTU and state of the link, routes."""
    goal = _in_order(wanted.addresses)
    first: list[netlink.Request] = []
    last: list[netlink.Request] = []
    for family in (AF_INET, AF_INET6):
        there = [address for address in now.addresses if address.family == family]
        steps = _rearranged(there, [address for address in goal if address.family == family])
        if family == AF_INET and any(remove for _, remove, _ in steps):
            first.append(netlink.set_link(index, promote=True))
        for address, remove, late in steps:
            (last if late else first).append(netlink.address(index, *address, remove=remove))
    if now.mtu != wanted.mtu:  # below 1280 the kernel takes IPv6 off the link
        mtu = netlink.set_link(index, mtu=wanted.mtu)
        first, last = (first, [*last, mtu]) if wanted.mtu < _IPV6_MINIMUM else ([mtu, *first], last)
    if (now.up, now.alias) != (wanted.up, wanted.alias):
        up = wanted.up if wanted.up != now.up else None
        alias = wanted.alias if wanted.alias != now.alias else None
        first.append(netlink.set_link(index, up=up, alias=alias, promote=True))
    ours = [key for key, ours in wanted.routes.items() if ours and key not in now.routes]
    gone = [key for key, ours in now.routes.items() if ours and key not in wanted.routes]
    first += [netlink.route(index, *network, table) for network, table in ours]
    return first, [netlink.route(index, *network, table, remove=True) for network, table in gone] + last


def _in_order(addresses: tuple[Network, ...]) -> list[Network]:
    """As the kernel has them: secondary IPv4 addresses, those in the network of an earlier one, stand behind all.

    Those of IPv6 stand by their scope: the link's (fe80::/10) before the world's.
    """
    seen: set[Network] = set()
    ranked = []
    for address in addresses:
        if address.family == AF_INET:
            rank = int(address.network() in seen)
        else:
            rank = int(address.address[0] != 0xFE or address.address[1] >> 6 != 2)
        ranked.append((rank, address))
        seen.add(address.network())
    return [address for _, address in sorted(ranked, key=itemgetter(0))]


def _rearranged(there: list[Network], goal: list[Network]) -> list[tuple[Network, bool, bool]]:
    """What makes one family's addresses those of `goal`, in that order, since the first is used as the source.

    Each with whether it goes, and whether that is done last of all. If what stays is first in `goal`, it is not touched
    and what goes has its time. Else everything behind the first difference is made anew; a placeholder makes sure that
    IPv4 is never without an address, with the last of which the kernel takes all routes.
    """
    kept = [address for address in there if address in goal]
    old = [address for address in there if address not in goal]
    same = 0
    while same < len(kept) and kept[same] == goal[same]:
        same += 1
    new = [(address, False, False) for address in goal[same:]]
    if same == len(kept):
        texts = {address.address for address in goal if address.family == AF_INET6}  # exists once, whatever its prefix
        return [
            *((address, True, False) for address in old if address.address in texts),
            *new,
            *((address, True, True) for address in old if address.address not in texts),
        ]
    placeholder = [_PLACEHOLDER] if goal[0].family == AF_INET and not same else []
    return [
        *((address, False, False) for address in placeholder if address not in there),
        *((address, True, False) for address in kept[same:] + old if address != _PLACEHOLDER),
        *new,
        *((address, True, False) for address in placeholder),
    ]


def planned(tunnel: Tunnel) -> list[str]:
    """What a new link is given, in words; nothing is resolved, so its MTU may not be known."""
    new = changes(0, 0, state.State(), state.wanted(tunnel, tunnel.mtu), names(tunnel))
    return _steps(new) + ["mtu from the route to the endpoint"] * (not tunnel.mtu)


class Change:
    """A WireGuard link of this process's network namespace on its way to another state, and back if that fails."""

    def __init__(self, socket: netlink.Socket, generic: netlink.Socket, link: str, index: int) -> None:
        """Read the link; `Failure` if that cannot be done. The sockets are in this namespace."""
        self._socket, self._generic, self._link, self._index = socket, generic, link, index
        self._family = wireguard.family(generic)
        self._former = state.read(link, index)
        self._called: dict[bytes, str] = {}

    def pending(self, tunnel: Tunnel, mtu: int) -> list[str]:
        """What `make` would do, in words."""
        self._called = names(tunnel)
        return _steps(self._requests(self._former, state.settled(state.wanted(tunnel, mtu), self._former)))

    def make(self, tunnel: Tunnel, mtu: int) -> list[str]:
        """Make the link as the tunnel, resolved, says; what was done, in words. Raises `Failure`: then call `undo`."""
        self._called = names(tunnel)
        wanted = state.wanted(tunnel, mtu)
        return self._bring(self._former, lambda now: state.settled(wanted, now))

    def undo(self) -> None:
        """Make the link again what it was, or say what it could not be made."""
        refused: object = ""
        try:
            for _ in range(_ROUNDS):
                phases = self._requests(state.read(self._link, self._index), self._former)
                for socket, requests in zip((self._generic, self._socket) * 2, phases, strict=True):
                    for request in requests:
                        try:
                            socket.run([request])
                        except Failure as error:  # then at least all the rest
                            refused = error
            left = listed(_steps(self._requests(state.read(self._link, self._index), self._former)))
        except Exception as error:  # noqa: BLE001  (whatever it is, what is being reported is the first failure)
            left, refused = "its state cannot be read", type(error).__name__
        if left:
            warn(f'"{self._link}" is not what it was before ({refused}); not restored: {left}', "run wg-up once more")

    def _requests(self, now: State, wanted: State) -> list[list[netlink.Request]]:
        return changes(self._index, self._family, now, wanted, self._called)

    def _bring(self, now: State, goal: Callable[[State], State]) -> list[str]:
        done: list[str] = []
        for _ in range(_ROUNDS):
            wanted = goal(now)
            if now.public_key in wanted.peers and now.private_key == wanted.private_key:
                called = self._called[now.public_key]
                raise ConfigError(f"{called} has this interface's own public key", "PublicKey is the other side's")
            requests = self._requests(now, wanted)
            if not any(requests):
                return list(dict.fromkeys(done))
            apply(self._socket, self._generic, requests)
            done += _steps(requests)
            now = state.read(self._link, self._index)
        left = listed(_steps(self._requests(now, goal(now))))
        if left:
            raise Failure(f'"{self._link}" does not become what it should be: {left}', "does something else change it?")
        return list(dict.fromkeys(done))


def _steps(requests: list[list[netlink.Request]]) -> list[str]:
    return list(dict.fromkeys(str(step) for those in requests for request in those for step in request.steps))
