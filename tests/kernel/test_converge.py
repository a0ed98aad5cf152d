"""wg-up on a tunnel that is there: only what differs is changed, and sessions that need not end go on."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.kernel import faults
from tests.kernel.conftest import snapshot
from tests.kernel.test_faults import Looker
from tests.kernel.test_tunnel import data, ping, provider, public, routes, write
from tests.support import MINIMAL, PRESHARED, PRIVATE, PUBLIC, PUBLIC2, ROOT, assert_no_key, run, shell
from wgns_helpers import netlink, present, wireguard
from wgns_helpers.errors import Failure

__all__ = ["provider"]
pytestmark = pytest.mark.wireguard

OTHER = f"\n[Peer]\nPublicKey = {PUBLIC2}\nAllowedIPs = 10.99.0.0/16\nPersistentKeepalive = 25\n"
NOTHING = 'wg-up: "wg" in namespace "wg" is as configured: nothing to change\n'


def wg(question: str) -> str:
    """What `wg show wg …` says in the namespace."""
    return shell(f"ip netns exec wg wg show wg {question}")


def up() -> str:
    """Run wg-up, which has to succeed; what it says."""
    done = faults.run("wg-up")
    assert done.status == 0, done.said
    assert_no_key(done.said)
    return done.said


@pytest.fixture
def tunnel(provider: str) -> str:
    """A tunnel with a session; its configuration."""
    write(provider)
    shell("ip netns add wg")
    up()
    assert ping("wg", "10.64.0.1")
    return provider


def test_a_second_run_changes_nothing(tunnel: str) -> None:
    """It says so, and makes no system call that changes anything but to step inside."""
    before, handshake = snapshot(), wg("latest-handshakes")
    assert up() == NOTHING
    again = faults.run("wg-up")
    lock = ["open", "unlink", "rmdir"]  # its file comes and goes
    assert (again.status, sorted(again.steps), again.said) == (0, sorted(["setns", *lock]), NOTHING)
    assert (snapshot(), wg("latest-handshakes")) == (before, handshake)
    assert run("wg-up", "--dry-run").stdout == NOTHING.removeprefix("wg-up: ")


def test_addresses_of_the_links_own_scope(tunnel: str) -> None:
    """The kernel lists them before the others, in whatever order they came: that is no difference."""
    write(tunnel.replace("fd64::2/128", "fd64::2/128, fe80::7/64, fd65::2/64"))
    assert "address fe80::7/64" in up()
    assert up() == NOTHING
    down()
    up()
    assert up() == NOTHING


def test_drift_is_mended_and_what_is_not_ours_stays(tunnel: str) -> None:
    """Routes, peers, addresses, MTU, mark, port, keepalive, link state changed by hand are as configured again."""
    reference = snapshot()["wg: addr"], routes("wg"), shell("ip netns exec wg wg showconf wg")
    key = wg("peers").strip()
    drifts = [
        "ip -n wg route del default",
        f"ip netns exec wg wg set wg peer {key} remove",
        f"ip netns exec wg wg set wg peer {key} allowed-ips 10.0.0.0/8 persistent-keepalive 9",
        f"ip netns exec wg wg set wg fwmark 9 peer {PUBLIC2} allowed-ips ::/0",
        "ip -n wg addr del 10.64.0.2/32 dev wg; ip -n wg addr add 10.1.1.1/24 dev wg",
        "ip -n wg link set wg mtu 1280",
        "ip -n wg link set wg down",
        "ip -n wg addr flush dev wg",
    ]
    for drift in drifts:
        shell(f"{drift}; ip -n wg route add 172.16.0.0/12 dev wg || true")
        assert "is as configured now: " in up(), drift
        ours = {route for route in routes("wg") if route[0] != "172.16.0.0/12"}
        assert (snapshot()["wg: addr"], ours, shell("ip netns exec wg wg showconf wg")) == reference, drift
        assert up() == NOTHING, drift
        assert ping("wg", "10.64.0.1"), drift
    shell("ip -n wg route replace 172.16.0.0/12 dev wg; ip -n wg route del default")
    up()
    assert ("172.16.0.0/12", "boot") in routes("wg")


def test_sessions_of_other_peers_go_on(tunnel: str) -> None:
    """Peers, allowed IPs, addresses, routes, DNS come and go; the session of the peer that is the same stays."""
    key = wg("peers").strip()

    def session() -> list[str]:
        return [line for line in wg("latest-handshakes").splitlines() if key in line]

    former = session()
    for text in (
        tunnel + OTHER,
        tunnel + OTHER.replace("10.99.0.0/16", "10.98.0.0/16, 10.97.0.0/16").replace("25", "26"),
        (tunnel + OTHER).replace("fd64::2/128", "fd64::2/128, 10.77.0.1/24").replace("= 10.64.0.1", "= 10.64.0.9"),
        tunnel.replace("DNS = 10.64.0.1\n", "MTU = 1300\n"),
    ):
        write(text)
        assert "is as configured now" in up()
        assert ping("wg", "10.64.0.1")
        assert session() == former
        assert up() == NOTHING


def test_dry_run_shows_the_differences(tunnel: str) -> None:
    """Each difference in a line, without a key, and nothing is changed; without root the steps of a new tunnel."""
    text = tunnel.replace("0.0.0.0/0, ::/0", "0.0.0.0/0, 10.9.0.0/16").replace("DNS = 10.64.0.1", "DNS = 10.64.0.5")
    text = text.replace("fd64::2/128", "fd64::3/128\nListenPort = 40009\nFwMark = 0x10")
    write(text.replace("[Peer]", f"[Peer]\nPresharedKey = {PRESHARED}") + OTHER)
    before = snapshot()
    shown = run("wg-up", "--dry-run")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        "fwmark 0x10",
        "listen port 40009",
        "peer 1: preshared key (not shown), allowed IPs 0.0.0.0/0, 10.9.0.0/16",
        "peer 2: persistent keepalive 25, allowed IPs 10.99.0.0/16",
        "address fd64::3/128",
        "route 10.9.0.0/16",
        "route 10.99.0.0/16",
        "remove route default (IPv6)",
        "remove address fd64::2/128",
        "/run/wgns/wg/resolv.conf: name servers 10.64.0.5",
    ]
    assert snapshot() == before
    powerless = run("wg-up", "--dry-run", before=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))
    assert powerless.returncode == 0
    assert "these are the steps for a tunnel that does not exist yet" in powerless.stderr
    assert powerless.stdout.startswith('link "wg", wireguard in namespace "wg"')


def test_a_peer_that_goes_is_named_by_the_beginning_of_its_key(tunnel: str) -> None:
    """A peer that the configuration does not have has no number there."""
    shell(f"ip netns exec wg wg set wg peer {PUBLIC2}")
    assert run("wg-up", "--dry-run").stdout == f'remove peer "{PUBLIC2[:8]}…"\n'


def test_the_keys_are_compared_too(tunnel: str) -> None:
    """Another private key is set and not shown; with it goes the session."""
    write(tunnel.replace(re.findall("PrivateKey = (.*)", tunnel)[0], PRIVATE))
    assert "is as configured now: private key (not shown)\n" in up()
    assert shell("ip netns exec wg wg show wg private-key").strip() == PRIVATE
    assert not ping("wg", "10.64.0.1")
    write(tunnel)
    up()
    assert ping("wg", "10.64.0.1")


def test_the_interfaces_own_key_as_a_peers_is_refused(tunnel: str) -> None:
    """The kernel ignores such a peer without a word."""
    private = re.findall("PrivateKey = (.*)", tunnel)[0]
    write(tunnel + OTHER.replace(PUBLIC2, public(private)))
    before = snapshot(), shell("ip netns exec wg wg showconf wg")
    done = run("wg-up")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        78,
        "wg-up: peer 2 has this interface's own public key",
    )
    assert (snapshot(), shell("ip netns exec wg wg showconf wg")) == before


def test_on_the_first_run_too(provider: str) -> None:
    """Before anything is left; the private key may be written in a way that the kernel does not keep."""
    shell("ip netns add wg")
    key = base64.b64encode(bytes(31) + b"\xff").decode()
    for private in (re.findall("PrivateKey = (.*)", provider)[0], key):
        text = re.sub("PrivateKey = .*", f"PrivateKey = {private}", provider)
        write(text + OTHER.replace(PUBLIC2, public(private)))
        before = snapshot()
        done = run("wg-up")
        assert (done.returncode, done.stderr.splitlines()[0]) == (
            78,
            "wg-up: peer 2 has this interface's own public key",
        )
        assert snapshot() == before


def test_another_private_key_and_its_own_public_key(tunnel: str) -> None:
    """The new key is refused too, and the former one is back."""
    write(tunnel.replace(re.findall("PrivateKey = (.*)", tunnel)[0], PRIVATE) + OTHER.replace(PUBLIC2, public(PRIVATE)))
    before = snapshot(), shell("ip netns exec wg wg showconf wg")
    assert run("wg-up").returncode == 78
    assert (snapshot(), shell("ip netns exec wg wg showconf wg")) == before


def test_an_allowed_ip_of_two_peers_is_the_last_ones(tunnel: str) -> None:
    """As with wg(8); and the second run finds nothing to change."""
    write(tunnel + OTHER.replace("10.99.0.0/16", "0.0.0.0/0, ::/0, 10.0.0.0/8"))
    up()
    assert "(none)" in wg("allowed-ips")
    warning, again = up().splitlines(keepends=True)
    assert "several peers have the allowed IPs 0.0.0.0/0" in warning
    assert again == NOTHING
    write(tunnel)
    up()
    assert ping("wg", "10.64.0.1")


def endpoint() -> str:
    """Where the kernel would send to."""
    return wg("endpoints").split()[1]


def test_an_endpoint_stays_at_any_address_of_its_name(tunnel: str) -> None:
    """One of the addresses to which the name resolves now is left alone, any other is set."""
    key = wg("peers").strip()
    Path("/etc/hosts").write_text("192.0.2.2 vpn.example\n2001:db8::2 vpn.example\n")
    write(tunnel.replace("192.0.2.2:", "vpn.example:"))
    assert up() == NOTHING
    for place in ("[2001:db8::2]:51820", "192.0.2.2:51820"):
        shell(f"ip netns exec wg wg set wg peer {key} endpoint '{place}'")
        assert up() == NOTHING
        assert endpoint() == place
    for place in ("192.0.2.77:51820", "192.0.2.2:51821", "[2001:db8::77]:51820"):
        shell(f"ip netns exec wg wg set wg peer {key} endpoint '{place}'")
        assert "peer 1: endpoint vpn.example:51820\n" in up()
        assert endpoint() in ("192.0.2.2:51820", "[2001:db8::2]:51820")
    assert ping("wg", "10.64.0.1")
    Path("/etc/hosts").write_text("192.0.2.77 vpn.example\n")
    assert "peer 1: endpoint vpn.example:51820" in up()
    assert endpoint() == "192.0.2.77:51820"
    assert up() == NOTHING


def test_an_endpoint_that_is_not_configured_is_left_alone(tunnel: str) -> None:
    """A peer without Endpoint= is where it was last heard from; a literal one that has roamed is set."""
    key = wg("peers").strip()
    shell(f"ip netns exec wg wg set wg peer {key} endpoint '[2001:db8::2]:51820'")
    write(tunnel.replace("Endpoint", "#").replace("DNS", "MTU = 1320\nDNS"))
    assert up() == NOTHING
    assert endpoint() == "[2001:db8::2]:51820"
    write(tunnel)
    assert "peer 1: endpoint 192.0.2.2:51820\n" in up()
    assert endpoint() == "192.0.2.2:51820"


def test_a_failure_half_way_restores(tunnel: str) -> None:
    """The port is taken, for real: the mark, which the kernel has set by then, is taken back, and traffic goes on."""
    before = snapshot(), shell("ip netns exec wg wg showconf wg"), wg("latest-handshakes")
    write(tunnel.replace("[Peer]", "FwMark = 5\nListenPort = 40002\n[Peer]") + OTHER)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as busy:
        busy.bind(("", 40002))
        done = run("wg-up")
    assert done.returncode == 78
    assert done.stderr.startswith("wg-up: ListenPort: UDP port 40002 is taken in the host\nwg-up: hint: ss -lunp ")
    assert (snapshot(), shell("ip netns exec wg wg showconf wg"), wg("latest-handshakes")) == before
    assert ping("wg", "10.64.0.1")


def test_a_route_that_is_in_the_way_restores(tunnel: str) -> None:
    """Somebody else's route to the same network elsewhere is not replaced: all is as before."""
    shell("ip -n wg link set lo up; ip -n wg route add 10.99.0.0/16 dev lo")
    write(tunnel.replace("DNS = 10.64.0.1", "DNS = 10.64.0.3") + OTHER)
    before = snapshot(), shell("ip netns exec wg wg showconf wg")
    done = run("wg-up")
    assert (done.returncode, done.stderr) == (1, "wg-up: route 10.99.0.0/16: file exists\n")
    assert (snapshot(), shell("ip netns exec wg wg showconf wg")) == before


