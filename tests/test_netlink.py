"""The messages that are packed by hand, byte for byte against pyroute2's message classes."""

from __future__ import annotations

import base64
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from wgns_helpers import netlink, wireguard
from wgns_helpers.tunnel import Endpoint, Network, Peer, Tunnel

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=15)
indexes = st.integers(1, 2**31 - 1)
keys = st.binary(min_size=32, max_size=32)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """An IPv4 or IPv6 address with a prefix length."""
    if draw(st.booleans()):
        return Network(socket.AF_INET, draw(st.binary(min_size=4, max_size=4)), draw(st.integers(0, 32)))
    return Network(socket.AF_INET6, draw(st.binary(min_size=16, max_size=16)), draw(st.integers(0, 128)))


@st.composite
def endpoints(draw: st.DrawFn) -> Endpoint:
    """A resolved endpoint."""
    network = draw(networks())
    host = socket.inet_ntop(network.family, network.address)
    return Endpoint(host, draw(st.integers(1, 65535)), network.family, network.address)


@st.composite
def peers(draw: st.DrawFn) -> Peer:
    """A peer with any of its settings."""
    return Peer(
        public_key=draw(keys),
        preshared_key=draw(st.one_of(st.just(b""), keys)),
        endpoint=draw(st.one_of(st.none(), endpoints())),
        keepalive=draw(st.integers(0, 65535)),
        allowed_ips=tuple(draw(st.lists(networks(), max_size=5))),
    )


def theirs(message: Any, kind: int, request: int, sequence: int, attributes: list[Any], **fields: int) -> bytes:
    """The bytes that pyroute2 makes of a message."""
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message["header"].update({"type": kind, "flags": request, "sequence_number": sequence, "pid": 0})
    message.encode()
    return bytes(message.data[: message["header"]["length"]])


@given(names, indexes, st.integers(0, 1000), st.integers(1, 2**32 - 1))
def test_create_link(name: str, index: int, descriptor: int, sequence: int) -> None:
    """The one message that makes the link inside its namespace is pyroute2's."""
    ours = netlink.create_link(name, "wireguard", index, descriptor).pack(sequence)
    attributes = [
        ["IFLA_IFNAME", name],
        ["IFLA_NET_NS_FD", descriptor],
        ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "wireguard"]]}],
    ]
    message = NamespaceByDescriptor()
    assert ours == theirs(message, 16, 0x605, sequence, attributes, index=index)


class NamespaceByDescriptor(ifinfmsg):  # type: ignore[misc]
    """ifinfmsg whose IFLA_NET_NS_FD takes the number of a descriptor; pyroute2's own opens a file by name."""

    nla_map = tuple((name, "uint32" if name == "IFLA_NET_NS_FD" else kind) for name, kind in ifinfmsg.nla_map)


@given(indexes, st.integers(68, 65535), st.integers(1, 2**32 - 1))
def test_set_link_up(index: int, mtu: int, sequence: int) -> None:
    """Bringing the link up, with its MTU."""
    ours = netlink.set_link_up(index, mtu).pack(sequence)
    attributes = [["IFLA_MTU", mtu]]
    assert ours == theirs(ifinfmsg(), 16, 0x5, sequence, attributes, index=index, flags=1, change=1)


@given(indexes)
def test_set_link_up_without_mtu(index: int) -> None:
    """Bringing lo up."""
    assert netlink.set_link_up(index).pack(7) == theirs(ifinfmsg(), 16, 0x5, 7, [], index=index, flags=1, change=1)


@given(indexes)
def test_delete_link(index: int) -> None:
    """Deleting the link."""
    assert netlink.delete_link(index).pack(1) == theirs(ifinfmsg(), 17, 0x5, 1, [], index=index)


@given(indexes, networks())
def test_add_address(index: int, network: Network) -> None:
    """Giving the link an address."""
    text = socket.inet_ntop(network.family, network.address)
    attributes = [["IFA_LOCAL", text], ["IFA_ADDRESS", text]]
    ours = netlink.add_address(index, network.family, network.address, network.prefix).pack(3)
    assert ours == theirs(
        ifaddrmsg(), 20, 0x605, 3, attributes, family=network.family, prefixlen=network.prefix, index=index
    )


@given(indexes, networks(), st.integers(1, 2**32 - 1))
def test_add_route(index: int, network: Network, table: int) -> None:
    """A route by the link, in any table, with our protocol number."""
    ipv4 = network.family == socket.AF_INET
    attributes: list[list[Any]] = []
    if network.prefix:
        attributes.append(["RTA_DST", socket.inet_ntop(network.family, network.address)])
    attributes.append(["RTA_OIF", index])
    if table > 255:
        attributes.append(["RTA_TABLE", table])
    fields = {
        "family": network.family,
        "dst_len": network.prefix,
        "table": table if table < 256 else 0,
        "proto": netlink.ROUTE_PROTOCOL,
        "scope": 253 if ipv4 else 0,
        "type": 1,
    }
    ours = netlink.add_route(index, network.family, network.address, network.prefix, table).pack(9)
    assert ours == theirs(rtmsg(), 24, 0x605, 9, attributes, **fields)


