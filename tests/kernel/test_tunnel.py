"""wg-up and wg-down with real WireGuard: a provider in a namespace of its own, a handshake, and packets."""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import snapshot
from tests.support import MINIMAL, MORTAL, PRESHARED, PRIVATE, PUBLIC, PUBLIC2, ROOT, assert_no_key, run, shell

pytestmark = pytest.mark.wireguard

CONFIG = Path("/etc/wireguard/wg.conf")


def write(text: str, name: str = "wg") -> None:
    """The configuration of a tunnel, where wg-up looks for it."""
    shell("mkdir -p -m 700 /etc/wireguard")
    Path(f"/etc/wireguard/{name}.conf").write_text(text)


def public(private: str) -> str:
    """The public key of a private one."""
    return subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout.strip()


def data(command: str) -> Any:
    """What `ip -j …` says."""
    return json.loads(shell(f"ip -j {command}") or "[]")


def routes(namespace: str) -> set[tuple[str, str]]:
    """Destination and protocol of the routes in the main table but for those that the kernel makes."""
    found = data(f"-n {namespace} route") + data(f"-n {namespace} -6 route")
    return {(route["dst"], route.get("protocol", "boot")) for route in found if route.get("protocol") != "kernel"}


@pytest.fixture
def provider() -> str:
    """Make a provider behind the host's uplink (192.0.2.1 - 192.0.2.2); the client configuration that it hands out."""
    client, server = shell("wg genkey").strip(), shell("wg genkey").strip()
    shell(
        f"""
        ip netns add provider
        ip link add uplink mtu 1400 type veth peer name eth0 netns provider
        ip link set uplink addrgenmode none; ip -n provider link set eth0 addrgenmode none
        ip -6 addr add fe80::2/64 dev uplink nodad
        ip addr add 192.0.2.1/24 dev uplink; ip link set uplink up
        ip -6 addr add 2001:db8::1/64 dev uplink nodad
        ip -n provider link set lo up
        ip -n provider addr add 192.0.2.2/24 dev eth0; ip -n provider link set eth0 up
        ip -n provider -6 addr add 2001:db8::2/64 dev eth0 nodad
        ip -n provider link add server type wireguard
        ip -n provider addr add 10.64.0.1/24 dev server; ip -n provider -6 addr add fd64::1/64 dev server
        umask 077; echo {server} > /run/server.key
        ip netns exec provider wg set server listen-port 51820 private-key /run/server.key \
            peer {public(client)} allowed-ips 10.64.0.2/32,fd64::2/128
        rm /run/server.key
        ip -n provider link set server up
        until [ -z "$({{ ip route show table all; ip -n provider route show table all; }} | grep linkdown)" ]; do
            sleep 0.1
        done
        """
    )
    return f"""[Interface]
PrivateKey = {client}
Address = 10.64.0.2/32, fd64::2/128
DNS = 10.64.0.1

[Peer]
PublicKey = {public(server)}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 192.0.2.2:51820
"""


def ping(namespace: str, address: str) -> bool:
    """Whether the address answers within some seconds."""
    argv = ["ip", "netns", "exec", namespace, "ping", "-n", "-c1", "-W5", address]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_a_providers_file_makes_a_tunnel_that_works(provider: str) -> None:
    """A provider's unchanged file makes a tunnel with a handshake and traffic by both families; then all goes."""
    write(provider)
    before = snapshot()
    assert run("netns-up", "wg").returncode == 0
    done = run("wg-up")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert ping("wg", "10.64.0.1")
    assert ping("wg", "fd64::1")
    assert int(shell("ip netns exec wg wg show wg latest-handshakes").split()[1]) > 0
    up = [link["ifname"] for link in data("-n wg link") if "UP" in link["flags"]]
    assert up == ["lo", "wg"]
    assert routes("wg") == {("default", "119")}
    assert run("wg-down").returncode == 0
    assert run("netns-down", "wg").returncode == 0
    assert snapshot() == before


def test_a_name_with_a_dash(provider: str) -> None:
    """The seed broke on names with a dash, of which %I makes a slash; here the whole way works with both spellings."""
    write(provider, "my-vpn")
    before = snapshot()
    run("netns-up", "my/vpn").check_returncode()
    run("wg-up", "my/vpn").check_returncode()
    assert ping("my-vpn", "10.64.0.1")
    assert [run("wg-down", "my-vpn").returncode, run("netns-down", "my-vpn").returncode] == [0, 0]
    assert snapshot() == before


