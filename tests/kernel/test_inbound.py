"""The filter of the namespace on real packets: the far side is at the other end of a veth."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kernel import faults
from tests.kernel.conftest import snapshot
from tests.kernel.faults import Fault
from tests.kernel.test_status import keys
from tests.kernel.test_tunnel import ping, provider, write
from tests.support import run, shell
from wgns_helpers import inbound, netlink, netns
from wgns_helpers.errors import MissingError
from wgns_helpers.tunnel import Port, ports

__all__ = ["provider"]
ADDRESSES: dict[int, tuple[str, str]] = {
    socket.AF_INET: ("10.64.0.1", "10.64.0.2"),
    socket.AF_INET6: ("fd64::1", "fd64::2"),
}
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])

Filter = Callable[["tuple[Port, ...] | None"], None]


def opened(*texts: str) -> tuple[Port, ...]:
    """Ports as a configuration has them."""
    return tuple(sorted(port for text in texts for port in ports(text)))


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Have this process in a named namespace for a while."""
    with open(netns.open_namespace(name), "rb") as namespace, netns.Inside(namespace.fileno()):
        yield


def made(name: str, family: int, kind: int, port: int = 0, protocol: int = 0) -> socket.socket:
    """A socket in a namespace, with a short timeout; bound where a port is given."""
    with inside(name):
        new = socket.socket(family, kind, protocol)
    new.settimeout(0.3)
    if family == socket.AF_INET6 and kind != socket.SOCK_RAW:
        new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if port:
        new.bind(("", port))
    return new


@pytest.fixture
def filtered() -> Iterator[Filter]:
    """Namespaces wg and far with a link between them; a function that changes the filter of wg, which has none yet."""
    shell("""
    ip netns add wg; ip netns add far
    ip -n wg link add wg type veth peer name eth0 netns far
    for name in wg far; do
        ip netns exec $name sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
        ip -n $name link set lo up
    done
    ip -n wg address add 10.64.0.2/24 dev wg; ip -n wg address add fd64::2/64 dev wg nodad
    ip -n far address add 10.64.0.1/24 dev eth0; ip -n far address add fd64::1/64 dev eth0 nodad
    # WireGuard has no neighbors to look for
    ip -n wg link set wg address 02:00:00:00:00:02; ip -n far link set eth0 address 02:00:00:00:00:01
    ip -n wg neighbor add fd64::1 lladdr 02:00:00:00:00:01 dev wg
    ip -n far neighbor add fd64::2 lladdr 02:00:00:00:00:02 dev eth0
    ip -n wg link set wg up; ip -n far link set eth0 up
    """)
    with inside("wg"):
        sockets = netlink.Socket(netlink.NETLINK_NETFILTER)

    def change(wanted: tuple[Port, ...] | None) -> None:
        for request in inbound.change("wg", inbound.read(sockets, "wg"), wanted):
            sockets.run([request])
        assert inbound.read(sockets, "wg") == wanted

    with sockets:
        yield change


def reached(family: int, kind: int, port: int, protocol: int = 0, far: str = "far") -> bool:
    """Whether the far side reaches a port, or with a raw socket a protocol."""
    address = (ADDRESSES[family][1], port)
    listener = made("wg", family, kind, port, protocol)
    with listener, made(far, family, kind, 0, protocol) as client:
        try:
            if kind == TCP:
                listener.listen()
                client.connect(address)
            else:
                client.sendto(b"x", address)
                listener.recvfrom(100)
        except TimeoutError:
            return False
    return True


def pinged(family: int) -> bool:
    """Whether the far side hears an answer to its ping."""
    argv = ["ip", "netns", "exec", "far", "ping", "-nqc1", "-W1", ADDRESSES[family][1]]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@FAMILIES