def their_peer(peer: Peer) -> dict[str, Any]:
    """A peer as pyroute2 wants it."""
    attributes: list[list[Any]] = [
        ["WGPEER_A_PUBLIC_KEY", base64.b64encode(peer.public_key)],
        ["WGPEER_A_FLAGS", 2],
    ]
    if peer.preshared_key:
        attributes.append(["WGPEER_A_PRESHARED_KEY", base64.b64encode(peer.preshared_key)])
    if peer.endpoint:
        endpoint = {"family": peer.endpoint.family, "addr": peer.endpoint.host, "port": peer.endpoint.port}
        attributes.append(["WGPEER_A_ENDPOINT", endpoint])
    if peer.keepalive:
        attributes.append(["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", peer.keepalive])
    allowed = [
        {
            "attrs": [
                ["WGALLOWEDIP_A_FAMILY", network.family],
                ["WGALLOWEDIP_A_IPADDR", network.address],
                ["WGALLOWEDIP_A_CIDR_MASK", network.prefix],
            ]
        }
        for network in peer.allowed_ips
    ]
    attributes.append(["WGPEER_A_ALLOWEDIPS", allowed])
    return {"attrs": attributes}


@given(keys, st.integers(0, 65535), st.integers(0, 2**32 - 1), st.lists(peers(), max_size=4))
def test_configure(private_key: bytes, port: int, mark: int, several: list[Peer]) -> None:
    """The generic-netlink request with keys, port, mark and peers."""
    tunnel = Tunnel(private_key, listen_port=port, fwmark=mark, peers=tuple(several))
    (request,) = wireguard.configure(29, 5, tunnel)
    attributes = [
        ["WGDEVICE_A_IFINDEX", 5],
        ["WGDEVICE_A_PRIVATE_KEY", base64.b64encode(tunnel.private_key)],
        ["WGDEVICE_A_FLAGS", 1],
        ["WGDEVICE_A_LISTEN_PORT", tunnel.listen_port],
        ["WGDEVICE_A_FWMARK", tunnel.fwmark],
        ["WGDEVICE_A_PEERS", [their_peer(peer) for peer in tunnel.peers]],
    ]
    assert request.pack(2) == theirs(wgmsg(), 29, 0x5, 2, attributes, cmd=1, version=1)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_long_lists_go_on_in_further_messages(peer_count: int, network_count: int) -> None:
    """No attribute is over its limit, and together the messages hold each peer and allowed IP once, in their order."""

    def network(number: int) -> Network:
        return Network(socket.AF_INET6, number.to_bytes(16, "big"), 128)

    many = Peer(b"m" * 32, allowed_ips=tuple(network(number) for number in range(network_count)))
    others = tuple(Peer(number.to_bytes(32, "big"), keepalive=1) for number in range(peer_count))
    tunnel = Tunnel(b"p" * 32, peers=(many, *others))
    found_peers: list[bytes] = []
    found_networks: list[bytes] = []
    for position, request in enumerate(wireguard.configure(29, 5, tunnel)):
        outer = netlink.attributes(request.body, 4)
        assert (3 in outer) == (position == 0)  # the private key and the flag that replaces: only in the first
        assert (5 in outer) == (position == 0)
        for peer in each(outer[8]):
            inner = netlink.attributes(peer)
            if 3 in inner:
                found_peers.append(inner[1])
            else:
                assert inner[1] == many.public_key == found_peers[-1]
            found_networks += [netlink.attributes(allowed)[2] for allowed in each(inner.get(9, b""))]
    assert found_peers == [peer.public_key for peer in tunnel.peers]
    assert found_networks == [network.address for network in many.allowed_ips]


def each(nest: bytes) -> list[bytes]:
    """The payloads of the attributes of a nest, in order."""
    found = []
    while nest:
        (length,) = struct.unpack_from("=H", nest)
        found.append(nest[4:length])
        nest = nest[-(-length // 4) * 4 :]
    return found


def test_an_attribute_has_a_limit() -> None:
    """One that would not fit its length field is never sent torn."""
    assert len(netlink.attribute(1, bytes(65531))) == 65536
    with pytest.raises(ValueError, match="65,531"):
        netlink.attribute(1, bytes(65532))


@given(st.binary(max_size=200))
def test_attributes_of_rubbish(data: bytes) -> None:
    """Whatever the kernel's answer is, reading its attributes ends and raises nothing."""
    for payload in netlink.attributes(data).values():
        assert payload in data


def test_refusal_reads_the_kernels_own_words() -> None:
    """The extended acknowledgement stands behind the reason, and permission has its own exit code."""
    words = netlink.attribute(1, b"Unknown device type\0")
    failure = netlink.refusal("link", 0x300, struct.pack("=i", -95) + bytes(16) + words)
    assert str(failure) == "link: operation not supported (Unknown device type)"
    assert isinstance(failure, netlink.KernelRefusedError)
    assert failure.errno == 95
    echoed = struct.pack("=i", -95) + struct.pack("=I", 22) + bytes(12) + b"echoed\0\0" + words
    assert str(netlink.refusal("link", 0x200, echoed)) == str(failure)
    assert netlink.refusal("link", 0, bytes(20)) is None
    denied = netlink.refusal("link", 0, struct.pack("=i", -1) + bytes(16))
    assert denied is not None
    assert denied.code == 77
