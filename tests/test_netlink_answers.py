"""Whatever comes back on a netlink socket: success only when each request was acknowledged, else one clear failure."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wgns_helpers import errors, netlink, wireguard
from wgns_helpers.errors import Failure, MissingError
from wgns_helpers.netlink import KernelRefusedError, Request

INPUTS = int(os.environ.get("WGNS_FUZZ_INPUTS", "1000"))
MSG_DONTWAIT = 0x40
CAPPED, TLVS = 0x100, 0x200
LIES = [0] * 40 + [-(2**15), -1, -4, 1, 4, 2**15]
T = TypeVar("T")


def padded(data: bytes) -> bytes:
    """`data` up to the next multiple of four."""
    return data + b"\0" * (-len(data) % 4)


class Message(NamedTuple):
    """One message as it comes; its length field says `lie` bytes more than it has."""

    kind: int
    sequence: int
    payload: bytes
    flags: int = 0
    lie: int = 0
    words: bytes | None = None  # what the kernel says in it; None: whatever the bytes may be read as

    def pack(self) -> bytes:
        """The bytes of it."""
        length = max(16 + len(self.payload) + self.lie, 0)
        return struct.pack("=IHHII", length, self.kind, self.flags, self.sequence, 0) + padded(self.payload)


class Datagram(NamedTuple):
    """Several messages from one sender, the kernel being 0, and what is behind them."""

    messages: Sequence[Message]
    sender: int = 0
    rest: bytes = b""

    def pack(self) -> bytes:
        """The bytes of it."""
        return b"".join(message.pack() for message in self.messages) + self.rest


class Kernel:
    """Takes requests, and answers with what it was given, datagrams and errors; then there is nothing more."""

    def __init__(self, script: Sequence[Datagram | int]) -> None:
        self.script = list(script)
        self.calls = 0

    def sendto(self, data: bytes, address: tuple[int, int]) -> int:
        """Take whatever is sent."""
        assert address == (0, 0)
        return len(data)

    def recvfrom(self, size: int, flags: int = 0) -> tuple[bytes, tuple[int, int]]:
        """The next of the script."""
        self.calls += 1
        if not self.script:
            assert flags & MSG_DONTWAIT, "this waits for ever"
            raise BlockingIOError(errno.EAGAIN, "")
        found = self.script.pop(0)
        if isinstance(found, int):
            raise OSError(found, "")
        return found.pack()[:size], (found.sender, 0)


class Socket(netlink.Socket):
    """A netlink socket whose kernel is ours."""

    def __init__(self, script: Sequence[Datagram | int]) -> None:
        self.kernel = Kernel(script)
        self._sockets = dict.fromkeys((netlink.NETLINK_ROUTE, netlink.NETLINK_GENERIC), self.kernel)  # type: ignore[arg-type]
        self._sequence = 0


class Dice:
    """Makes answers of bytes: many times faster than strategies are, and shrunk as well."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, the first when the bytes have run out."""
        return choices[next(self._bytes, 0) % len(choices)]

    def some(self, most: int) -> bytes:
        """At most so many bytes, whichever."""
        return bytes(next(self._bytes, 0) for _ in range(self.pick(range(most + 1))))

    def refusal(self) -> Message:
        """An acknowledgement or error, as the kernel sends it: capped, with words or without."""
        number = self.pick([0, 0, 0, 0, 0, 0, 0, 0, 1, 13, 17, 19, 95, 105, 4095])
        sequence = self.pick(range(1, 6))
        words, told = self.pick([b"", b"Invalid prefix", b"a\nb", b"\x1b[0m", b"\xff"]), self.pick([TLVS, TLVS, 0])
        head = struct.pack("=iIHHII", -number, 16 + 99, 16, 5, sequence, 0)
        tlvs = self.pick([b"", netlink.attribute(2, b"\1\2\3\4")])  # NLMSGERR_ATTR_OFFS
        tlvs += netlink.attribute(1, words + b"\0") if words else b""
        return Message(2, sequence, head + tlvs, CAPPED | told, words=words * bool(told))

    def rubbish(self) -> Message:
        """A message that no kernel sends."""
        number = self.pick([0, -1, 1, -4095, -4096, -(2**31), 2**31 - 1])
        head = struct.pack("=iI", number, self.pick([0, 15, 16, 20, 2**31, 2**32 - 1]))
        return Message(
            kind=self.pick([2, 2, 2, 0, 1, 3, 4, 16, 16, 29]),
            sequence=self.pick([1, 2, 3, 4, 5, 0, 2**32 - 1]),
            payload=self.pick([b"", head]) + self.some(40),
            flags=self.pick([0, CAPPED, TLVS, CAPPED | TLVS, 0xFFFF]),
        )

    def script(self, *answers: Message) -> list[Datagram | int]:
        """Datagrams and errors, with some of the answers among them."""
        kinds: list[Callable[[], Message]] = [
            self.refusal,
            self.rubbish,
            self.refusal,
            *[lambda: self.pick(answers)] * bool(answers),
        ]
        script: list[Datagram | int] = []
        for _ in range(self.pick(range(6))):
            messages = [self.pick(kinds)() for _ in range(self.pick(range(5)))]
            messages = [message._replace(lie=self.pick(LIES)) for message in messages]
            datagram = Datagram(messages, self.pick([0] * 5 + [4711]), self.pick([b""] * 5 + [b"torn", bytes(16)]))
            script.append(self.pick([datagram] * 17 + [errno.ENOBUFS, errno.ENOBUFS, errno.EBADF]))
        return script + self.pick([[], [Datagram([Message(2, number, bytes(20)) for number in range(1, 5)])]])


