"""What wg-up waits for: names that do not resolve yet, and a handshake."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import snapshot
from tests.kernel.test_imports import loaded
from tests.kernel.test_tunnel import CONFIG, provider, write
from tests.support import MINIMAL, PUBLIC2, ROOT, run, shell
from wgns_helpers import resolve
from wgns_helpers.errors import TryAgainError
from wgns_helpers.tunnel import Endpoint, Peer, Tunnel

__all__ = ["provider"]  # a fixture


@contextmanager
def name_server(late: float = 0, gather: int = 1) -> Iterator[None]:
    """A name server that comes `late`, in seconds, and answers when `gather` names have been asked for."""
    over = threading.Event()

    def serve() -> None:
        over.wait(late)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 53))
            server.settimeout(0.2)
            asked: dict[bytes, tuple[bytes, Any]] = {}
            while not over.is_set():
                try:
                    query, who = server.recvfrom(512)
                except TimeoutError:
                    continue
                asked[query[12:]] = query, who
                if len({key[:-4] for key in asked}) >= gather:
                    for one, place in asked.values():
                        server.sendto(answer(one), place)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def answer(query: bytes) -> bytes:
    """127.0.0.1 for a question about an IPv4 address, nothing for others."""
    ipv4 = query[-4:-2] == b"\0\1"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if ipv4 else b""
    return query[:2] + b"\x81\x80\0\1" + (b"\0\1" if ipv4 else b"\0\0") + bytes(4) + query[12:] + record


def asking(*hosts: str) -> Tunnel:
    """A tunnel with these endpoints, in a host that asks the name server, and soon gives up."""
    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    Path("/etc/nsswitch.conf").write_text("hosts: files dns\n")
    return Tunnel(b"", peers=tuple(Peer(host.encode(), endpoint=Endpoint(host, 51820)) for host in hosts))


def test_a_name_server_that_is_late(capfd: pytest.CaptureFixture[str]) -> None:
    """A name that does not resolve yet is tried again, with one line that says so."""
    tunnel = asking("late.example")
    with name_server(late=2.5):
        (peer,) = resolve.resolve(tunnel, 30).peers
    assert peer.endpoint
    assert peer.endpoint.address == b"\x7f\0\0\1"
    assert capfd.readouterr().err.count('trying again for up to 30 s: endpoint "late.example" does not resolve') == 1


def test_all_names_are_asked_for_at_once() -> None:
    """The name server gets the questions for all of twelve names before it answers the first."""
    tunnel = asking(*(f"host{number}.example" for number in range(12)))
    with name_server(gather=12):
        assert all(peer.endpoint and peer.endpoint.address for peer in resolve.resolve(tunnel, 20).peers)


def test_the_patience_ends() -> None:
    """A wrong name fails when the time is up, also while no name server answers; without patience, after one try."""
    tunnel = asking("nobody.example")
    with name_server(gather=99):
        began = time.monotonic()
        with pytest.raises(TryAgainError, match=r"no answer yet|temporary failure"):
            resolve.resolve(tunnel, 3)
        assert time.monotonic() - began < 8
        with pytest.raises(TryAgainError, match=r'"nobody\.example" does not resolve: temporary failure'):
            resolve.resolve(tunnel)


def test_a_lookup_that_hangs_does_not_hold_up_the_end() -> None:
    """When the time is up the program ends, though getaddrinfo(3) waits for a name server that is silent."""
    shell("ip netns add wg; echo hosts: dns > /etc/nsswitch.conf")
    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:30\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        began = time.monotonic()
        text = MINIMAL.replace("127.0.0.1:", "silent.example:")
        done = run("wg-up", "--config", "-", "--resolve-timeout", "1", input=text)
    assert (done.returncode, "no answer yet" in done.stderr) == (75, True)
    assert time.monotonic() - began < 10


def test_all_addresses_those_with_a_route_first() -> None:
    """Of a name's addresses the one that the host has a route to comes first, and none is lost."""
    tunnel = asking("two.example")
    Path("/etc/hosts").write_text("2001:db8::9 two.example\n127.0.0.9 two.example\n")
    (peer,) = resolve.resolve(tunnel).peers
    assert peer.endpoint
    assert socket.inet_ntop(peer.endpoint.family, peer.endpoint.address) == "127.0.0.9"
    assert [socket.inet_ntop(one.family, one.address) for one in peer.endpoint.others] == ["2001:db8::9"]


@pytest.mark.wireguard
def test_a_handshake_is_waited_for(provider: str) -> None:
    """With a provider that answers, wg-up ends after the handshake; the keepalive that began it is off again."""
    write(provider)
    run("netns-up", "wg")
    done = run("wg-up", "--wait-handshake", "60")
    assert done.returncode == 0, done.stderr
    assert '"wg": handshake after' in done.stderr
    _, when = shell("ip netns exec wg wg show wg latest-handshakes").split()
    assert int(when) > 0
    assert shell("ip netns exec wg wg show wg persistent-keepalive").split()[1] == "off"
    assert run("wg-up", "--wait-handshake", "60").returncode == 0
    run("wg-down").check_returncode()
    names, code = loaded("wg-up", "--wait-handshake", "60")
    assert (code, "pyroute2" in names) == (0, False)


@pytest.mark.wireguard
def test_without_a_handshake_all_is_undone(provider: str) -> None:
    """With a provider that does not answer, wg-up ends with 75 when the time is up, and leaves all as it was."""
    write(provider)
    run("netns-up", "wg")
    shell("ip -n provider link set server down")
    before = snapshot()
    done = run("wg-up", "--wait-handshake", "2")
    assert (done.returncode, "no handshake within 2 s (peer 1)" in done.stderr) == (75, True)
    assert snapshot() == before
    argv = [sys.executable, str(ROOT / "bin/wg-up"), "--wait-handshake", "600"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        while "wg" not in shell("ip -n wg -br link show type wireguard"):
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    assert snapshot() == before

    shell("ip -n provider link set server up")
    assert run("wg-up", "--wait-handshake", "60").returncode == 0
    shown = shell("ip netns exec wg wg showconf wg")
    interface = provider.partition("PublicKey")[0]
    CONFIG.write_text(f"{interface}PublicKey = {PUBLIC2}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 192.0.2.2:51820\n")
    assert run("wg-up", "--wait-handshake", "1").returncode == 75
    assert shell("ip netns exec wg wg showconf wg") == shown


@pytest.mark.wireguard
def test_a_dead_address_gives_way_to_the_next(provider: str) -> None:
    """Of two addresses of the provider's name the first is dead: the handshake comes by the second."""
    Path("/etc/hosts").write_text("192.0.2.20 vpn.example\n192.0.2.21 vpn.example\n")
    first, second = (
        socket.inet_ntop(one.family, one.address) for one in resolve.addresses(Endpoint("vpn.example", 51820))
    )
    assert {first, second} == {"192.0.2.20", "192.0.2.21"}
    shell(f"ip -n provider addr add {second}/24 dev eth0")
    write(provider.replace("192.0.2.2:", "vpn.example:"))
    run("netns-up", "wg")
    done = run("wg-up", "--wait-handshake", "60")
    assert done.returncode == 0, done.stderr
    assert shell("ip netns exec wg wg show wg endpoints").split()[1] == f"{second}:51820"