def test_the_socket_stays_in_the_host(provider: str) -> None:
    """The UDP socket is in the namespace that wg-up was started in, and the host never has the link."""
    write(provider.replace("[Peer]", "ListenPort = 40001\n[Peer]"))
    shell("ip netns add wg")
    names = {link["ifname"] for link in data("link")}
    run("wg-up").check_returncode()
    assert ":40001 " in shell("ss -lun")
    assert ":40001 " not in shell("ip netns exec wg ss -lun")
    assert {link["ifname"] for link in data("link")} == names


def test_without_the_tunnel_there_is_no_network(provider: str) -> None:
    """While the tunnel is down nothing answers in the namespace, the host's own addresses least of all."""
    write(provider)
    run("netns-up", "wg").check_returncode()
    assert not ping("wg", "192.0.2.1")
    run("wg-up").check_returncode()
    assert ping("wg", "10.64.0.1")
    assert not ping("wg", "192.0.2.1")
    run("wg-down").check_returncode()
    assert not ping("wg", "10.64.0.1")


def test_a_resolver_inside_is_the_tunnels(provider: str) -> None:
    """The seed's confined service asked the host's name server; `ip netns exec` shows the tunnel's alone."""
    write(provider.replace("DNS = 10.64.0.1", "DNS = 10.64.0.1, fd64::1, example.com"))
    run("netns-up", "wg").check_returncode()
    run("wg-up").check_returncode()
    seen = shell("ip netns exec wg cat /etc/resolv.conf").splitlines()[1:]
    assert seen == ["nameserver 10.64.0.1", "nameserver fd64::1", "search example.com"]
    run("wg-down").check_returncode()
    assert list(Path("/etc/netns").iterdir()) == []


def test_two_tunnels_of_one_name(provider: str) -> None:
    """The same interface name in two namespaces, and a link of that name in the host, which is left alone."""
    write(provider)
    shell("ip link add wg type bridge; ip netns add one; ip netns add two")
    bridge = data("link show wg")
    for name in ("one", "two"):
        done = run("wg-up", "wg", "--netns", name)
        assert done.returncode == 0, done.stderr
    assert [data(f"-n {name} -d link show wg")[0]["linkinfo"]["info_kind"] for name in ("one", "two")] == [
        "wireguard"
    ] * 2
    assert run("wg-down", "wg", "--netns", "one").returncode == 0
    assert "wg" not in {link["ifname"] for link in data("-n one link")}
    assert "wg" in {link["ifname"] for link in data("-n two link")}
    assert data("link show wg") == bridge


def test_wg_down_twice_is_nothing_to_do(provider: str) -> None:
    """The seed's every stop ended with status 1; ours ends with 0, also when there is nothing left, or no namespace."""
    write(provider)
    shell("ip netns add wg")
    run("wg-up").check_returncode()
    codes = [run("wg-down").returncode, run("wg-down").returncode]
    shell("ip netns del wg")
    assert [*codes, run("wg-down").returncode] == [0, 0, 0]