def test_a_link_made_by_hand_becomes_the_tunnel(provider: str) -> None:
    """A WireGuard link of the name, with nothing in it, gets all that the configuration has."""
    write(provider)
    shell("ip netns add wg; ip link add wg type wireguard; ip link set wg netns wg")
    up()
    assert ping("wg", "10.64.0.1")
    assert up() == NOTHING


def test_many_peers_take_many_messages() -> None:
    """A peer whose allowed IPs the kernel tells in several messages is one peer, and thousands are compared right."""
    networks = ", ".join(f"10.{number >> 8}.{number & 255}.0/24" for number in range(3000))
    keys = [PUBLIC[:3] + f"{number:04d}" + PUBLIC[7:] for number in range(1500)]
    peers = "".join(f"[Peer]\nPublicKey = {key}\nAllowedIPs = fd00::{n:x}\n" for n, key in enumerate(keys))
    text = MINIMAL.replace("0.0.0.0/0", networks).replace("[Peer]", "Table = off\n[Peer]", 1) + peers
    write(text)
    shell("ip netns add wg")
    up()
    assert up() == NOTHING
    write(text.replace("fd00::5db\n", "fd00::ffff\n"))
    assert up().startswith('wg-up: "wg" in namespace "wg" is as configured now: peer 1501: allowed IPs ')
    assert "fd00::ffff/128" in wg("allowed-ips")
    assert up() == NOTHING


