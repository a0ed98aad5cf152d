"""wgns forward: a port that a NAT-PMP gateway forwards is opened, followed and closed again."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.test_tunnel import provider, write
from tests.natpmp import PORT, Gateway, opened
from tests.support import ROOT, run, shell
from wgns_helpers import inbound, netlink, netns
from wgns_helpers.forward import GatewayRefusedError, ask, execute

__all__ = ["provider"]  # a fixture
GATEWAY, TUNNEL, OTHER = "10.64.0.1", "10.64.0.2", "10.64.0.9"


class Forward:
    """A running `wgns forward wg`, and what it has said."""

    def __init__(self, *arguments: str) -> None:
        self._lines = Path("/run/said")
        argv = ["ip", "netns", "exec", "wg", sys.executable, str(ROOT / "bin/wgns"), "forward", "wg", *arguments]
        with self._lines.open("w") as said:
            self.process = subprocess.Popen(argv, stderr=said)

    def lines(self) -> list[str]:
        """What it has said, without what each line begins with."""
        return [line.removeprefix('wgns: "wg": ') for line in self._lines.read_text().splitlines()]

    def says(self, text: str, seconds: float = 15) -> float:
        """Wait until its last line begins so; how long that took."""
        begin = time.monotonic()
        wait_for(lambda: self.lines() and self.lines()[-1].startswith(text), seconds, self.lines)
        return time.monotonic() - begin

    def stop(self) -> int:
        """End it as systemd does; its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


def wait_for(condition: Callable[[], object], seconds: float = 15, show: Callable[[], object] = str) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, show()
        time.sleep(0.05)


@contextmanager
def forwarding(*arguments: str) -> Iterator[Forward]:
    """`wgns forward wg` in the tunnel's namespace. It is killed if the test fails."""
    running = Forward(*arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def tunnel() -> None:
    """A namespace with a stand-in for the tunnel's link, its name server and its filter, which has no open port."""
    shell(f"""
        ip netns add provider
        ip netns add wg
        ip -n wg link add wg type veth peer name server netns provider
        ip -n wg addr add {TUNNEL}/24 dev wg; ip -n wg link set wg up
        ip -n provider addr add {GATEWAY}/24 dev server; ip -n provider addr add {OTHER}/24 dev server
        ip -n provider link set server up
        mkdir -p /etc/netns/wg; echo 'nameserver fd64::1\nnameserver {GATEWAY}' > /etc/netns/wg/resolv.conf
    """)
    in_kernel(*inbound.change("wg", None, ()))


def in_kernel(*requests: netlink.Request) -> None:
    """Have the kernel change the filter of the namespace."""
    with open(netns.open_namespace("wg"), "rb") as there, netns.Inside(there.fileno()):
        kernel = netlink.Socket(netlink.NETLINK_NETFILTER)
    with kernel:
        for request in requests:
            kernel.run([request])


def reached(port: int) -> tuple[bool, bool]:
    """Whether the provider reaches a server in the namespace at this port, by TCP and by UDP."""
    with opened("wg", socket.SOCK_STREAM) as tcp, opened("wg") as udp:
        for server in (tcp, udp):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("0.0.0.0", port))  # noqa: S104
            server.settimeout(0.5)
        tcp.listen()
        with opened("provider", socket.SOCK_STREAM) as client, opened("provider") as sender:
            client.settimeout(0.5)
            sender.sendto(b"x", (TUNNEL, port))
            by_udp = answers(lambda: udp.recv(1))
            return answers(lambda: client.connect((TUNNEL, port))), by_udp


def answers(call: Callable[[], object]) -> bool:
    """Whether a call ends in time."""
    try:
        call()
    except TimeoutError:
        return False
    return True


BOTH, NEITHER = (True, True), (False, False)


