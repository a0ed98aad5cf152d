"""The kernel's own answers where they are not the usual ones: overruns, refusals, dumps that something interrupts."""

from __future__ import annotations

import _socket
import errno
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.support import shell
from wgns_helpers import netlink, present, wireguard
from wgns_helpers.errors import Failure
from wgns_helpers.netlink import KernelRefusedError
from wgns_helpers.tunnel import Network, Tunnel

LOOPBACK, NOWHERE = 1, 0x7FFFFFFF
NLMSG_DONE = 3


def small() -> netlink.Socket:
    """A socket with room for a few answers."""
    made = netlink.Socket()
    made._sockets[netlink.NETLINK_ROUTE].setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, 8192)  # noqa: SLF001  (nobody else has a use for it)
    return made


def send(made: netlink.Socket, requests: Iterable[netlink.Request]) -> None:
    """Send the requests, as many in one datagram as the programs do."""
    for batch in netlink.batches(requests):
        made.run(batch)


def test_an_answer_that_got_lost_is_a_failure() -> None:
    """Requests that were all done, but whose answers overran the buffer: a failure, and the socket serves on."""
    with small() as made:
        for _ in range(3):
            with pytest.raises(Failure, match=r"^up: netlink: no buffer space available$"):
                made.run([netlink.set_link(LOOPBACK, up=True)] * 64)
            assert netlink.read_link(made, "lo") == (LOOPBACK, "")


def test_the_first_refusal_is_told_though_others_got_lost() -> None:
    """The kernel's own words for the first request that it refused, whatever came of the rest."""
    up = netlink.set_link(LOOPBACK, up=True)
    refused = [netlink.address(NOWHERE, socket.AF_INET, bytes([10, 0, 0, last]), 24) for last in range(62)]
    with small() as made:
        for _ in range(3):
            with pytest.raises(KernelRefusedError) as caught:
                made.run([up, *refused, up])
            assert str(caught.value).startswith("address 10.0.0.0/24: no such device")
            assert caught.value.errno == errno.ENODEV
            assert netlink.read_link(made, "no-such-link") == (0, "")


def test_the_rest_of_a_datagram_is_done() -> None:
    """The first of several refusals is told, in the kernel's words; the other requests of its datagram are done."""
    shell("ip link add wg type ifb")
    index = socket.if_nametoindex("wg")
    requests = [netlink.address(index, socket.AF_INET, bytes([10, 0, 0, last]), 32) for last in range(200)]
    with open("/proc/self/ns/net", "rb") as here, netlink.Socket() as made:
        requests[20] = netlink.create_link("other", "no-such-kind", 0, here.fileno())
        requests[30] = netlink.delete_link(NOWHERE)
        with pytest.raises(KernelRefusedError) as caught:
            send(made, requests)
    assert str(caught.value) == 'link "other", no-such-kind: operation not supported (Unknown device type)'
    assert shell("ip -o -4 addr show dev wg").count("inet 10.0.0.") == 62


def test_no_other_process_is_listened_to() -> None:
    """A process that may send to our port (CAP_NET_ADMIN) is refused by the kernel."""
    with netlink.Socket() as made, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as other:
        forged = struct.pack("=IHHII", 36, 2, 0, 1, 0) + bytes(20)
        with pytest.raises(ConnectionRefusedError):
            other.sendto(forged, made._sockets[netlink.NETLINK_ROUTE].getsockname())  # noqa: SLF001  (anybody can guess it)
        with pytest.raises(KernelRefusedError):
            made.run([netlink.delete_link(NOWHERE)])


Between = Callable[[Callable[[int, int], None]], None]


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    """Have something called with a list's kind and family when its first part is made, and the next is not."""

    def install(change: Callable[[int, int], None]) -> None:
        class Watched(_socket.socket):
            def sendto(self, data: bytes, *rest: Any) -> int:  # type: ignore[override]
                done = super().sendto(data, *rest)
                kind, flags = struct.unpack_from("=HH", data, 4)
                if flags & netlink.DUMP == netlink.DUMP:
                    change(kind, data[16])
                return done

        monkeypatch.setattr(_socket, "socket", Watched)

    return install


def read(index: int) -> Tunnel:
    """The tunnel that is present; its device, where the kernel has no WireGuard, without peers."""
    with wireguard.Link("wg", index) as made:
        return present.read(made)[0]


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> int:
    """The index of a link "wg"."""
    shell("ip link add wg type ifb")
    monkeypatch.setattr(wireguard.Link, "read", lambda _: (Tunnel(b""), {}))
    return socket.if_nametoindex("wg")