def test_an_interrupted_list_is_read_again(tunnel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes while it is read carries NLM_F_DUMP_INTR: each list is read again, and not without end."""
    index = data("-n wg link show wg")[0]["ifindex"]
    times = 0
    calls: list[tuple[int, int]] = []
    exchange = netlink.Socket.run

    def torn(socket: netlink.Socket, batch: list[netlink.Request]) -> list[bytes]:
        found = exchange(socket, batch)
        if batch[0].flags & netlink.DUMP == netlink.DUMP:
            calls.append((batch[0].protocol, batch[0].kind))
            socket._torn = calls.count(calls[-1]) <= times  # noqa: SLF001
        return found

    with Looker() as here, here.inside_for_a_while(), wireguard.Link("wg", index) as link:
        whole = present.read(link)[0]
        monkeypatch.setattr(netlink.Socket, "run", torn)
        times = 2
        assert present.read(link)[0] == whole
        assert {calls.count(call) for call in calls} == {3, 4}  # addresses and routes are two lists each
        times = 99
        with pytest.raises(Failure, match="changed each time it was read"):
            present.read(link)


def test_without_pyroute2(tunnel: str) -> None:
    """Only a tunnel that is there needs it; its absence has its exit code and the way out."""
    driver = "import sys; sys.modules['pyroute2'] = None; sys.argv = ['wg-up']; "
    driver += "from wgns_helpers import cli; cli.main('wg-up')"
    done = subprocess.run([sys.executable, "-c", driver], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        69,
        "wg-up: the Python package pyroute2 is missing\nwg-up: hint: pip install pyroute2\n",
    )


# Random configurations: few values, so that two of them have much in common

KEYS = [PUBLIC, PUBLIC2, "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA="]
ADDRESSES = ["10.9.0.2/24", "10.9.0.3/24", "10.9.0.2/32", "10.8.0.1/32", "fd09::2/64", "fd09::2/48", "fd08::1/128"]
NETWORKS = ["0.0.0.0/0", "::/0", "10.9.0.0/24", "10.8.0.0/16", "fd09::/64", "192.168.0.0/16", "10.9.0.5/32"]


@st.composite
def configurations(draw: st.DrawFn) -> str:
    """A configuration."""
    lines = ["[Interface]", f"PrivateKey = {draw(st.sampled_from([PRIVATE, PRESHARED]))}", "ListenPort = 40001"]
    addresses = draw(st.lists(st.sampled_from(ADDRESSES), unique_by=lambda a: a.partition("/")[0]))
    lines += [f"Address = {address}" for address in addresses]
    lines.append(f"Table = {draw(st.sampled_from(['auto', 'off', '77', '3000']))}")
    lines += draw(
        st.sampled_from([[], ["FwMark = 7"], ["MTU = 1300"], ["DNS = 10.9.0.1"], ["DNS = fd09::1, a.example"]])
    )
    for key in draw(st.lists(st.sampled_from(KEYS), unique=True)):
        lines += ["[Peer]", f"PublicKey = {key}"]
        lines += [f"AllowedIPs = {network}" for network in draw(st.lists(st.sampled_from(NETWORKS), unique=True))]
        lines += draw(st.sampled_from([[], [f"PresharedKey = {PRESHARED}"], ["PersistentKeepalive = 20"]]))
        lines += draw(st.sampled_from([[], ["Endpoint = 127.0.0.1:7"], ["Endpoint = [::1]:9"]]))
    return "\n".join(lines) + "\n"


def without_endpoints(seen: dict[str, Any]) -> dict[str, Any]:
    """An endpoint that the configuration does not name any more stays: the kernel cannot take it away."""
    device = [[item for item in items if item[0] != "WGPEER_A_ENDPOINT"] for items in seen["device"]]
    return {**seen, "device": sorted(device, key=str)}


def test_any_configuration_after_any_other_is_as_if_it_were_the_first() -> None:
    """From whatever there is, wg-up makes exactly what it makes of nothing; a further run changes nothing."""
    shell("mkdir -p -m 700 /etc/wireguard; ip netns add wg; ip -n wg link set lo up")
    with Looker() as looker:
        # Without shrinking: each attempt takes a second
        @settings(max_examples=20, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
        @given(configurations(), configurations())
        def check(first: str, second: str) -> None:
            write(second)
            up()
            expected = looker.look()
            down()
            write(first)
            up()
            write(second)
            changed = up()
            found, fresh = without_endpoints(looker.look()), without_endpoints(expected)
            assert not [(found[what], fresh[what]) for what in fresh if found[what] != fresh[what]], changed
            assert up().endswith(NOTHING)
            down()

        check()


def down() -> None:
    """Run wg-down, which has to succeed."""
    assert faults.run("wg-down").status == 0


def test_traffic_goes_on_while_other_things_change(tunnel: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A ping through the tunnel loses nothing while other peers, addresses, routes and DNS change; down and up do."""
    other = OTHER + f"\n[Peer]\nPublicKey = {KEYS[2]}\nAllowedIPs = 10.98.0.0/16\n"
    variants = [
        (tunnel + OTHER).replace("fd64::2/128", "fd64::2/128, 10.77.0.1/24, fd77::1/64"),
        (tunnel + other).replace("DNS = 10.64.0.1", "DNS = 10.64.0.9, a.example"),
        tunnel + OTHER.replace("10.99.0.0/16", "10.98.0.0/16, 10.96.0.0/16"),
        tunnel.replace("DNS = 10.64.0.1\n", ""),
    ]
    figures = {}
    for way in ("converge", "down and up"):
        write(tunnel)
        up()
        assert ping("wg", "10.64.0.1")
        argv = ["ip", "netns", "exec", "wg", "ping", "-n", "-i0.01", "-c800", "10.64.0.1"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            runs = 0
            while process.poll() is None:
                write(variants[runs % len(variants)])
                if way != "converge":
                    down()
                up()
                runs += 1
            assert process.stdout
            report = process.stdout.read()
        sent, received = re.findall(r"(\d+) packets transmitted, (\d+) received", report)[0]
        figures[way] = (int(sent), int(sent) - int(received), runs)
    with capsys.disabled():
        for way, (sent, lost, runs) in figures.items():
            print(f"\n{way}: {sent} packets, {lost} lost, {runs} runs", end="")
    assert figures["converge"][1] == 0
    assert figures["converge"][2] >= 4
    assert figures["down and up"][1] > 0
