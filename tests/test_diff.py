"""From one tunnel to another: a small model of the kernel carries out the requests, and has what is wanted then."""

from __future__ import annotations

import re
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import rules
from wgns_helpers import inbound, netlink
from wgns_helpers.diff import NOTHING, diff, words
from wgns_helpers.tunnel import NOWHERE, Endpoint, Network, Peer, Port, Route, Tunnel, network
from wgns_helpers.wireguard import REMOVE, REPLACE_ALLOWED_IPS, UPDATE_ONLY, Device

KEYS = [bytes([number]) * 32 for number in (1, 2, 3)]
NETWORKS = list(map(network, ("0.0.0.0/0", "::/0", "10.9.0.0/16", "10.8.0.0/16", "fd09::/64")))
ADDRESSES = list(map(network, ("10.9.0.2/24", "10.9.0.3/24", "10.9.0.2/32", "fd09::2/64", "fd09::2/48", "fd08::1/128")))
PLACES = [
    Endpoint("192.0.2.1", 7, socket.AF_INET, b"\xc0\0\2\1"),
    Endpoint("::1", 9, socket.AF_INET6, bytes(15) + b"\1"),
]

FILTERS = [None, (), (Port(6, 80, 80),), (Port(6, 80, 80), Port(17, 6881, 6889))]


@st.composite
def tunnels(draw: st.DrawFn, *, present: bool) -> Tunnel:
    """A tunnel as a configuration wants it, or as it can be present."""
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True))
    owners = {allowed: draw(st.sampled_from(keys)) for allowed in draw(st.sets(st.sampled_from(NETWORKS))) if keys}
    places = [*PLACES, NOWHERE if present else None]
    peers = tuple(
        Peer(
            key,
            draw(st.sampled_from([b"", b"p" * 32])),
            draw(st.sampled_from(places)),
            draw(st.sampled_from([0, 25])),
            tuple(allowed for allowed, owner in owners.items() if owner == key),
        )
        for key in keys
    )
    addresses = draw(st.lists(st.sampled_from(ADDRESSES), unique_by=lambda a: a if len(a.address) == 4 else a.address))
    routes = draw(st.lists(st.sampled_from([Route(each, 254) for each in NETWORKS]), unique=True)) if present else []
    tunnel = Tunnel(
        draw(st.sampled_from([b"", b"\0" + bytes(30) + b"\x40", b"\x10" * 31 + b"\x50"]))
        if present
        else b"\x10" * 31 + b"\x50",
        draw(st.sampled_from([40001, 40002] if present else [0, 40001])),
        draw(st.sampled_from([0, 7])),
        tuple(addresses),
        draw(st.sampled_from([1280, 1420])),
        open_ports=draw(st.sampled_from([*FILTERS, inbound.CHANGED] if present else FILTERS)),
        peers=peers,
        routes=tuple(routes),
        up=draw(st.booleans()) if present else True,
    )
    return tunnel if present else tunnel.as_in_kernel()


