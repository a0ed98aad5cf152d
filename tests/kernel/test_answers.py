"""The kernel's own answers where they are not the usual ones: overruns, refusals."""

from __future__ import annotations

import _socket
import errno
import socket
import struct

import pytest

from tests.support import shell
from wgns_helpers import netlink
from wgns_helpers.errors import Failure
from wgns_helpers.netlink import KernelRefusedError

LOOPBACK, NOWHERE = 1, 0x7FFFFFFF


def small() -> netlink.Socket:
    """A socket with room for a few answers."""
    made = netlink.Socket()
    made._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, 8192)  # noqa: SLF001  (nobody else has a use for it)
    return made


def test_an_answer_that_got_lost_is_a_failure() -> None:
    """Requests that were all done, but whose answers overran the buffer: a failure, and the socket serves on."""
    with small() as made:
        for _ in range(3):
            with pytest.raises(Failure, match=r"^up: netlink: no buffer space available$"):
                made.run([netlink.set_link(LOOPBACK, up=True)] * 64)
            assert netlink.read_link(made, "lo") == (LOOPBACK, "", 0x10049)  # LOOPBACK, UP and RUNNING, LOWER_UP


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
            assert netlink.read_link(made, "no-such-link") is None


def test_the_rest_of_a_datagram_is_done() -> None:
    """The first of several refusals is told, in the kernel's words; the other requests of its datagram are done."""
    shell("ip link add wg type ifb")
    index = socket.if_nametoindex("wg")
    requests = [netlink.address(index, socket.AF_INET, bytes([10, 0, 0, last]), 32) for last in range(200)]
    with open("/proc/self/ns/net", "rb") as here, netlink.Socket() as made:
        requests[20] = netlink.create_link("other", "no-such-kind", 0, here.fileno())
        requests[30] = netlink.delete_link(NOWHERE)
        with pytest.raises(KernelRefusedError) as caught:
            made.run(requests)
    assert str(caught.value) == 'link "other", no-such-kind: operation not supported (Unknown device type)'
    assert shell("ip -o -4 addr show dev wg").count("inet 10.0.0.") == 62


def test_no_other_process_is_listened_to() -> None:
    """A process that may send to our port (CAP_NET_ADMIN) is refused by the kernel."""
    with netlink.Socket() as made, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as other:
        forged = struct.pack("=IHHII", 36, 2, 0, 1, 0) + bytes(20)
        with pytest.raises(ConnectionRefusedError):
            other.sendto(forged, made._socket.getsockname())  # noqa: SLF001  (anybody can guess it)
        with pytest.raises(KernelRefusedError):
            made.run([netlink.delete_link(NOWHERE)])