CONFIGURATIONS = {
    "wg(8)": f"""[Interface]
PrivateKey = {PRIVATE}
ListenPort = 51820

[Peer]
PublicKey = {PUBLIC}
Endpoint = 192.95.5.67:1234
AllowedIPs = 10.192.122.3/32, 10.192.124.1/24

[Peer]
PublicKey = {PUBLIC2}
Endpoint = [2607:5300:60:6b0::c05f:543]:2468
AllowedIPs = 10.192.122.4/32, 192.168.0.0/16

[Peer]
PublicKey = gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=
Endpoint = test.wireguard.com:18981
AllowedIPs = 10.10.10.230/32
""",
    "wg-quick(8) client": f"""[Interface]
Address = 10.200.100.8/24
DNS = 10.200.100.1
PrivateKey = oK56DE9Ue9zK76rAc8pBl6opph+1v36lm7cXXsQKrQM=

[Peer]
PublicKey = GtL7fZc/bLnqZldpVofMCD6hDjrK28SsdLxevJ+qtKU=
PresharedKey = {PRESHARED}
AllowedIPs = 0.0.0.0/0
Endpoint = demo.wireguard.com:51820
""",
    "wg-quick(8) server": f"""[Interface]
Address = 10.192.122.1/24
Address = 10.10.0.1/16
SaveConfig = true
PrivateKey = {PRIVATE}
ListenPort = 51820
PostUp = wg set %i private-key /etc/wireguard/wg0.key <(some command %i)
Table = 1234
PostUp = ip rule add ipproto tcp dport 22 table 1234
PreDown = ip rule delete ipproto tcp dport 22 table 1234

[Peer]
PublicKey = {PUBLIC}
AllowedIPs = 10.192.122.3/32, 10.192.124.1/24

[Peer]
PublicKey = {PUBLIC2}
AllowedIPs = 10.192.122.4/32, 192.168.0.0/16

[Peer]
PublicKey = gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=
AllowedIPs = 10.10.10.230/32
""",
    "every key of wg(8), oddly written": f"""  # comment
[INTERFACE]
privatekey={PRIVATE} # behind
FWMARK = 0xCAFE
listenport = 51 820
#! [Peer]
[ peer ]
PUBLICKEY = {PUBLIC}
AllowedIPs = 10.0.0.77/8
allowedips = ::/0,0.0.0.0/0
#! AllowedIPs = 1.1.1.1/32
presharedkey = {PRESHARED}
persistentkeepalive = 25
endpoint = [::1]:51820
[Peer]
PublicKey = {PUBLIC2}
PersistentKeepalive = off
""",
    "CRLF, mark off": f"[Interface]\r\nPrivateKey = {PRIVATE}\r\nFwMark = off\r\n\r\n[Peer]\r\nPublicKey={PUBLIC}\r\n",
    "no peer": f"[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.0.0.1\n",
}


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_the_device_is_as_wg_setconf_makes_it(what: str) -> None:
    """`wg showconf` after wg-up equals that after `wg setconf` of what `wg-quick strip` leaves of the same file."""
    shell("echo '192.0.2.9 test.wireguard.com demo.wireguard.com' >> /etc/hosts; ip netns add wg; ip netns add theirs")
    write(CONFIGURATIONS[what])
    done = run("wg-up")
    assert done.returncode == 0, done.stderr
    shell(
        """
        ip -n theirs link add wg type wireguard
        wg-quick strip wg > /run/stripped; ip netns exec theirs wg setconf wg /run/stripped; rm /run/stripped
        """
    )
    for question in ("showconf wg", "show wg fwmark", "show wg persistent-keepalive"):
        ours, theirs = (sorted(shell(f"ip netns exec {name} wg {question}").splitlines()) for name in ("wg", "theirs"))
        port = [line for line in ours if line.startswith("ListenPort")]
        if port and "listenport" not in CONFIGURATIONS[what].lower():  # the kernel chose
            ours, theirs = ([line for line in lines if not line.startswith("ListenPort")] for lines in (ours, theirs))
        assert ours == theirs


@pytest.mark.parametrize(
    ("interface", "allowed"),
    [
        ("Address = 10.9.0.2/24, fd09::2/64\nMTU = 1300", "10.0.0.0/8, fd00::/16, 10.9.0.0/24, 192.168.7.9/16"),
        ("Address = 10.9.0.2, fd09::2", "10.9.0.1/32"),
        ("Address = 10.9.0.2/24\nTable = off", "10.0.0.0/8"),
        ("Address = 10.9.0.2/24\nTable = 777", "10.0.0.0/8, 0.0.0.0/0"),
    ],
)
def test_addresses_mtu_and_routes_are_as_wg_quick_makes_them(interface: str, allowed: str, provider: str) -> None:
    """The same file by wg-quick in the host and by wg-up: the same addresses, MTU (computed or not) and routes."""
    write(
        f"[Interface]\nPrivateKey = {PRIVATE}\n{interface}\n[Peer]\nPublicKey = {PUBLIC}\n"
        f"AllowedIPs = {allowed}\nEndpoint = 192.0.2.2:51820\n"
    )
    table = "777" if "777" in interface else "main"

    def seen(prefix: str) -> object:
        (link,) = data(f"{prefix} addr show wg")
        addresses = {(a["local"], a["prefixlen"]) for a in link["addr_info"] if not a["local"].startswith("fe80")}
        found = shell(f"ip {prefix} route show table {table} dev wg 2>/dev/null || true")
        found += shell(f"ip {prefix} -6 route show table {table} dev wg 2>/dev/null || true")
        return link["mtu"], addresses, {line.split()[0] for line in found.splitlines() if "fe80" not in line}

    shell("wg-quick up wg")
    theirs = seen("")
    shell("wg-quick down wg; ip netns add wg")
    run("wg-up").check_returncode()
    assert seen("-n wg") == theirs


