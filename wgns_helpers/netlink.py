"""rtnetlink(7) requests, packed by hand: one link read; link, address and route written and deleted.

pyroute2 has all of them, but importing it costs 200 to 300 ms and 32 MiB at every start; the tests hold each message
here byte for byte against pyroute2's. Numbers and layouts are those of linux/netlink.h, rtnetlink.h, if_link.h and
if_addr.h.
"""

from __future__ import annotations

import _socket
import errno
import os
from struct import Struct, pack, unpack_from

from .errors import Failure, system_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

socket = _socket  # for all modules: the C module underneath socket, whose enumerations cost 9 ms at every start
NETLINK_ROUTE, NETLINK_NETFILTER, NETLINK_GENERIC = 0, 12, 16
REQUEST, ACK, EXCL, CREATE, DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
NESTED = 0x8000
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE = 16, 17, 18, 20, 21, 24, 25
RTM_GETADDR, RTM_GETROUTE = 22, 26
IFF_UP = 1
RT_TABLE_MAIN = 254

# The protocol number of our routes (rtm_protocol): no daemon of linux/rtnetlink.h or iproute2's rt_protos has it.
ROUTE_PROTOCOL = 119

_NLMSG_ERROR, _NLMSG_DONE, _NLM_F_DUMP_INTR, _NLM_F_ACK_TLVS = 2, 3, 0x10, 0x200
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_HEADER = Struct("=IHHII")
_TRIES = 5  # a list that changes while it is read is read again
_BATCH = 64  # requests in one datagram; the answers to all of them must fit into the receive buffer (208 KiB)