def test_every_port_is_closed_but_those_that_are_named(family: int, filtered: Filter) -> None:
    """By TCP, UDP, another protocol and ping; without the filter all of it arrives."""

    def all_of_it() -> list[bool]:
        raw = reached(family, socket.SOCK_RAW, 0, 253)
        return [
            *(reached(family, kind, port) for kind in (TCP, UDP) for port in range(7001, 7006)),
            raw,
            pinged(family),
        ]

    assert all_of_it() == [True] * 12
    filtered(())
    assert all_of_it() == [False] * 12
    filtered(opened("7002/tcp", "7003-7004/udp", "7005"))
    expected = {TCP: {7002, 7005}, UDP: {7003, 7004, 7005}}
    assert all_of_it() == [*(p in expected[k] for k in (TCP, UDP) for p in range(7001, 7006)), False, False]
    filtered(None)
    assert all_of_it() == [True] * 12


@FAMILIES
def test_answers_come_in_and_lo_is_open(family: int, filtered: Filter) -> None:
    """What the service begins is answered, also by errors; services inside reach each other."""
    filtered(())
    far, own = ADDRESSES[family]
    with made("far", family, TCP, 7001) as listener, made("wg", family, TCP) as client:
        listener.listen()
        client.connect((far, 7001))
    with made("far", family, UDP, 7001) as listener, made("wg", family, UDP) as client:
        client.sendto(b"x", (far, 7001))
        _, sender = listener.recvfrom(100)
        listener.sendto(b"y", sender)
        assert client.recv(100) == b"y"
        client.connect((far, 7002))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
    for address in (own, "127.0.0.1" if family == socket.AF_INET else "::1"):
        with made("wg", family, TCP, 7001) as listener, made("wg", family, TCP) as client:
            listener.listen()
            client.connect((address, 7001))


def pump(connection: socket.socket, done: threading.Event, sent: list[int]) -> None:
    """Send until it is done, and then no more."""
    while not done.is_set():
        sent.append(connection.send(bytes(1000)))
    connection.shutdown(socket.SHUT_WR)


def drain(connection: socket.socket, received: list[int]) -> None:
    """Receive until the other side sends no more."""
    while data := connection.recv(65536):
        received.append(len(data))


def probe(family: int, done: threading.Event, sent: list[int]) -> None:
    """From the far side, send datagrams to a port that stays open and to one that is never open, every millisecond."""
    with made("far", family, UDP) as far:
        while not done.is_set():
            sent += [far.sendto(b"x", (ADDRESSES[family][1], port)) for port in (7001, 7777)]
            time.sleep(0.001)


@FAMILIES
def test_a_change_loses_nothing(family: int, filtered: Filter, capsys: pytest.CaptureFixture[str]) -> None:
    """Two hundred changes: no connection breaks, a port that stays open loses no datagram, another gets none."""
    stays, other = opened("7001/udp"), opened("7001/udp", "7002/tcp", "7003-7009/udp")
    filtered(other)
    filtered(stays)
    done = threading.Event()
    probes: list[int] = []
    up: tuple[list[int], list[int]] = ([], [])
    down: tuple[list[int], list[int]] = ([], [])
    arrived = 0
    with made("wg", family, UDP, 7001) as open_port, made("wg", family, UDP, 7777) as closed_port:
        open_port.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        with made("far", family, TCP, 7001) as listener, made("wg", family, TCP) as client:
            listener.listen()
            client.connect((ADDRESSES[family][0], 7001))
            server, _ = listener.accept()
            client.settimeout(60)
            server.settimeout(60)
            threads = [threading.Thread(target=probe, args=(family, done, probes))]
            threads += [
                threading.Thread(target=pump, args=(s, done, c)) for s, c in ((client, up[0]), (server, down[0]))
            ]
            threads += [threading.Thread(target=drain, args=pair) for pair in ((server, up[1]), (client, down[1]))]
            for thread in threads:
                thread.start()
            for _ in range(100):
                filtered(other)
                filtered(stays)
            done.set()
            for thread in threads:
                thread.join()
            server.close()
        with pytest.raises(TimeoutError):
            closed_port.recv(10)
        open_port.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while open_port.recv(10):
                arrived += 1
    assert arrived == len(probes) // 2 > 0
    assert sum(up[0]) == sum(up[1]) > 0
    assert sum(down[0]) == sum(down[1]) > 0
    with capsys.disabled():
        print(f"\n200 changes: {arrived} datagrams and {sum(up[1])} + {sum(down[1])} bytes by TCP, none lost")


