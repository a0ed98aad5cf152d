"""A tunnel as immutable values; config.py makes them, so what is here has been checked."""

from __future__ import annotations

import _socket
from _operator import itemgetter
from _struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414  (for state.py)
else:
    # ruff: noqa: ANN002, ANN003, ANN202, ANN204, D102  (type checkers look at the other branch)
    class NamedTuple(tuple):
        """What this package uses of typing.NamedTuple; importing that costs 7 ms at every start."""

        __slots__ = ()

        def __init_subclass__(cls):
            cls._fields = tuple(cls.__annotations__)
            cls._defaults = tuple(cls.__dict__.get(name) for name in cls._fields)
            for position, name in enumerate(cls._fields):
                setattr(cls, name, property(itemgetter(position)))

        def __new__(cls, *values, **named):
            made = tuple.__new__(cls, values + cls._defaults[len(values) :])
            return made._replace(**named) if named else made

        def _replace(self, **changes):
            return tuple.__new__(type(self), map(changes.pop, self._fields, self))

        def __repr__(self):  # no fields: some of them are keys
            return f"<{type(self).__name__}>"


class Network(NamedTuple):
    """An address with a prefix length: one of ours, or a network of a peer's allowed IPs."""

    family: int
    address: bytes  # network byte order
    prefix: int

    def network(self) -> Network:
        """The same without host bits."""
        host_bits = 8 * len(self.address) - self.prefix
        if not host_bits:
            return self
        number = int.from_bytes(self.address, "big")
        masked = number >> host_bits << host_bits
        return self if masked == number else self._replace(address=masked.to_bytes(len(self.address), "big"))

    def __str__(self) -> str:
        return f"{_socket.inet_ntop(self.family, self.address)}/{self.prefix}"


class Endpoint(NamedTuple):
    """Where a peer is reached: a host name or literal address and a UDP port, and, once resolved, the address."""

    host: str
    port: int
    family: int = 0
    address: bytes = b""
    scope: int = 0  # interface index of a link-local IPv6 address
    others: tuple[Endpoint, ...] = ()  # the further addresses of its name

    def sockaddr(self) -> bytes:
        """The resolved address as struct sockaddr_in or sockaddr_in6."""
        port = pack("!H", self.port)
        if self.family == _socket.AF_INET:
            return pack("=H", self.family) + port + self.address + bytes(8)
        return pack("=H", self.family) + port + bytes(4) + self.address + pack("=I", self.scope)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Peer(NamedTuple):
    """One [Peer]."""

    public_key: bytes
    preshared_key: bytes = b""  # empty: none
    endpoint: Endpoint | None = None
    keepalive: int = 0  # seconds, 0: off
    allowed_ips: tuple[Network, ...] = ()


class Tunnel(NamedTuple):
    """One configuration file."""

    private_key: bytes
    listen_port: int = 0  # 0: the kernel chooses
    fwmark: int = 0  # 0: off
    addresses: tuple[Network, ...] = ()
    mtu: int = 0  # bytes, 0: from the route to the endpoint
    table: int = 254  # routing table, 0: no routes
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()

    def routes(self) -> list[Network]:
        """The networks to route into the tunnel, each once, but for those that an address brings along by itself."""
        connected = {a.network() for a in self.addresses if a.prefix} if self.table == 254 else set()
        wanted = {network.network(): None for peer in self.peers for network in peer.allowed_ips} if self.table else {}
        return [network for network in wanted if network not in connected]

    def has_ipv6(self) -> bool:
        """Whether there is an address or a route of IPv6, so that the MTU has to be 1280 bytes at least (RFC 8200)."""
        return any(network.family == _socket.AF_INET6 for network in (*self.addresses, *self.routes()))

    def without_ipv6(self) -> Tunnel:
        """The same for a namespace without IPv6."""

        def ipv4(networks: tuple[Network, ...]) -> tuple[Network, ...]:
            return tuple(network for network in networks if network.family == _socket.AF_INET)

        return self._replace(
            addresses=ipv4(self.addresses),
            dns=tuple(server for server in self.dns if ":" not in server),
            peers=tuple(peer._replace(allowed_ips=ipv4(peer.allowed_ips)) for peer in self.peers),
        )