@pytest.mark.parametrize("gone", [slice(100, None), slice(10), slice(0)], ids=["most", "the first ones", "nothing"])
def test_a_dump_of_addresses_that_is_interrupted(gone: slice, link: int, between: Between) -> None:
    """Some go while they are listed: then it is begun again. If it is most, only the end of the dump tells so."""
    many = [Network(socket.AF_INET, bytes([10, 0, number >> 8, number & 255]), 32) for number in range(1200)]
    calls: list[int] = []

    def change(kind: int, first: int) -> None:
        if (kind, first) == (netlink.RTM_GETADDR, socket.AF_INET):
            calls.append(kind)
            if len(calls) == 1:
                send(made, [netlink.address(link, *address, remove=True) for address in many[gone]])
                del many[gone]

    with netlink.Socket() as made:
        send(made, [netlink.address(link, *address) for address in many])
        between(change)
        assert read(link).addresses == tuple(many)
    assert len(calls) == (2 if gone.stop != 0 else 1)


def test_a_dump_that_is_always_interrupted(link: int, between: Between) -> None:
    """There is an end to trying."""
    calls: list[int] = []

    def change(kind: int, first: int) -> None:
        if (kind, first) == (netlink.RTM_GETADDR, socket.AF_INET):
            calls.append(kind)
            made.run([netlink.address(link, socket.AF_INET, bytes([10, 1, 0, len(calls)]), 32)])

    with netlink.Socket() as made:
        send(made, [netlink.address(link, socket.AF_INET, bytes([10, 0, n >> 8, n & 255]), 32) for n in range(1200)])
        between(change)
        with pytest.raises(Failure, match='link "wg" changed each time'):
            read(link)
    assert len(calls) == 5


def test_without_ipv6_each_address_comes_once(link: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without IPv6 answers a question for IPv6 with what it has for all families: nothing of that counts."""

    class WithoutIPv6(_socket.socket):
        def sendto(self, data: bytes, *rest: Any) -> int:  # type: ignore[override]
            _, flags = struct.unpack_from("=HH", data, 4)
            if flags & netlink.DUMP == netlink.DUMP and data[16] == socket.AF_INET6:
                data = data[:16] + bytes([socket.AF_UNSPEC]) + data[17:]
            return super().sendto(data, *rest)

    shell("ip link set wg up; ip addr add 10.0.0.1/32 dev wg; ip -6 addr flush dev wg; ip route add 10.1.0.0/16 dev wg")
    monkeypatch.setattr(_socket, "socket", WithoutIPv6)
    there = read(link)
    assert list(map(str, there.addresses)) == ["10.0.0.1/32"]
    assert [str(route.network) for route in there.routes or ()].count("10.1.0.0/16") == 1


def test_a_dump_that_the_kernel_gives_up(link: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the kernel's stands at the end of a dump, behind what it has told by then."""

    class Ended(_socket.socket):
        def recvfrom(self, *arguments: Any) -> tuple[bytes, Any]:
            data, sender = super().recvfrom(*arguments)
            if struct.unpack("=IH", data[-20:-14]) == (20, NLMSG_DONE):
                data = data[:-4] + struct.pack("=i", -errno.EMSGSIZE)
            return data, sender

    assert not read(link).up
    monkeypatch.setattr(_socket, "socket", Ended)
    with pytest.raises(Failure, match=r'^link "wg": message too long$'):
        read(link)


@pytest.mark.wireguard
def test_a_dump_of_peers_that_is_interrupted(between: Between) -> None:
    """Peers that go while they are listed: none of them is there, and not those of the first message."""
    shell("ip link add wg type wireguard")
    index = socket.if_nametoindex("wg")
    calls: list[int] = []

    def change(kind: int, command: int) -> None:
        if (kind, command) == (number, 0):  # a family can have the number of a message of rtnetlink
            calls.append(kind)
            shell("wg setconf wg /dev/null")

    many = [key.to_bytes(32, "big") for key in range(1, 1001)]
    with wireguard.Link("wg", index) as made:
        number = made.device().family
        for request in wireguard.peers(made.device(), (part for key in many for part in wireguard.peer("", key))):
            made.run([request])
    assert [peer.public_key for peer in read(index).peers] == many
    between(change)
    assert read(index).peers == ()
    assert len(calls) == 2