def test_a_port_is_followed(tunnel: None) -> None:
    """A forwarded port is open, and no other; another one takes its place within seconds; a stop closes it."""
    with Gateway("provider") as gateway, forwarding() as running:
        running.says("port 40000 is open, forwarded from 198.51.100.7:40000")
        assert (reached(40000), reached(40001)) == (BOTH, NEITHER)
        assert [request[:3] for request in gateway.requests[:3]] == [(0, 0, 0), (1, 0, 1), (2, 0, 40000)]
        gateway.port = 40001
        assert running.says("port 40001 is open") < 5
        assert (reached(40000), reached(40001)) == (NEITHER, BOTH)
        before = len(gateway.requests)
        wait_for(lambda: len(gateway.requests) > before + 5)
        assert len(running.lines()) == 2  # nothing about a renewal
        assert gateway.requests[-3:].count((1, 0, 40001, 60)) == 1  # the port of before is asked for
        assert running.stop() == 0
        assert reached(40001) == NEITHER
        assert gateway.requests[-2:] == [(1, 0, 0, 0), (2, 0, 0, 0)]  # given back
    assert len(running.lines()) == 2


def test_a_refusal(tunnel: None) -> None:
    """A gateway that refuses gets the port closed at once, with one line that has the reason; it is asked again."""
    with Gateway("provider") as gateway, forwarding() as running:
        running.says("port 40000 is open")
        gateway.refusal = 2
        assert running.says(f"NAT-PMP by {GATEWAY}: refused, not authorized (2): no port is open") < 5
        assert reached(40000) == NEITHER
        gateway.refusal = 0
        running.says("port 40000 is open")
        assert (reached(40000), len(running.lines())) == (BOTH, 3)


def test_the_reason_of_a_refusal() -> None:
    """Each result code of section 3.5 is a reason in words, and another one is a refusal too."""
    shell(f"ip netns add provider; ip -n provider addr add {GATEWAY}/32 dev lo; ip -n provider link set lo up")
    words = {1: "unsupported version", 2: "not authorized", 3: "network failure", 4: "out of resources"}
    words |= {5: "unsupported request", 300: "unknown reason"}
    with Gateway("provider") as gateway, open("/run/netns/provider", "rb") as there, netns.Inside(there.fileno()):
        for gateway.refusal, text in words.items():
            with pytest.raises(GatewayRefusedError, match=rf"refused, {text} \({gateway.refusal}\)"):
                ask(GATEWAY, bytes(2), 12)


def test_no_answer(tunnel: None) -> None:
    """Without an answer the port stays open for its lifetime, and no longer; there is one line for each."""
    with Gateway("provider", lifetime=16) as gateway, forwarding() as running:
        running.says("port 40000 is open")
        gateway.silent = True
        running.says(f"NAT-PMP by {GATEWAY}: no answer: port 40000 stays open for the rest of its lifetime")
        assert reached(40000) == BOTH
        assert 1 < running.says(f"NAT-PMP by {GATEWAY}: no answer: no port is open") < 10
        assert reached(40000) == NEITHER
        assert len(running.lines()) == 3


def test_the_gateway_moves_and_starts_again(tunnel: None) -> None:
    """Another address of the gateway is reported; after its restart the port that it gives then is followed."""
    with forwarding() as running:
        with Gateway("provider") as gateway:
            running.says("port 40000 is open, forwarded from 198.51.100.7:40000")
            gateway.address = "198.51.100.8"
            running.says("port 40000 is open, forwarded from 198.51.100.8:40000")
        running.says(f"NAT-PMP by {GATEWAY}: connection refused: port 40000 stays open")
        with Gateway("provider", 41000):
            assert running.says("port 41000 is open") < 10
            assert (reached(40000), reached(41000)) == (NEITHER, BOTH)


def test_only_the_gateways_answer_counts(tunnel: None) -> None:
    """What others send, from another address or port, and what is no answer to the request, opens nothing."""
    in_kernel(*inbound.change("wg", (), None))  # the filter would drop what others send
    good = struct.pack("!BBHIHHI", 0, 129, 0, 1, 0, 50000, 60)
    with opened("provider") as elsewhere, opened("provider") as port, Gateway("provider") as gateway:
        elsewhere.bind((OTHER, PORT))
        port.bind((GATEWAY, PORT + 1))
        gateway.strangers = [elsewhere, port]
        gateway.garbage = [
            b"",
            b"\0",
            good[:-1],
            good + b"\0",
            b"\2" + good[1:],
            b"\0\1" + good[2:],
            b"\0\x83" + good[2:],
        ]
        gateway.garbage += [b"\1" * 64, b"\0" * 2000]
        with forwarding() as running:
            running.says("port 40000 is open, forwarded from 198.51.100.7:40000")
            wait_for(lambda: len(gateway.requests) > 6)
            assert len(running.lines()) == 1