class Kernel:
    """A link as the requests change it; a request that the kernel would refuse fails."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.settings = {3: tunnel.private_key or bytes(32), 6: tunnel.listen_port, 7: tunnel.fwmark}
        self.mtu, self.up, self.open_ports = tunnel.mtu, tunnel.up, tunnel.open_ports
        self.peers = {peer.public_key: self.peer(peer) for peer in tunnel.peers}
        self.addresses, self.routes = set(tunnel.addresses), {route[:2] for route in tunnel.routes}

    @staticmethod
    def peer(peer: Peer) -> dict[str, Any]:
        """What the kernel keeps of a peer."""
        place = None if peer.endpoint in (None, NOWHERE) or not peer.endpoint else peer.endpoint.sockaddr()
        return {"psk": peer.preshared_key, "at": place, "keepalive": peer.keepalive, "allowed": set(peer.allowed_ips)}

    def run(self, request: netlink.Request) -> None:
        """Carry out a request."""
        if request.protocol == netlink.NETLINK_GENERIC:
            assert request.kind == 29
            for kind, value in netlink.attributes(request.body, 4).items():
                if kind == 8:
                    for _, nest in netlink.each(value):
                        self._set_peer(netlink.attributes(nest))
                elif kind != 1:
                    self.settings[kind] = value if kind == 3 else int.from_bytes(value, "little")
        elif isinstance(request, inbound.Batch):
            self._filter(request)
        elif request.kind == netlink.RTM_NEWLINK:
            _, _, index, flags, change = struct.unpack_from("=BxHiII", request.body)
            assert index == 5
            self.up = bool(flags) if change else self.up
            mtu = netlink.attributes(request.body, 16).get(4)
            self.mtu = int.from_bytes(mtu, "little") if mtu else self.mtu
        elif request.kind in (netlink.RTM_NEWADDR, netlink.RTM_DELADDR):
            family, prefix = request.body[:2]
            self._address(Network(family, netlink.attributes(request.body, 8)[2], prefix), request.kind)
        else:
            family, prefix, *_ = request.body
            any_address = bytes(4 if family == socket.AF_INET else 16)
            route = Network(family, netlink.attributes(request.body, 12).get(1, any_address), prefix), request.body[4]
            assert (route in self.routes) == (request.kind == netlink.RTM_DELROUTE)
            self.routes ^= {route}

    def _filter(self, request: inbound.Batch) -> None:
        """The rules that come after a table or the rules before have gone."""
        kinds = [kind for kind, *_ in request.messages]
        assert [kind for kind in kinds if kind != 6] in ([8], [0, 2, 0, 3, 3], [0, 2])
        assert kinds[0] == 0 or self.open_ports not in (None, inbound.CHANGED)
        found = (re.search(r"L4PROTO .*?EQ (\w+) .*?cmp \w+ (\w+)( cmp \w+ (\w+))?", rule) for rule in rules(request))
        ports = [Port(*(int(each[i] or each[2], 16) for i in (1, 2, 4))) for each in found if each]
        self.open_ports = tuple(ports) if 6 in kinds else None

    def _address(self, address: Network, kind: int) -> None:
        same = {a for a in self.addresses if a == address or (len(a.address) == 16 and a.address == address.address)}
        assert same == (set() if kind == netlink.RTM_NEWADDR else {address})
        self.addresses ^= {address}

    def _set_peer(self, found: dict[int, bytes]) -> None:
        key, flags = found[1], int.from_bytes(found.get(3, b""), "little")
        if flags & REMOVE:
            del self.peers[key]
            return
        assert (key in self.peers) == bool(flags & UPDATE_ONLY)
        peer = self.peers.setdefault(key, self.peer(Peer(key)))
        if flags & REPLACE_ALLOWED_IPS:
            peer["allowed"].clear()
        peer["psk"] = found[2].strip(b"\0") if 2 in found else peer["psk"]
        peer["at"] = found.get(4, peer["at"])
        peer["keepalive"] = int.from_bytes(found[5], "little") if 5 in found else peer["keepalive"]
        for _, nest in netlink.each(found.get(9, b"")):
            allowed = netlink.attributes(nest)
            moved = Network(int.from_bytes(allowed[1], "little"), allowed[2], allowed[3][0])
            for other in self.peers.values():
                other["allowed"].discard(moved)
            peer["allowed"].add(moved)

    def state(self) -> tuple[Any, ...]:
        """All of it, for comparison."""
        # A filter that somebody has changed cannot be restored: it is closed then
        ports = () if self.open_ports == inbound.CHANGED else self.open_ports
        return self.settings, self.mtu, self.up, ports, self.peers, self.addresses, self.routes


def kept(now: Tunnel, wanted: Tunnel) -> Tunnel:
    """`wanted` as a present tunnel, with what it leaves open as it is in `now`."""
    places = {peer.public_key: peer.endpoint for peer in now.peers}
    peers = [p if p.endpoint else p._replace(endpoint=places.get(p.public_key, NOWHERE)) for p in wanted.peers]
    port = wanted.listen_port or now.listen_port
    return wanted.as_in_kernel()._replace(peers=tuple(peers), listen_port=port)


def is_removal(request: netlink.Request) -> bool:
    """Whether the request only takes something away."""
    return all(line.startswith("remove ") for line in request.lines)


@given(tunnels(present=True), tunnels(present=False))
def test_the_requests_make_what_is_wanted(now: Tunnel, wanted: Tunnel) -> None:
    """From any tunnel to any other, nothing remains to do then, and the way back leads to the first one."""
    kernel = Kernel(now)
    requests = diff(now, wanted, Device(5, 29), {})
    for request in requests:
        kernel.run(request)
    after = kept(now, wanted)
    assert kernel.state() == Kernel(after).state()
    assert diff(after, wanted, Device(), {}) == []
    for request in diff(after, now, Device(5, 29), {}):
        kernel.run(request)
    assert kernel.state() == Kernel(now).state()


@given(tunnels(present=False))
def test_from_nothing(wanted: Tunnel) -> None:
    """A new link gets all of it, and nothing is removed."""
    kernel = Kernel(NOTHING)
    requests = diff(NOTHING, wanted, Device(5, 29), {})
    for request in requests:
        kernel.run(request)
    assert kernel.state() == Kernel(kept(NOTHING, wanted)).state()
    assert not any(map(is_removal, requests))


@given(tunnels(present=True))
def test_a_tunnel_does_not_differ_from_itself(now: Tunnel) -> None:
    """Whatever is present."""
    assert diff(now, now, Device(), {}) == []


@given(tunnels(present=True), tunnels(present=False))
def test_peers_that_are_the_same_are_not_touched(now: Tunnel, wanted: Tunnel) -> None:
    """No request mentions them, so that their sessions go on."""
    names = {key: f"peer {number}" for number, key in enumerate(KEYS, 1)}
    same = {names[peer.public_key] for peer in now.peers if peer in wanted.peers}
    said = words(diff(now, wanted, Device(), names))
    assert not [line for line in said for name in same if name in line]


def test_moved_allowed_ips() -> None:
    """An allowed IP that moves to another peer is in the request for that one only."""
    now = Tunnel(b"", routes=(), peers=(Peer(KEYS[0], allowed_ips=tuple(NETWORKS[:2])), Peer(KEYS[1])))
    wanted = now._replace(peers=(Peer(KEYS[0], allowed_ips=(NETWORKS[0],)), Peer(KEYS[1], allowed_ips=(NETWORKS[1],))))
    assert words(diff(now, wanted, Device(), {KEYS[1]: "peer 2"})) == ["peer 2: allowed IPs ::/0"]


def test_a_route_of_somebody_else_is_not_removed() -> None:
    """Nor made again when it is in the place of a wanted one."""
    routes = tuple(Route(allowed, 254, ours=False) for allowed in NETWORKS[:2])
    now = Tunnel(b"", routes=routes)
    assert diff(now, now._replace(routes=()), Device(), {}) == []
    assert diff(now, now._replace(routes=(Route(NETWORKS[0], 254),)), Device(), {}) == []


@pytest.mark.parametrize(("mtu", "last"), [(1200, "mtu 1200"), (1300, "remove address fd09::2/64")])
def test_an_mtu_that_ipv6_does_not_survive_is_last(mtu: int, last: str) -> None:
    """Below 1280 bytes the kernel takes IPv6 off the link, so its addresses are removed before."""
    now = Tunnel(b"", mtu=1420, routes=(), addresses=(network("fd09::2/64"), network("10.9.0.2/24")))
    said = words(diff(now, now._replace(mtu=mtu, addresses=(network("10.9.0.2/24"),)), Device(), {}))
    assert (said[-1], len(said)) == (last, 2)
