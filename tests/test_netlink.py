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
from pyroute2.netlink.nfnetlink.nftsocket import nft_chain_msg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from tests.support import rules
from wgns_helpers import inbound, netlink, wireguard
from wgns_helpers.tunnel import NOWHERE, Endpoint, Network, Peer, Port, Session, Tunnel
from wgns_helpers.wireguard import Device

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


Change = dict[str, Any]


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """A change of a peer with any of its settings, as wireguard.peer takes it."""
    return {
        "name": "peer",
        "public_key": draw(keys),
        "flags": draw(st.integers(0, 7)),
        "preshared_key": draw(st.one_of(st.none(), st.just(b""), keys)),
        "endpoint": draw(st.one_of(st.none(), endpoints())),
        "keepalive": draw(st.one_of(st.none(), st.integers(0, 65535))),
        "allowed_ips": tuple(draw(st.lists(networks(), max_size=5))),
    }


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


@given(
    indexes,
    st.sampled_from([None, True, False]),
    st.one_of(st.just(0), st.integers(68, 65535)),
    st.booleans(),
)
def test_set_link(index: int, up: bool | None, mtu: int, promote: bool) -> None:
    """Changing a link: only what is given is in the message."""
    ours = netlink.set_link(index, up=up, mtu=mtu, promote=promote).pack(7)
    attributes: list[list[Any]] = [["IFLA_MTU", mtu]] if mtu else []
    message = ifinfmsg()
    message["attrs"] = attributes
    change = 0 if up is None else 1
    expected = theirs(message, 16, 0x5, 7, attributes, index=index, flags=1 if up else 0, change=change)
    # pyroute2 only reads IFLA_INET_CONF, which is compared by hand
    rest = ours[len(expected) :]
    assert ours[16 : len(expected)] == expected[16:]
    assert struct.unpack_from("=I", ours)[0] == len(ours)
    assert rest == (struct.pack("=8H2H", 20, 26, 16, 2, 12, 1, 8, 20, 1, 0) if promote else b"")


@given(indexes)
def test_delete_link(index: int) -> None:
    """Deleting the link."""
    assert netlink.delete_link(index).pack(1) == theirs(ifinfmsg(), 17, 0x5, 1, [], index=index)


@given(indexes, networks(), st.booleans())
def test_address(index: int, network: Network, remove: bool) -> None:
    """Giving the link an address, and taking it away."""
    text = socket.inet_ntop(network.family, network.address)
    attributes = [["IFA_LOCAL", text], ["IFA_ADDRESS", text]]
    ours = netlink.address(index, *network, remove=remove).pack(3)
    kind, flags = (21, 0x5) if remove else (20, 0x605)
    fields = {"family": network.family, "prefixlen": network.prefix, "index": index}
    assert ours == theirs(ifaddrmsg(), kind, flags, 3, attributes, **fields)


@given(indexes, networks(), st.integers(1, 2**32 - 1), st.booleans())
def test_route(index: int, network: Network, table: int, remove: bool) -> None:
    """A route by the link, in any table, with our protocol number; and its removal, which has that number too."""
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
    ours = netlink.route(index, *network, table, remove=remove).pack(9)
    kind, flags = (25, 0x5) if remove else (24, 0x605)
    assert ours == theirs(rtmsg(), kind, flags, 9, attributes, **fields)


def their_peer(change: Change) -> dict[str, Any]:
    """A change of a peer as pyroute2 wants it."""
    attributes: list[list[Any]] = [
        ["WGPEER_A_PUBLIC_KEY", base64.b64encode(change["public_key"])],
        ["WGPEER_A_FLAGS", change["flags"]],
    ]
    if change["preshared_key"] is not None:
        attributes.append(["WGPEER_A_PRESHARED_KEY", base64.b64encode(change["preshared_key"] or bytes(32))])
    if change["endpoint"]:
        there = change["endpoint"]
        attributes.append(["WGPEER_A_ENDPOINT", {"family": there.family, "addr": there.host, "port": there.port}])
    if change["keepalive"] is not None:
        attributes.append(["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", change["keepalive"]])
    if change["allowed_ips"]:
        attributes.append(["WGPEER_A_ALLOWEDIPS", their_networks(change["allowed_ips"])])
    return {"attrs": attributes}


def their_networks(networks: tuple[Network, ...]) -> list[dict[str, Any]]:
    """Allowed IPs as pyroute2 wants them."""
    names = ("WGALLOWEDIP_A_FAMILY", "WGALLOWEDIP_A_IPADDR", "WGALLOWEDIP_A_CIDR_MASK")
    return [{"attrs": list(map(list, zip(names, network, strict=True)))} for network in networks]