dice = st.builds(Dice, st.binary(min_size=150, max_size=150))


class Refused(NamedTuple):
    """The first error that the kernel named."""

    sequence: int
    errno: int
    words: bytes | None


def expected(script: Sequence[Datagram | int], count: int) -> Refused | str:
    """What the answers to the requests 1 to `count` mean: the first error, "done" or "failed"."""
    waiting = set(range(1, count + 1))
    first: Refused | None = None
    for answer in script:
        if answer == errno.ENOBUFS or (isinstance(answer, Datagram) and answer.sender):
            continue
        if isinstance(answer, int):
            break
        data = answer.pack()
        while len(data) >= 16:
            length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data)
            if not 16 <= length <= len(data):
                return first or "failed"
            payload, data = data[16:length], data[(length + 3) // 4 * 4 :]
            if kind == 2 and sequence in waiting:
                waiting.remove(sequence)
                number = -struct.unpack_from("=i", payload)[0] if len(payload) >= 20 else -1
                words = next((m.words for m in answer.messages if m.payload == payload), None)
                if number and not first:
                    first = Refused(sequence, number if 0 < number < 4096 else errno.EBADMSG, words)
            if not waiting:
                return first or "done"
    return first or "failed"


def assert_one_line(failure: Failure) -> None:
    """A program says it in one printable line."""
    lines: list[bytes] = []
    with mock.patch("os.write", lambda _, data: lines.append(data)):
        errors.say(str(failure))
    assert b"".join(lines)[:-1].decode().isprintable()


def outcome(call: Callable[[], T]) -> T | Failure:
    """What a call returns, or the failure that it ends with."""
    try:
        return call()
    except Failure as failure:
        assert_one_line(failure)
        return failure


@settings(max_examples=INPUTS, deadline=None)
@given(dice, st.integers(1, 4))
def test_success_only_when_all_is_acknowledged(dice: Dice, count: int) -> None:
    """Whatever comes, it never waits, and fails with the first error that the kernel named, if it named one."""
    script = dice.script()
    socket, wanted = Socket(script), expected(script, count)
    flags = netlink.CREATE | netlink.EXCL  # which share a bit with DUMP
    requests = [Request(f"request {number}", 16, bytes(16), flags) for number in range(1, count + 1)]
    found = outcome(lambda: socket.run(requests))
    assert socket.kernel.calls <= len(script) + 1
    assert isinstance(found, Failure) == (wanted != "done")
    if isinstance(found, Failure) and isinstance(wanted, Refused):
        reason = f"request {wanted.sequence}: {os.strerror(wanted.errno).lower()}"
        words = wanted.words.decode(errors="replace") if wanted.words else ""
        assert str(found).startswith(reason)
        assert wanted.words is None or str(found) == reason + f" ({words})" * bool(words)
        assert found.code == (77 if wanted.errno in (errno.EPERM, errno.EACCES) else 1)
        assert found.code == 77 or (isinstance(found, KernelRefusedError) and found.errno == wanted.errno)


def link(kind: bytes = b"wireguard\0") -> bytes:
    """The answer to RTM_GETLINK."""
    return struct.pack("=BxHiII", 0, 0, 7, 1, 0) + netlink.attribute(18, netlink.attribute(1, kind))


def family(number: bytes = struct.pack("=H", 29)) -> bytes:
    """The answer to CTRL_CMD_GETFAMILY."""
    return struct.pack("=BBH", 1, 2, 0) + netlink.attribute(2, b"wireguard\0") + netlink.attribute(1, number)


DONE = Message(2, 1, bytes(20))


@settings(max_examples=INPUTS, deadline=None)
@given(dice, st.integers(0, len(link())), st.binary(max_size=3))
def test_a_link_is_there_only_when_the_kernel_says_so(dice: Dice, cut: int, other: bytes) -> None:
    """It is what one answer and its acknowledgement say, it is not there after ENODEV, and all else is a failure."""
    script = dice.script(*(Message(16, 1, data) for data in (link(), link()[:cut], link(other))), DONE)
    found, wanted = outcome(lambda: netlink.read_link(Socket(script), "wg")), expected(script, 1)
    absent = isinstance(wanted, Refused) and wanted.errno == errno.ENODEV
    assert found == (0, "") or not absent
    assert isinstance(found, Failure) or absent or wanted == "done"


@settings(max_examples=INPUTS, deadline=None)
@given(
    dice,
    st.integers(0, len(family())),
    st.one_of(st.binary(max_size=3), st.integers(0, 20).map(struct.Struct("=H").pack)),
)
def test_a_family_is_there_only_when_the_kernel_says_so(dice: Dice, cut: int, other: bytes) -> None:
    """Its number is never one at which the kernel takes no requests but acknowledges them (below NLMSG_MIN_TYPE)."""
    script = dice.script(*(Message(16, 1, data) for data in (family(), family()[:cut], family(other))), DONE)
    found, wanted = outcome(lambda: wireguard.family(Socket(script))), expected(script, 1)
    assert isinstance(found, Failure) or (wanted == "done" and 16 < found < 2**16)


DUMP = Request("list", 20, bytes(20), netlink.DUMP)
INTERRUPTED, END = 0x10, struct.pack("=i", 0)


def listed(script: Sequence[Datagram | int]) -> list[bytes] | str:
    """What the answers to one request for a list mean: the list, "torn" or "failed"."""
    found: list[bytes] = []
    torn = 0
    for answer in script:
        if answer == errno.ENOBUFS or (isinstance(answer, Datagram) and answer.sender):
            continue
        if isinstance(answer, int):
            break
        data = answer.pack()
        while len(data) >= 16:
            length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
            if not 16 <= length <= len(data):
                return "failed"
            payload, data = data[16:length], data[(length + 3) // 4 * 4 :]
            if sequence == 1:
                torn |= flags & INTERRUPTED
                if kind in (2, 3) and (any(payload[:4]) or len(payload) < (20 if kind == 2 else 4)):
                    return "failed"
                if kind in (2, 3):
                    return "torn" if torn else found
                found.append(payload)
    return "torn" if torn else "failed"


@settings(max_examples=INPUTS, deadline=None)
@given(dice)
def test_a_list_is_whole_or_refused(dice: Dice) -> None:
    """Whatever comes, it never waits, and what it returns is a list with its end that nothing has interrupted."""
    answers = (
        Message(20, 1, b"one"),
        Message(20, 1, b"two", INTERRUPTED),
        Message(3, 1, END),
        Message(3, 1, b"\1" * 4),
    )
    script = dice.script(*answers)
    found, wanted = outcome(lambda: Socket(script).dump(DUMP)), listed(script)
    assert isinstance(found, Failure) or wanted in (found, "torn")
    assert found == wanted or not isinstance(wanted, list)


def test_a_list_that_is_interrupted() -> None:
    """It is read again, also when only its end tells, and not without end; the kernel's own error is told."""
    one, end, torn = Message(20, 1, b"one"), Message(3, 1, END), Message(3, 1, END, INTERRUPTED)
    assert Socket([Datagram([one]), Datagram([one, end])]).dump(DUMP) == [b"one", b"one"]
    again = [Datagram([one._replace(sequence=2), end._replace(sequence=2)])]
    assert Socket([Datagram([one, torn]), *again]).dump(DUMP) == [b"one"]
    assert Socket([Datagram([one._replace(flags=INTERRUPTED), end]), *again]).dump(DUMP) == [b"one"]
    with pytest.raises(Failure, match="list changed each time it was read"):
        Socket([Datagram([torn._replace(sequence=number)]) for number in range(1, 9)]).dump(DUMP)
    for refused in (Message(3, 1, struct.pack("=i", -90)), Message(2, 1, struct.pack("=i16x", -90))):
        with pytest.raises(Failure, match=r"^list: message too long$"):
            Socket([Datagram([one, refused])]).dump(DUMP)


def test_the_plain_answers() -> None:
    """What the kernel says on an ordinary day."""
    assert netlink.read_link(Socket([Datagram([Message(16, 1, link())]), Datagram([DONE])]), "wg") == (7, "wireguard")
    assert wireguard.family(Socket([Datagram([Message(16, 1, family())]), Datagram([DONE])])) == 29
    no_link, no_family = (Socket([Datagram([Message(2, 1, struct.pack("=i16x", -number))])]) for number in (19, 2))
    assert netlink.read_link(no_link, "wg") == (0, "")
    with pytest.raises(MissingError, match="no WireGuard"):
        wireguard.family(no_family)