def send(messages: list[tuple[int, int, bytes]]) -> None:
    """Change the filter of wg as somebody else might."""
    with inside("wg"), netlink.Socket(netlink.NETLINK_NETFILTER) as sockets:
        sockets.run([inbound.Batch("somebody's change", messages)])


def head(chain: str = "", kind: int = 2) -> bytes:
    """The beginning of a message: the table, and a chain as NFTA_RULE_CHAIN (2) or NFTA_CHAIN_NAME (3)."""
    named = netlink.attribute(kind, chain.encode() + b"\0") if chain else b""
    return b"\1\0\0\0" + netlink.attribute(1, b"wgns-wg\0") + named


ACCEPT = netlink.attribute(2, netlink.attribute(2, netlink.attribute(1, (1).to_bytes(4, "big"))))
RULE = netlink.attribute(
    1, netlink.attribute(1, b"immediate\0") + netlink.attribute(2, netlink.attribute(1, bytes(4)) + ACCEPT)
)
# NFT_MSG_NEWTABLE 0, NEWCHAIN 3, DELCHAIN 5, NEWRULE 6, DELRULE 8
CHANGES = {
    "no rules": [(8, 0, head("input"))],
    "a rule that accepts all": [(6, 0x400, head("input") + netlink.attribute(4, RULE))],
    "the policy": [(3, 0x400, head("input", 3) + netlink.attribute(5, (1).to_bytes(4, "big")))],
    "dormant": [(0, 0x400, head() + netlink.attribute(2, (1).to_bytes(4, "big")))],
    "a forwarded port that accepts all": [(6, 0x400, head("forwarded") + netlink.attribute(4, RULE))],
    "no chain": [(8, 0, head("input")), (5, 0, head("input", 3))],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_changes_is_noticed_and_mended(change: str, filtered: Filter) -> None:
    """A filter that is not as wg-up made it lets something in, or may; the next change makes it whole."""
    wanted = opened("7002/tcp")
    filtered(wanted)
    send(CHANGES[change])
    with inside("wg"), netlink.Socket(netlink.NETLINK_NETFILTER) as sockets:
        assert inbound.read(sockets, "wg") == inbound.CHANGED
    assert reached(socket.AF_INET, TCP, 7001) == (change != "no rules")
    filtered(wanted)
    assert not reached(socket.AF_INET, TCP, 7001)
    assert reached(socket.AF_INET, TCP, 7002)


@FAMILIES
def test_a_port_that_closes_is_closed_to_those_who_use_it(family: int, filtered: Filter) -> None:
    """What the far side has begun by TCP and UDP ends with its port, though the service has answered."""
    filtered(opened("7001"))
    own = ADDRESSES[family][1]
    with made("wg", family, TCP, 7001) as listener, made("wg", family, UDP, 7001) as udp:
        listener.listen()
        with made("far", family, TCP) as client, made("far", family, UDP) as sender:
            client.connect((own, 7001))
            server, _ = listener.accept()
            server.settimeout(0.3)
            sender.sendto(b"x", (own, 7001))
            _, where = udp.recvfrom(10)
            udp.sendto(b"y", where)
            assert sender.recv(10) == b"y"
            for wanted in ("7002", "7001"):  # and open again
                filtered(opened(wanted))
                client.send(b"x")
                sender.sendto(b"x", (own, 7001))
                for each in (server, udp):
                    if wanted == "7001":
                        each.settimeout(5)  # TCP sends it again
                        assert each.recv(1) == b"x"
                    else:
                        with pytest.raises(TimeoutError):
                            each.recv(1)
            server.close()


def test_rules_of_others_stay(filtered: Filter) -> None:
    """Only our table is changed and removed, and a rule with large numbers is no port."""
    theirs = b"\1\0\0\0" + netlink.attribute(1, b"theirs\0")
    send([(0, 0x400, theirs)])
    filtered(opened("7001"))
    filtered(None)
    with inside("wg"), netlink.Socket(netlink.NETLINK_NETFILTER) as sockets:
        assert sockets.ask(netlink.Request("table", 10 << 8 | 1, theirs, 0, netlink.NETLINK_NETFILTER), 4, 2)


def test_a_forwarded_port(filtered: Filter) -> None:
    """It is open beside the others, survives their changes, and is closed by itself."""
    filtered(opened("7001/tcp"))
    with inside("wg"), netlink.Socket(netlink.NETLINK_NETFILTER) as sockets:
        sockets.run([inbound.forward("wg", opened("7005"))])
        filtered(opened("7002/tcp"))
        found = [reached(socket.AF_INET, kind, port) for kind in (TCP, UDP) for port in (7001, 7002, 7005)]
        assert found == [False, True, True, False, False, True]
        assert inbound.forwarded(sockets, "wg") == opened("7005")
        sockets.run([inbound.forward("wg", opened("7006/udp"))])
        assert [reached(socket.AF_INET, UDP, port) for port in (7005, 7006)] == [False, True]
        sockets.run([inbound.forward("wg", ())])
        assert not reached(socket.AF_INET, UDP, 7006)


def test_a_kernel_without_a_part_of_it(filtered: Filter, monkeypatch: pytest.MonkeyPatch) -> None:
    """69, a hint, and no filter at all; an expression that no kernel has stands for a missing module."""
    with inside("wg"), netlink.Socket(netlink.NETLINK_NETFILTER) as sockets:
        monkeypatch.setattr(inbound, "_rules", lambda _: [[(b"nonsense", {})]])
        (batch,) = inbound.change("wg", None, ())
        with pytest.raises(MissingError) as caught:
            sockets.run([batch])
        assert "modprobe -a nf_tables nft_ct" in caught.value.hint
        assert inbound.read(sockets, "wg") is None


def reached_through_the_tunnel() -> dict[int, set[int]]:
    """The ports of 7001 to 7004 that a provider reaches by TCP and by UDP; the same by both families."""
    found: dict[int, set[int]] = {}
    for kind in (TCP, UDP):
        each = [{p for p in range(7001, 7005) if reached(f, kind, p, far="provider")} for f in ADDRESSES]
        assert each[0] == each[1]
        found[kind] = each[0]
    return found


@pytest.mark.wireguard
def test_the_configuration_names_open_ports(provider: str) -> None:
    """From wg-up to wg-down: named ports are open, a second wg-up changes them, and wgns status lists them."""
    named = provider.replace("[Peer]", "OpenPorts = 7001, 7002-7003/udp\nOpenPorts=7003/tcp\n[Peer]")
    shell("ip netns add wg")
    before = snapshot()
    expected = [({7001, 7003}, {7001, 7002, 7003}), ({7004}, set()), (set(range(7001, 7005)),) * 2, (set(), set())]
    other = provider.replace("[Peer]", "OpenPorts = 7004/tcp\n[Peer]")
    configurations = [named, other, provider.replace("[Peer]", "OpenPorts = all\n[Peer]"), provider]
    words = ["7001/tcp, 7003/tcp, 7001/udp, 7002-7003/udp", "7004/tcp", "all", "none"]
    for configuration, ports_open, text in zip(configurations, expected, words, strict=True):
        write(configuration)
        line = f"open to the far side: {text}".replace("none", "no port")
        assert (line in run("wg-up", "--dry-run").stdout.splitlines()) == (text != "all" or configuration != named)
        done = run("wg-up")
        assert done.returncode == 0, done.stderr
        assert ping("wg", "10.64.0.1")
        assert reached_through_the_tunnel() == dict(zip((TCP, UDP), ports_open, strict=True))
        assert f"open ports:     {text}\n" in run("wgns", "status", "wg", public=keys()).stdout
    run("wg-down").check_returncode()
    assert snapshot() == before


PROBER = """
import socket, time
four, six = socket.socket(2, 2), socket.socket(10, 2)
while True:
    for port in (7001, 7777):
        for udp, address in ((four, "10.64.0.2"), (six, "fd64::2")):
            try:
                udp.sendto(b"x", (address, port))
            except OSError:  # the provider does not know yet where the peer is
                pass
    with socket.socket() as tcp:
        tcp.setblocking(False)
        tcp.connect_ex(("10.64.0.2", 7777))
    time.sleep(0.001)
"""


@pytest.mark.wireguard
@pytest.mark.parametrize("operation", ["up", "converge"])
def test_no_other_port_is_open_at_any_moment(operation: str, provider: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Probed every millisecond while wg-up is killed or fails at each system call, and runs again."""
    former = provider.replace("[Peer]", "OpenPorts = 7001, 7002/tcp\n[Peer]") + "PersistentKeepalive = 1\n"
    wanted = former.replace(", 7002/tcp", ", 7003-7009")
    shell("ip netns add wg")
    counts = {"named": 0, "other": 0}

    def begin() -> None:
        if operation == "converge":
            write(former)
            assert faults.run("wg-up").status == 0
        write(wanted)

    begin()
    steps = len(faults.run("wg-up").steps)
    faults.run("wg-down")
    with contextlib.ExitStack() as stack:
        named = [stack.enter_context(made("wg", family, UDP, 7001)) for family in ADDRESSES]
        other = [stack.enter_context(made("wg", family, UDP, 7777)) for family in ADDRESSES]
        listener = stack.enter_context(made("wg", socket.AF_INET, TCP, 7777))
        listener.listen()
        argv = ["ip", "netns", "exec", "provider", sys.executable, "-c", PROBER]
        prober = stack.enter_context(subprocess.Popen(argv))
        stack.callback(prober.kill)
        for step in range(1, steps + 1):
            for kind in ("SIGKILL", "error"):
                begin()
                faults.run("wg-up", fault=Fault(step, kind, "before"))
                assert faults.run("wg-up").status == 0
                for each in named:
                    each.settimeout(20)
                    each.recv(10)
                    counts["named"] += 1 + drained(each)
                counts["other"] += sum(map(drained, other)) + drained(listener)
                faults.run("wg-down")
    with capsys.disabled():
        print(f"\n{operation}: {2 * steps} faults, packets to a named port and to another: {counts}")
    assert counts["other"] == 0 < counts["named"]


def drained(connection: socket.socket) -> int:
    """How many datagrams or connections have come."""
    connection.settimeout(0)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            if connection.type == TCP:
                connection.accept()[0].close()
            else:
                connection.recv(10)
            count += 1
    return count


WITHOUT = """
import ctypes, os, struct, sys
library = ctypes.CDLL("libseccomp.so.2")
library.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(library.seccomp_init(0x7FFF0000))
rule = struct.pack("=IiQQ", 2, 4, 12, 0)  # the third argument is NETLINK_NETFILTER
number = library.seccomp_syscall_resolve_name(b"socket")
assert not library.seccomp_rule_add_array(context, 0x00050000 | 93, number, 1, rule)  # EPROTONOSUPPORT
assert not library.seccomp_load(context)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.wireguard
def test_a_kernel_without_nf_tables(provider: str) -> None:
    """wg-up ends with 69 and a hint, and leaves nothing; with OpenPorts = all it needs no filter."""
    write(provider)
    shell("ip netns add wg")
    before = snapshot()
    without = (sys.executable, "-c", WITHOUT)
    done = run("wg-up", before=without)
    assert done.returncode == 69
    assert "the kernel has no nf_tables for the filter of inbound packets (" in done.stderr
    assert "hint: modprobe -a nf_tables nft_ct; OpenPorts = all leaves the filter out" in done.stderr
    assert snapshot() == before
    write(provider.replace("[Peer]", "OpenPorts = all\n[Peer]"))
    for request in inbound.change("wg", None, ()):  # a wg-down that was killed leaves the filter
        send(request.messages)  # type: ignore[attr-defined]
    run("wg-up").check_returncode()
    assert ping("wg", "10.64.0.1")
    assert reached_through_the_tunnel() == {kind: set(range(7001, 7005)) for kind in (TCP, UDP)}
    run("wg-down").check_returncode()
    for program in ("wg-up", "wg-up", "wg-down"):
        done = run(program, before=without)
        assert done.returncode == 0, done.stderr
    assert snapshot() == before