SET = Tunnel(b"k" * 32, listen_port=1, fwmark=1)


@pytest.mark.parametrize(
    ("wanted", "name", "value"),
    [
        (SET._replace(private_key=b"p" * 32), "WGDEVICE_A_PRIVATE_KEY", base64.b64encode(b"p" * 32)),
        (SET._replace(private_key=b""), "WGDEVICE_A_PRIVATE_KEY", base64.b64encode(bytes(32))),
        (SET._replace(listen_port=65535), "WGDEVICE_A_LISTEN_PORT", 65535),
        (SET._replace(fwmark=2**32 - 1), "WGDEVICE_A_FWMARK", 2**32 - 1),
        (SET._replace(fwmark=0), "WGDEVICE_A_FWMARK", 0),
    ],
)
def test_settings(wanted: Tunnel, name: str, value: object) -> None:
    """The generic-netlink request for each setting of the device."""
    (request_,) = wireguard.settings(Device(5, 29), SET, wanted)
    assert request_.protocol == netlink.NETLINK_GENERIC
    attributes = [["WGDEVICE_A_IFINDEX", 5], [name, value]]
    assert request_.pack(2) == theirs(wgmsg(), 29, 0x5, 2, attributes, cmd=1, version=1)


@given(st.lists(changes(), max_size=4))
def test_peers(several: list[Change]) -> None:
    """The generic-netlink request with what changes of peers; none where nothing does."""
    requests = list(wireguard.peers(Device(5, 29), (part for change in several for part in wireguard.peer(**change))))
    attributes = [["WGDEVICE_A_IFINDEX", 5], ["WGDEVICE_A_PEERS", list(map(their_peer, several))]]
    expected = [theirs(wgmsg(), 29, 0x5, 2, attributes, cmd=1, version=1)] if several else []
    assert [request.pack(2) for request in requests] == expected


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_long_lists_go_on_in_further_messages(peer_count: int, network_count: int) -> None:
    """No attribute is over its limit, and together the messages hold each peer and allowed IP once, in their order."""

    def network(number: int) -> Network:
        return Network(socket.AF_INET6, number.to_bytes(16, "big"), 128)

    networks = list(map(network, range(network_count)))
    public_keys = [b"m" * 32, *(number.to_bytes(32, "big") for number in range(peer_count))]
    parts = [*wireguard.peer("many", public_keys[0], wireguard.REPLACE_ALLOWED_IPS, allowed_ips=networks)]
    parts += [part for key in public_keys[1:] for part in wireguard.peer("", key, keepalive=1)]
    found_peers: list[bytes] = []
    found_networks: list[bytes] = []
    for request in wireguard.peers(Device(5, 29), parts):
        for peer in each(netlink.attributes(request.body, 4)[8]):
            inner = netlink.attributes(peer)
            if 3 in inner:
                found_peers.append(inner[1])
            else:
                assert inner[1] == public_keys[0] == found_peers[-1]
            found_networks += [netlink.attributes(allowed)[2] for allowed in each(inner.get(9, b""))]
    assert found_peers == public_keys
    assert found_networks == [network.address for network in networks]


@st.composite
def devices(draw: st.DrawFn) -> list[tuple[Peer, Session]]:
    """Peers as the kernel has them."""
    found = {}
    for key in draw(st.lists(keys, max_size=4)):
        psk, endpoint = draw(st.one_of(st.just(b""), keys)), draw(st.one_of(st.just(NOWHERE), endpoints()))
        allowed = tuple(draw(st.lists(networks(), max_size=5)))
        peer = Peer(key, psk if any(psk) else b"", endpoint, draw(st.integers(0, 65535)), allowed)
        found[key] = peer, Session(*(draw(st.integers(0, 2**63 - 1)) for _ in range(3)))
    return list(found.values())


def their_message(peers: list[tuple[Peer, Session]], first: int) -> bytes:
    """One answer of the kernel's with these peers, the first of which goes on from the allowed IP `first`."""
    nests = []
    for number, (peer, session) in enumerate(peers):
        nest: list[list[Any]] = [["WGPEER_A_PUBLIC_KEY", base64.b64encode(peer.public_key)]]
        if number or not first:
            nest += [
                ["WGPEER_A_PRESHARED_KEY", base64.b64encode(peer.preshared_key or bytes(32))],
                ["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", peer.keepalive],
                ["WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": session.handshake, "tv_nsec": 9}],
                ["WGPEER_A_RX_BYTES", session.received],
                ["WGPEER_A_TX_BYTES", session.sent],
            ]
            if peer.endpoint and peer.endpoint != NOWHERE:
                there = {"family": peer.endpoint.family, "addr": peer.endpoint.host, "port": peer.endpoint.port}
                nest.append(["WGPEER_A_ENDPOINT", there])
        nest.append(["WGPEER_A_ALLOWEDIPS", their_networks(peer.allowed_ips[first if not number else 0 :])])
        nests.append({"attrs": nest})
    attributes = (
        [["WGDEVICE_A_LISTEN_PORT", 7], ["WGDEVICE_A_PEERS", nests]] if not first else [["WGDEVICE_A_PEERS", nests]]
    )
    return theirs(wgmsg(), 29, 0x2, 2, attributes, cmd=0, version=1)[16:]