@pytest.mark.parametrize(("port", "lifetime"), [(0, 60), (22, 60), (1023, 60), (40000, 0)])
def test_a_mapping_that_is_of_no_use(tunnel: None, port: int, lifetime: int) -> None:
    """A gateway cannot have one of the lowest ports opened, nor none at all, nor one for no time."""
    with Gateway("provider", port, lifetime=lifetime), forwarding() as running:
        running.says(f"NAT-PMP by {GATEWAY}: no use for port {port} to port ")
        assert running.lines()[0].endswith(f" for {lifetime} s: no port is open")
        assert reached(port or 1) == NEITHER


def test_a_gateway_by_the_book(tunnel: None) -> None:
    """One that takes no internal port 0 is asked for a port of ours, to which it forwards another."""
    with Gateway("provider", standard=True) as gateway, forwarding("--exec", "touch") as running:
        gateway.companion = 40001
        running.says("port ")
        number, rest = running.lines()[0].removeprefix("port ").split(" ", 1)
        assert rest == 'is open, forwarded from 198.51.100.7:40001 (UDP from 40000), and "touch" has it'
        assert int(number) >= 49152
        assert gateway.mappings()[1][:3] == (1, int(number), int(number))
        assert (reached(int(number)), reached(40000)) == (BOTH, NEITHER)
        Path(number).unlink()
        assert running.stop() == 0
        assert gateway.requests[-1] == (2, int(number), 0, 0)


@pytest.fixture
def program() -> Iterator[Path]:
    """A program that writes down its arguments, its privileges and what of signals is blocked, and ends as told."""
    path = Path("/run/program")
    path.write_text("""#!/usr/bin/env python3
import pathlib, sys
pathlib.Path("/run/status").write_text(pathlib.Path("/proc/self/status").read_text())
with open("/run/handed", "a") as file:
    print(*sys.argv[1:], file=file)
sys.exit(int(pathlib.Path("/run/ends").read_text()))
""")
    path.chmod(0o755)
    Path("/run/ends").write_text("3")
    yield path
    shell("rm -f /run/program /run/handed /run/status /run/ends")


