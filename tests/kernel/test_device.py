"""A WireGuard device as our own code reads it: the same as pyroute2 and `wg show dump` have it."""

from __future__ import annotations

import base64
import socket
import subprocess
from collections.abc import Iterator

import pyroute2
import pytest

from tests.support import PRESHARED, PRIVATE, PUBLIC, PUBLIC2, shell
from wgns_helpers.errors import Failure
from wgns_helpers.tunnel import NOWHERE, Session, Tunnel
from wgns_helpers.wireguard import Link

pytestmark = pytest.mark.wireguard

DEVICE = f"""[Interface]
PrivateKey = {PRIVATE}
ListenPort = 51820
FwMark = 0xcafe
[Peer]
PublicKey = {PUBLIC}
PresharedKey = {PRESHARED}
AllowedIPs = 0.0.0.0/0, ::/0, 10.0.0.0/8, fd00::/7
Endpoint = [fe80::1%lo]:51821
PersistentKeepalive = 25
[Peer]
PublicKey = {PUBLIC2}
AllowedIPs = 192.0.2.7/32
Endpoint = 192.0.2.1:7
[Peer]
PublicKey = gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=
"""


def setconf(text: str) -> int:
    """Make a device like this; its index."""
    shell("ip link show wg > /dev/null 2>&1 || ip link add wg type wireguard")
    subprocess.run(["wg", "setconf", "wg", "/dev/stdin"], input=text, text=True, check=True)
    return socket.if_nametoindex("wg")


def read(index: int) -> tuple[Tunnel, dict[bytes, Session]]:
    """The device as our code reads it."""
    with Link("wg", index) as link:
        return link.read()


def b64(key: bytes) -> str:
    """A key as wg(8) writes it, which has its own word for none."""
    return base64.b64encode(key).decode() if key else "(none)"


def as_dump(tunnel: Tunnel, sessions: dict[bytes, Session]) -> list[list[str]]:
    """The fields of `wg show wg dump`."""
    mark = hex(tunnel.fwmark) if tunnel.fwmark else "off"
    lines = [[b64(tunnel.private_key), b64(tunnel.public_key), str(tunnel.listen_port), mark]]
    for peer in tunnel.peers:
        place = str(peer.endpoint)
        if peer.endpoint and peer.endpoint.scope:
            place = place.replace("]", f"%{socket.if_indextoname(peer.endpoint.scope)}]")
        place = "(none)" if peer.endpoint == NOWHERE else place
        networks = ",".join(map(str, peer.allowed_ips)) or "(none)"
        session = sessions[peer.public_key]
        figures = [str(session.handshake), str(session.received), str(session.sent), str(peer.keepalive or "off")]
        lines.append([b64(peer.public_key), b64(peer.preshared_key), place, networks, *figures])
    return lines


def by_pyroute2() -> Iterator[tuple[str, list[str]]]:
    """Peers with their allowed IPs as pyroute2 has them; it reports a peer once for each message that has a part."""
    with pyroute2.WireGuard() as device:
        for message in device.info("wg"):
            for peer in message.get_attr("WGDEVICE_A_PEERS") or ():
                allowed = [found["addr"] for found in peer.get_attr("WGPEER_A_ALLOWEDIPS") or ()]
                yield peer.get_attr("WGPEER_A_PUBLIC_KEY").decode(), allowed


@pytest.mark.parametrize("text", [DEVICE, "", "[Interface]\nFwMark = 1\n", DEVICE.replace(PRIVATE, PRESHARED)])
def test_a_device_is_read_as_wg_reads_it(text: str) -> None:
    """Each setting of a device, with all of them, with none, and with a private key that the kernel has to clamp."""
    index = setconf(text)
    assert as_dump(*read(index)) == [line.split("\t") for line in shell("wg show wg dump").splitlines()]
    assert [(b64(peer.public_key), list(map(str, peer.allowed_ips))) for peer in read(index)[0].peers] == list(
        by_pyroute2()
    )


def test_sessions_are_read() -> None:
    """Two devices that talk to each other: the handshake and the bytes of both directions."""
    other = shell("wg genkey").strip()
    public = subprocess.run(["wg", "pubkey"], input=other, capture_output=True, text=True, check=True).stdout.strip()
    index = setconf(
        f"[Interface]\nPrivateKey = {PRIVATE}\nListenPort = 51820\n[Peer]\nPublicKey = {public}\n"
        "AllowedIPs = 10.7.0.0/24\nEndpoint = 127.0.0.1:51821\n"
    )
    own = shell("wg show wg public-key").strip()
    text = f"[Interface]\nPrivateKey = {other}\nListenPort = 51821\n[Peer]\nPublicKey = {own}\nAllowedIPs = 10.7.0.1\n"
    shell("ip link add far type wireguard")
    subprocess.run(["wg", "setconf", "far", "/dev/stdin"], input=text, text=True, check=True)
    shell("ip addr add 10.7.0.1/24 dev wg; ip link set far up; ip link set wg up; ping -c3 -i0.3 -W1 10.7.0.9 || :")
    device, sessions = read(index)
    assert as_dump(device, sessions) == [line.split("\t") for line in shell("wg show wg dump").splitlines()]
    (session,) = sessions.values()
    assert min(session) > 0


def test_long_lists_take_many_messages() -> None:
    """Thousands of peers, one of them with thousands of allowed IPs, arrive whole and in order."""
    networks = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(3000)]
    keys = [base64.b64encode(number.to_bytes(32, "big")).decode() for number in range(1, 1500)]
    text = f"[Interface]\n[Peer]\nPublicKey = {PUBLIC}\nAllowedIPs = {', '.join(networks)}\n"
    index = setconf(
        text + "".join(f"[Peer]\nPublicKey = {key}\nAllowedIPs = fd00::{key[5:9].encode().hex()[:4]}\n" for key in keys)
    )
    device, sessions = read(index)
    assert as_dump(device, sessions) == [line.split("\t") for line in shell("wg show wg dump").splitlines()]
    theirs: dict[str, list[str]] = {}
    for key, allowed in by_pyroute2():
        theirs.setdefault(key, []).extend(allowed)
    assert {b64(peer.public_key): list(map(str, peer.allowed_ips)) for peer in device.peers} == theirs


def test_a_device_that_is_not_there() -> None:
    """The kernel's own reason."""
    with pytest.raises(Failure, match=r'^device "wg": no such device'):
        read(99999)
    with pytest.raises(Failure, match="operation not supported"):
        read(socket.if_nametoindex("lo"))