@given(devices(), st.integers(0, 5))
def test_a_device_is_read(peers: list[tuple[Peer, Session]], cut: int) -> None:
    """What the kernel sends of a device, in one message or with a peer that goes on in a second one."""
    answers = [their_message(peers, 0)]
    if peers and 0 < cut < len(peers[-1][0].allowed_ips):
        last, session = peers[-1]
        begun = last._replace(allowed_ips=last.allowed_ips[:cut])
        answers = [their_message([*peers[:-1], (begun, session)], 0), their_message([(last, session)], cut)]

    def dump(request: netlink.Request) -> list[bytes]:
        assert request.pack(3) == theirs(wgmsg(), 29, 0x305, 3, [["WGDEVICE_A_IFINDEX", 5]], cmd=0, version=1)
        return answers

    with wireguard.Link("wg", 5) as link:
        link._family, link.dump = 29, dump  # type: ignore[method-assign]  # noqa: SLF001
        tunnel, sessions = link.read()
    assert (tunnel.listen_port, tunnel.private_key, tunnel.fwmark) == (7, b"", 0)
    assert list(tunnel.peers) == [peer for peer, _ in peers]
    assert sessions == {peer.public_key: session for peer, session in peers}


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
    with pytest.raises(struct.error):
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
    assert netlink.refusal("link", 0, bytes(20)) is None
    denied = netlink.refusal("link", 0, struct.pack("=i", -1) + bytes(16))
    assert denied is not None
    assert denied.code == 77


def test_the_filter() -> None:
    """Its rules in pyroute2's words, and the batch: begin, messages, of which the last asks for an answer, and end."""
    (batch,) = inbound.change("demo", None, (Port(6, 80, 80), Port(17, 6881, 6889)))
    assert isinstance(batch, inbound.Batch)
    accept = "immediate NFT_REG_VERDICT NF_ACCEPT"
    port = "payload NFT_PAYLOAD_TRANSPORT_HEADER 2 2"
    expected = [
        f"input meta NFT_META_IIF cmp NFT_CMP_EQ 01000000 {accept}",
        f"input ct NFT_CT_STATE bitwise 4 04000000 00000000 cmp NFT_CMP_NEQ 00000000 {accept}",
        f"input ct NFT_CT_DIRECTION cmp NFT_CMP_EQ 01 {accept}",
        f"input meta NFT_META_L4PROTO cmp NFT_CMP_EQ 06 {port} cmp NFT_CMP_EQ 0050 {accept}",
        f"input meta NFT_META_L4PROTO cmp NFT_CMP_EQ 11 {port} cmp NFT_CMP_GTE 1ae1 cmp NFT_CMP_LTE 1ae9 {accept}",
        "input immediate NFT_REG_VERDICT NFT_JUMP forwarded",
    ]
    assert rules(batch) == expected
    (again,) = inbound.change("demo", (), (Port(6, 80, 80), Port(17, 6881, 6889)))
    assert isinstance(again, inbound.Batch)
    assert rules(again) == expected
    base = nft_chain_msg(struct.pack("=IHHII", 16 + len(batch.messages[4][2]), 3, 0, 0, 0) + batch.messages[4][2])
    base.decode()
    hook = base.get_attr("NFTA_CHAIN_HOOK")
    assert [hook.get_attr(f"NFTA_HOOK_{name}") for name in ("HOOKNUM", "PRIORITY")] == [1, 0]
    assert [base.get_attr(f"NFTA_CHAIN_{name}") for name in ("NAME", "POLICY", "TYPE")] == ["input", 0, "filter"]
    messages, data = [], batch.pack(7)
    while data:
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
        messages.append((kind, bool(flags & netlink.ACK), sequence))
        data = data[length:]
    kinds = [16, *(10 << 8 | kind for kind in (0, 2, 0, 3, 3, 6, 6, 6, 6, 6, 6)), 17]
    assert messages == [(kind, number == len(kinds) - 2, 7) for number, kind in enumerate(kinds)]