def test_routes_that_are_not_ours_stay(provider: str) -> None:
    """Routes carry our protocol number; one that somebody else has in the namespace is no obstacle and stays."""
    write(provider.replace("0.0.0.0/0", "10.0.0.0/8"))
    shell("ip netns add wg; ip -n wg link set lo up; ip -n wg route add 172.16.0.0/12 dev lo")
    run("wg-up").check_returncode()
    assert routes("wg") == {("172.16.0.0/12", "boot"), ("10.0.0.0/8", "119"), ("default", "119")}
    run("wg-down").check_returncode()
    assert routes("wg") == {("172.16.0.0/12", "boot")}


def test_without_ipv6_the_rest_comes_up(provider: str) -> None:
    """In a namespace without IPv6 its addresses, allowed IPs and name servers are left out, with one warning."""
    write(provider.replace("DNS = 10.64.0.1", "DNS = 10.64.0.1, fd64::1"))
    shell("ip netns add wg; ip netns exec wg sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
    done = run("wg-up")
    assert done.returncode == 0
    assert done.stderr.count("warning") == 1
    assert "has no IPv6: wg-up leaves out" in done.stderr
    assert ping("wg", "10.64.0.1")
    assert "fd64" not in Path("/run/wgns/wg/resolv.conf").read_text()
    assert "::/0" not in shell("ip netns exec wg wg show wg allowed-ips")


def faults() -> dict[str, tuple[str, str, str]]:
    """What to prepare, what to add to [Interface], what the message must hold: each fails at another step, for real."""
    busy = "python3 -c 'import socket,time; s=socket.socket(2,2); s.bind((\"\",40002)); time.sleep(60)' & sleep 1.5"
    return {
        "address": ("true", "Address = 10.64.0.2/24, fd64::2/64", "address fd64::2/64: file exists"),
        "up": (busy, "ListenPort = 40002", "ListenPort: UDP port 40002 is taken in the host"),
        "route": (
            "ip -n wg link set lo up; ip -n wg route add default dev lo",
            "",
            "route default (IPv4): file exists",
        ),
        "lock": ("mkdir -p /run/wgns; mount -t tmpfs -o ro tmpfs /run/wgns", "", "read-only file system"),
        "resolv.conf": (
            "mkdir -p /run/wgns/wg; mount -t tmpfs -o size=4k tmpfs /run/wgns/wg; cp /bin/true /run/wgns/wg || true",
            "",
            "no space left",
        ),
    }


@pytest.mark.parametrize("step", faults())
def test_a_step_that_fails_leaves_nothing(step: str, provider: str) -> None:
    """Whatever the kernel refuses, the link is gone again from host and target, and nothing else has changed."""
    prepare, addition, message = faults()[step]
    write(provider.replace("[Peer]", f"{addition}\n[Peer]"))
    shell("ip netns add wg")
    with subprocess.Popen(["sh", "-c", f"{prepare}; echo; wait"], stdout=subprocess.PIPE) as preparation:
        assert preparation.stdout
        preparation.stdout.readline()
        before = snapshot()
        done = run("wg-up")
        after = snapshot()
        shell("pkill -f '[4]0002' || true; umount /run/wgns/wg /run/wgns 2>/dev/null || true")
    assert done.returncode == (78 if step == "up" else 1), done.stderr  # a port that is configured stays taken
    assert message in done.stderr
    assert after == before


DRIVER = """
import os, sys
sys.argv = ["wg-up"]
from wgns_helpers import cli, netlink
calls, run = [], netlink.Socket.run
def counting(socket, requests):
    calls.append(1)
    at = len(calls) == int(os.environ["AT"])
    if at:
        {act}
    try:
        return run(socket, requests)
    finally:
        if at:
            {late}
netlink.Socket.run = counting
cli.main("wg-up")
"""


def wg_up_with_fault(step: int, act: str, late: str) -> subprocess.CompletedProcess[str]:
    """Run wg-up with something that happens before, or after, its exchange number `step` with the kernel."""
    argv = [*MORTAL, sys.executable, "-c", DRIVER.format(act=act, late=late)]
    environment = {"AT": str(step), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert_no_key(done.stdout + done.stderr)
    return done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_between_any_two_steps_undoes_them(number: signal.Signals, provider: str) -> None:
    """Before each exchange with the kernel a signal arrives: wg-up dies of it, and everything is as before."""
    write(provider)
    shell("ip netns add wg")
    before = snapshot()
    act = f"os.kill(os.getpid(), {int(number)})"
    for step in range(1, 20):
        done = wg_up_with_fault(step, act=act, late="pass")
        if done.returncode == 0:
            break
        assert done.returncode == -number, done.stderr
        assert snapshot() == before
    assert step > 4  # look, make, family, keys, addresses and routes
    assert run("wg-down").returncode == 0


@pytest.mark.parametrize("when", ["act", "late"])
def test_a_failure_at_any_exchange_undoes_the_others(when: str, provider: str) -> None:
    """Each exchange with the kernel fails once, before it is sent or when its answer is lost: nothing stays."""
    write(provider)
    shell("ip netns add wg")
    before = snapshot()
    for step in range(1, 20):
        fault = {"act": "pass", "late": "pass", when: "raise netlink.system_error('lost', OSError(12, ''))"}
        done = wg_up_with_fault(step, **fault)
        if done.returncode == 0:
            break
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert snapshot() == before
    assert step > 4
    assert run("wg-down").returncode == 0


def test_a_foreign_resolv_conf_stays(provider: str) -> None:
    """A resolv.conf that wg-up did not write is left alone by up and down, with a warning."""
    write(provider)
    shell("ip netns add wg; mkdir -p /run/wgns/wg /etc/netns; echo nameserver 10.1.1.1 > /run/wgns/wg/resolv.conf")
    before = snapshot()
    for program in ("wg-up", "wg-down"):
        done = run(program)
        assert done.returncode == 0
        assert "warning: /run/wgns/wg/resolv.conf was not written by wg-up wg" in done.stderr
    assert snapshot() == before


def test_many_peers_and_many_allowed_ips() -> None:
    """Lists too long for one message arrive whole: read back with wg(8)."""
    shell("ip netns add wg")
    keys = [base64.b64encode(number.to_bytes(32, "big")).decode() for number in range(1, 2001)]
    networks = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(4000)]
    text = MINIMAL.replace("0.0.0.0/0", ", ".join(networks)) + "Table = off\n".replace("Table = off\n", "")
    text = text.replace("[Peer]", "Table = off\n[Peer]", 1)
    write(
        text + "".join(f"[Peer]\nPublicKey = {key}\nAllowedIPs = fd00::{number:x}\n" for number, key in enumerate(keys))
    )
    done = run("wg-up")
    assert done.returncode == 0, done.stderr
    lines = shell("ip netns exec wg wg show wg allowed-ips").splitlines()
    seen = {line.split("\t")[0]: set(line.split("\t")[1].split()) for line in lines}
    assert len(seen) == 2001
    assert seen[PUBLIC] == set(networks)
    assert all(
        seen[key] == {f"fd00::{number:x}/128" for number in [position]} for position, key in list(enumerate(keys))[1:]
    )


def test_many_routes() -> None:
    """More routes than fit into one datagram: each is there."""
    shell("ip netns add wg")
    networks = {f"10.{number >> 8}.{number & 255}.0/24" for number in range(300)}
    write(MINIMAL.replace("0.0.0.0/0", ", ".join(sorted(networks))))
    run("wg-up").check_returncode()
    assert routes("wg") == {(network, "119") for network in networks}


def test_a_host_name_is_resolved_where_wg_up_runs(provider: str) -> None:
    """The endpoint's name is looked up in the host, not in the target, which has no network yet."""
    shell("ip netns add wg; echo '192.0.2.2 vpn.example' >> /etc/hosts")
    write(provider.replace("192.0.2.2:", "vpn.example:"))
    run("wg-up").check_returncode()
    assert "192.0.2.2:51820" in shell("ip netns exec wg wg show wg endpoints")
    assert ping("wg", "10.64.0.1")


def test_a_scoped_endpoint(provider: str) -> None:
    """A link-local endpoint keeps its scope."""
    shell("ip netns add wg")
    index = socket.if_nametoindex("uplink")
    write(provider.replace("192.0.2.2:", "[fe80::1%uplink]:"))
    run("wg-up").check_returncode()
    assert shell("ip netns exec wg wg show wg endpoints").split()[1] in (
        f"[fe80::1%{index}]:51820",
        "[fe80::1%uplink]:51820",
    )


def test_no_key_is_in_sight_while_it_runs(provider: str) -> None:
    """While wg-up runs, no key is in its command line or environment."""
    key = next(line.split()[2] for line in provider.splitlines() if line.startswith("PrivateKey"))
    write(provider.replace("192.0.2.2:", "slow.example:"))
    shell("ip netns add wg; echo nameserver 127.0.0.1 > /etc/resolv.conf; echo hosts: dns > /etc/nsswitch.conf")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        process = subprocess.Popen([sys.executable, str(ROOT / "bin/wg-up")])
        server.settimeout(60)
        server.recv(512)
        seen = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
        process.kill()
        process.wait()
    assert key.encode() not in seen
    assert b"wg-up" in seen