class Request:
    """A message to the kernel: its socket (`protocol`) and bytes; `what` it does, for errors, and that line by line."""

    __slots__ = ("body", "flags", "kind", "lines", "protocol", "what")

    def __init__(
        self, what: str, kind: int, body: bytes, flags: int = 0, protocol: int = NETLINK_ROUTE, *lines: str
    ) -> None:
        self.what, self.kind, self.body, self.flags = what, kind, body, flags
        self.protocol, self.lines = protocol, lines or (what,)

    def pack(self, sequence: int) -> bytes:
        """The message with its header; `sequence` numbers the request, the kernel's answer carries it."""
        return message(self.kind, REQUEST | ACK | self.flags, sequence, self.body)

    def explain(self, failure: Failure) -> Failure:
        """What to raise for a failure of this request."""
        return failure


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message with its header (struct nlmsghdr)."""
    return _HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body


def batches(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """The requests in their order, each list for one datagram: up to 64 for rtnetlink, a long one for the others."""
    batch: list[Request] = []
    for request in requests:
        if batch and (len(batch) == _BATCH or batch[0].protocol or request.protocol):  # NETLINK_ROUTE is 0
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute (struct nlattr), padded to four bytes. Raises struct.error over 65,535 bytes."""
    return pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes in `data` from `offset` on, by kind, without its flags in the upper bits; a torn one ends it."""
    return dict(each(data, offset))


def each(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The same one by one, for nests in which all attributes have one kind."""
    while offset + 4 <= len(data):
        length, kind = unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            break
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += -(-length // 4) * 4


class Socket:
    """A netlink socket for each protocol. It stays in the network namespace that it was opened in."""

    def __init__(self, *protocols: int) -> None:
        self._sockets: dict[int, _socket.socket] = {}
        self._sequence = 0
        try:
            for protocol in protocols or (NETLINK_ROUTE,):
                try:
                    made = self._sockets[protocol] = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, protocol)
                except OSError as error:
                    if error.errno != errno.EPROTONOSUPPORT:
                        raise
                    continue  # the first request that needs it is refused
                for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                    made.setsockopt(_SOL_NETLINK, option, 1)
                made.connect((0, 0))  # to the kernel: what other processes send is refused
        except OSError as error:
            raise system_error("cannot open a netlink socket", error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for made in self._sockets.values():
            made.close()

    def run(self, batch: list[Request]) -> list[bytes]:
        """Send one of `batches` and read every answer; returns the payloads of those that are no acknowledgement.

        The kernel goes on after a request that failed: raises the first failure when the whole datagram is done,
        `KernelRefusedError` or another `Failure`.
        """
        if batch[0].protocol not in self._sockets:
            raise batch[0].explain(_refused(batch[0].what, errno.EPROTONOSUPPORT))
        socket = self._sockets[batch[0].protocol]
        waiting = dict(enumerate(batch, self._sequence + 1))
        self._sequence += len(batch)
        self._torn = False  # whether the list changed while the kernel sent it
        answers, failed = [], None
        try:
            socket.sendto(b"".join(r.pack(s) for s, r in waiting.items()), (0, 0))
            messages = _receive(socket)
            while waiting:
                kind, flags, sequence, payload = next(messages)
                request = waiting.get(sequence)
                if not request:
                    continue
                self._torn |= bool(flags & _NLM_F_DUMP_INTR)
                if kind == _NLMSG_ERROR or (kind == _NLMSG_DONE and request.flags & DUMP == DUMP):
                    del waiting[sequence]
                    failed = failed or refusal(request.what, flags, payload, 4 if kind == _NLMSG_DONE else 20)
                else:
                    answers.append(payload)
        except OSError as error:
            failed = failed or system_error(f"{batch[0].what}: netlink", error)
        if failed:
            raise batch[0].explain(failed)
        return answers

    def ask(self, request: Request, size: int, absent: int) -> bytes:
        """The one answer, which has at least `size` bytes; empty where the error is `absent`. Raises `Failure`."""
        try:
            answers = self.run([request])
        except KernelRefusedError as error:
            if error.errno == absent:
                return b""
            raise
        if len(answers) != 1 or len(answers[0]) < size:
            raise system_error(f"{request.what}: netlink", OSError(errno.EBADMSG, ""))
        return answers[0]

    def dump(self, request: Request) -> list[bytes]:
        """The payloads of the list for a request with the flag `DUMP`.

        The kernel marks a list that changed while it was read, perhaps only in the message at its end, and then it is
        read again. Raises `Failure`.
        """
        for _ in range(_TRIES):
            answers = self.run([request])
            if not self._torn:
                return answers
        raise Failure(f"{request.what} changed each time it was read", "does another program change it?")


def _receive(socket: _socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """What has come, which is all when sendto(2) has returned (netlink_unicast_kernel); then an OSError."""
    lost = None
    while True:
        try:
            data, sender = socket.recvfrom(65536, _socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise lost or error from None
            lost = error  # until the buffer is empty, the kernel drops answers without an error (netlink_overrun)
            continue
        offset = 0
        while offset + 16 <= len(data) and not sender[0]:  # the kernel's port is 0
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < 16 or offset + length > len(data):
                raise OSError(errno.EBADMSG, "")
            yield kind, flags, sequence, data[offset + 16 : offset + length]
            offset += -(-length // 4) * 4


class KernelRefusedError(Failure):
    """The kernel answered a request with an error; `errno` is its number."""

    errno = 0


def refusal(what: str, flags: int, payload: bytes, size: int = 20) -> Failure | None:
    """The exception for the error number at the beginning of a payload, with the kernel's own words; None for 0.

    The words are behind `size` bytes: 20 in an NLMSG_ERROR, which does not repeat the request (NETLINK_CAP_ACK); 4 in
    the NLMSG_DONE that ends a list, where the number is that of an error at which the kernel gave it up.
    """
    answer = unpack_from("=i", payload)[0] if len(payload) >= size else 1
    if not answer:
        return None
    words = attributes(payload, size).get(1, b"") if flags & _NLM_F_ACK_TLVS else b""  # NLMSGERR_ATTR_MSG
    number = -answer if -4096 < answer < 0 else errno.EBADMSG  # MAX_ERRNO of linux/err.h
    return _refused(what, number, words.rstrip(b"\0").decode(errors="replace"))


def _refused(what: str, number: int, words: str = "") -> Failure:
    failure = system_error(what, OSError(number, ""), words)
    if failure.code == 1:
        failure = KernelRefusedError(str(failure))
        failure.errno = number
    return failure


def _link_message(index: int = 0, flags: int = 0, change: int = 0, payload: bytes = b"") -> bytes:
    return pack("=BxHiII", 0, 0, index, flags, change) + payload


def read_link(socket: Socket, name: str) -> tuple[int, str]:
    """Index and kind ("" for lo and hardware) of the link `name` of the socket's namespace; index 0: no such link."""
    body = _link_message(payload=attribute(3, os.fsencode(name) + b"\0"))  # IFLA_IFNAME
    answer = socket.ask(Request(f'link "{name}"', RTM_GETLINK, body), 16, errno.ENODEV)
    kind = attributes(attributes(answer, 16).get(18, b"")).get(1, b"")  # IFLA_LINKINFO, IFLA_INFO_KIND
    index: int = unpack_from("=4xi", answer)[0] if answer else 0
    return index, kind.rstrip(b"\0").decode(errors="replace")


def create_link(name: str, kind: str, index: int, namespace: int) -> Request:
    """Make a link of `kind` inside the network namespace of the open file `namespace`.

    The index is given, not left to the kernel: up to Linux 6.13 it looks a name up in the namespace of the requesting
    socket first, so a link called `name` in the host would be in the way; with an index it looks for that instead.
    """
    payload = (
        attribute(3, os.fsencode(name) + b"\0")  # IFLA_IFNAME
        + attribute(28, pack("=I", namespace))  # IFLA_NET_NS_FD
        + attribute(18, attribute(1, kind.encode() + b"\0"))  # IFLA_LINKINFO, IFLA_INFO_KIND
    )
    return Request(f'link "{name}", {kind}', RTM_NEWLINK, _link_message(index, payload=payload), CREATE | EXCL)


def set_link(index: int, *, up: bool | None = None, mtu: int = 0, promote: bool = False) -> Request:
    """Bring a link up or down, give it an MTU in bytes; what is not given stays.

    With `promote`, an IPv4 address that is removed does not take those along that were added after it in its network.
    """
    payload = attribute(4, pack("=I", mtu)) if mtu else b""  # IFLA_MTU
    if promote:  # IFLA_AF_SPEC, AF_INET, IFLA_INET_CONF, IPV4_DEVCONF_PROMOTE_SECONDARIES
        payload += attribute(26, attribute(2, attribute(1, attribute(20, pack("=I", 1)))))
    lines = [f"mtu {mtu}"] * bool(mtu) + ["up" if up else "down"] * (up is not None)
    what = ", ".join(lines) or "keep addresses when another address of their network is removed"
    body = _link_message(index, IFF_UP if up else 0, 0 if up is None else IFF_UP, payload)
    return Request(what, RTM_NEWLINK, body)


def delete_link(index: int) -> Request:
    """Delete a link; its addresses, routes and peers go with it."""
    return Request("delete the link", RTM_DELLINK, _link_message(index))


def address(index: int, family: int, address: bytes, prefix: int, *, remove: bool = False) -> Request:
    """Give a link an address in network byte order with `prefix` bits of network; or take it away."""
    body = pack("=BBBBI", family, prefix, 0, 0, index)
    body += attribute(2, address) + attribute(1, address)  # IFA_LOCAL, IFA_ADDRESS
    what = f"address {_socket.inet_ntop(family, address)}/{prefix}"
    return Request(f"remove {what}", RTM_DELADDR, body) if remove else Request(what, RTM_NEWADDR, body, CREATE | EXCL)


def route(index: int, family: int, network: bytes, prefix: int, table: int, *, remove: bool = False) -> Request:
    """A route of ours to a network by a link, in table 1 to 4,294,967,295; or its removal, which takes only ours."""
    scope = 253 if family == _socket.AF_INET else 0  # RT_SCOPE_LINK, as ip-route(8) for a route without a gateway
    body = pack("=8BI", family, prefix, 0, 0, table if table < 256 else 0, ROUTE_PROTOCOL, scope, 1, 0)  # RTN_UNICAST
    body += attribute(1, network) if prefix else b""  # RTA_DST
    body += attribute(4, pack("=I", index))  # RTA_OIF
    body += attribute(15, pack("=I", table)) if table > 255 else b""  # RTA_TABLE
    target = f"{_socket.inet_ntop(family, network)}/{prefix}" if prefix else f"default (IPv{4 if scope else 6})"
    what = f"route {target}" + ("" if table == RT_TABLE_MAIN else f" in table {table}")
    return Request(f"remove {what}", RTM_DELROUTE, body) if remove else Request(what, RTM_NEWROUTE, body, CREATE | EXCL)