def test_the_command_gets_the_port_and_no_capability(tunnel: None, program: Path) -> None:
    """The command runs without privileges, once for each port, and again after a failure until it has succeeded."""
    with Gateway("provider") as gateway, forwarding("--exec", f"{program} 'a b' -p") as running:
        running.says(f'port 40000 is open, forwarded from 198.51.100.7:40000; "{program}" ended with status 3 and is')
        handed = Path("/run/handed")
        wait_for(lambda: len(handed.read_text().splitlines()) > 1)
        Path("/run/ends").write_text("0")
        running.says(f'port 40000 is open, forwarded from 198.51.100.7:40000, and "{program}" has it')
        former = handed.read_text()
        gateway.port = 40001
        running.says(f'port 40001 is open, forwarded from 198.51.100.7:40001, and "{program}" has it')
        renewed = len(gateway.requests)
        wait_for(lambda: len(gateway.requests) > renewed + 5)
        assert set(former.splitlines()) == {"a b -p 40000"}
        assert handed.read_text() == former + "a b -p 40001\n"
        status = dict(line.split(":\t", 1) for line in Path("/run/status").read_text().splitlines())
        assert status["NoNewPrivs"] == "1"
        assert {int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapAmb", "SigBlk")} == {0}
        assert len(running.lines()) == 3


@pytest.mark.parametrize(("command", "status"), [("/run/missing", 127), ("/run", 127), ("false", 1), ("sleep", 124)])
def test_a_command_that_fails(command: str, status: int) -> None:
    """A program that cannot be run, fails or does not end has a status, and holds up nothing else."""
    assert execute([command, "60"], 0.2) == status


def test_a_killed_one_is_cleaned_up_after(tunnel: None) -> None:
    """What SIGKILL left open, the next start closes, even if the gateway does not answer."""
    with Gateway("provider") as gateway, forwarding() as running:
        running.says("port 40000 is open")
        running.process.kill()
        running.process.wait()
        assert reached(40000) == BOTH
        gateway.silent = True
        with forwarding() as again:
            again.says(f"NAT-PMP by {GATEWAY}: no answer: no port is open")
            assert reached(40000) == NEITHER


def test_without_a_filter_there_is_nothing_to_open(tunnel: None) -> None:
    """With OpenPorts = all the port is kept forwarded, and handed over."""
    in_kernel(*inbound.change("wg", (), None))
    with Gateway("provider") as gateway, forwarding("--gateway", GATEWAY, "--exec", "test 40000 =") as running:
        running.says('port 40000 is open, forwarded from 198.51.100.7:40000, and "test" has it')
        assert gateway.requests
        assert running.stop() == 0


def test_a_filter_made_anew_is_opened_again(tunnel: None) -> None:
    """When wg-up makes the filter anew, the next renewal opens the port there."""
    with Gateway("provider") as gateway, forwarding() as running:
        running.says("port 40000 is open")
        in_kernel(*inbound.change("wg", inbound.CHANGED, ()))
        before = len(gateway.requests)
        wait_for(lambda: len(gateway.requests) > before + 6)
        assert reached(40000) == BOTH


def test_it_says_that_it_is_ready_and_what_the_port_is(tunnel: None) -> None:
    """Systemd hears that it is ready before the gateway answers, and then of the port."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind("/run/notify")
        notified.settimeout(15)
        os.environ["NOTIFY_SOCKET"] = "/run/notify"
        try:
            with forwarding(), Gateway("provider"):
                assert notified.recv(100) == b"READY=1"
                while b"STATUS=port 40000 is open" not in notified.recv(200):
                    pass
        finally:
            del os.environ["NOTIFY_SOCKET"]
            Path("/run/notify").unlink()


def test_what_cannot_start(tunnel: None) -> None:
    """Wrong options are 2, outside of the namespace it is 77, without a name server to ask 78."""
    inside = ("ip", "netns", "exec", "wg")
    for arguments, code, text in (
        (("--gateway", "gateway.example"), 2, '--gateway "gateway.example": expected an IPv4 address'),
        (("--exec", "touch 'a"), 2, '--exec "touch \'a": no closing quotation'),
    ):
        done = run("wgns", "forward", "wg", *arguments, before=inside)
        assert (done.returncode, done.stderr.splitlines()[0]) == (code, f"wgns: {text}")
    assert run("wgns", "forward", "wg", "--gateway", GATEWAY).returncode == 77
    assert run("wgns", "forward", "other", "--gateway", GATEWAY).returncode == 77
    Path("/etc/netns/wg/resolv.conf").write_text("nameserver fd64::1\nnameserver\n")
    done = run("wgns", "forward", "wg", before=inside)
    assert done.returncode == 78
    assert "--gateway ADDRESS names the gateway" in done.stderr


@pytest.mark.wireguard
def test_through_a_tunnel(provider: str) -> None:
    """With a provider's unchanged file, its name server is the gateway, and reaches the port that it forwards."""
    write(provider)
    shell("ip netns add wg")
    run("wg-up").check_returncode()
    with Gateway("provider") as gateway, forwarding() as running:
        running.says("port 40000 is open, forwarded from 198.51.100.7:40000", 60)
        assert (reached(40000), reached(40001)) == (BOTH, NEITHER)
        gateway.port = 40001
        running.says("port 40001 is open", 60)
        assert (reached(40000), reached(40001)) == (NEITHER, BOTH)
        assert "nothing to change" in run("wg-up").stderr  # wg-up leaves forwarded ports alone
        assert reached(40001) == BOTH
        assert running.stop() == 0
        assert reached(40001) == NEITHER
