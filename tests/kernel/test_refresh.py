"""wgns refresh: endpoints of peers that do not answer, by the names in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.conftest import snapshot
from tests.kernel.test_imports import loaded
from tests.kernel.test_status import QUIET
from tests.kernel.test_tunnel import ping, provider, write
from tests.support import MINIMAL, POWERLESS, PRESHARED, run, shell
from wgns_helpers.signals import Lock

__all__ = ["provider"]


def hosts(*addresses: str) -> None:
    """Let vpn.example have these addresses and no others."""
    kept = [line for line in Path("/etc/hosts").read_text().splitlines() if "vpn.example" not in line]
    Path("/etc/hosts").write_text("\n".join(kept + [f"{address} vpn.example" for address in addresses]) + "\n")


def up(text: str, name: str = "wg") -> None:
    """Make a tunnel by this configuration, in a namespace that there is from then on."""
    write(text, name)
    shell(f"test -e /run/netns/{name} || ip netns add {name}")
    run("wg-up", name).check_returncode()


def configuration(name: str = "wg") -> str:
    """What the kernel has, keys too."""
    return shell(f"ip netns exec {name} wg showconf {name}")


def refresh(*arguments: str) -> str:
    """Run wgns refresh, which has to succeed; what it says."""
    done = run("wgns", "refresh", *arguments, env=QUIET)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr


@pytest.fixture
def named(provider: str) -> str:
    """The provider's configuration with a host name for the endpoint, and all that can be set besides."""
    text = provider.replace("192.0.2.2", "vpn.example").replace(
        "[Peer]", f"FwMark = 7\n[Peer]\nPresharedKey = {PRESHARED}"
    )
    return text + "PersistentKeepalive = 25\n"


def test_without_a_tunnel_it_loads_little() -> None:
    """It runs every minute: no pyroute2 where there is no tunnel, or no host name in its configuration."""
    shell("ip netns add wg; ip -n wg link add wg type ifb")
    for text in (None, MINIMAL, MINIMAL.replace("127.0.0.1:", "vpn.example:")):
        if text:
            write(text)
        names, code = loaded("wgns", "refresh")
        assert (code, refresh()) == (0, "")
        assert not {"pyroute2", "asyncio", "json", "subprocess"} & {name.partition(".")[0] for name in names}


def test_what_is_not_there(unchanged: None) -> None:
    """A tunnel that is asked for and missing is 69, without a configuration it is 78, and without root 77."""
    assert run("wgns", "refresh", "wg").returncode == 69
    shell("ip netns add wg")
    assert run("wgns", "refresh", "wg").returncode == 78
    shell("mkdir -p /etc/wireguard; mkfifo /etc/wireguard/wg.conf")  # which holds nobody up
    assert run("wgns", "refresh").returncode == 78
    shell("rm /etc/wireguard/wg.conf")
    write(MINIMAL.replace("127.0.0.1:", "vpn.example:"))
    done = run("wgns", "refresh", "wg")
    assert (done.returncode, done.stderr.splitlines()[0]) == (69, 'wgns: namespace "wg" has no WireGuard link "wg"')
    assert run("wgns", "refresh", "wg", before=POWERLESS).returncode == 77
    assert run("wgns", "refresh", before=POWERLESS).returncode == 77
    shell("ip netns del wg")


@pytest.mark.wireguard
def test_a_name_that_has_another_address(named: str) -> None:
    """The endpoint follows, in place, and nothing else changes; where there is nothing to do nothing is said."""
    hosts("192.0.2.77")
    up(named)
    before, links = configuration(), snapshot()
    assert refresh() == ""
    hosts("192.0.2.2")
    line = 'wgns: "wg": peer 1: endpoint vpn.example:51820 is 192.0.2.2:51820 now, no longer 192.0.2.77:51820\n'
    assert refresh() == line
    assert configuration() == before.replace("192.0.2.77", "192.0.2.2") != before
    assert snapshot() == links


@pytest.mark.wireguard
def test_it_never_loads_pyroute2(named: str) -> None:
    """Nor a thread pool or json: neither where there is nothing to do nor where it looks a name up and moves a peer."""
    hosts("192.0.2.77")
    up(named)
    for address in ("192.0.2.77", "192.0.2.2"):
        hosts(address)
        names, code = loaded("wgns", "refresh")
        assert code == 0
        assert not {"pyroute2", "asyncio", "concurrent", "json", "subprocess"} & {
            name.partition(".")[0] for name in names
        }
    assert "192.0.2.2:51820" in shell("ip netns exec wg wg show wg endpoints")


@pytest.mark.wireguard
def test_the_session_comes_back(provider: str) -> None:
    """A provider that has moved is found by its new address, without wg-up, and the tunnel works again."""
    hosts("192.0.2.77")
    up(provider.replace("192.0.2.2", "vpn.example"))
    hosts("192.0.2.2")
    assert "192.0.2.2:51820 now" in refresh("wg")
    assert ping("wg", "10.64.0.1")
    assert refresh() == ""


@pytest.mark.wireguard
def test_one_of_two_addresses_is_dead(provider: str) -> None:
    """The next one gets its turn, until one answers; that one is left alone then."""
    hosts("192.0.2.77", "192.0.2.78", "192.0.2.2")
    up(provider.replace("192.0.2.2", "vpn.example"))
    shell("ip netns exec wg wg set wg peer $(ip netns exec wg wg show wg peers) endpoint 192.0.2.77:51820")
    tried = []
    for _ in range(3):
        tried.append(shell("ip netns exec wg wg show wg endpoints").split()[1])
        if tried[-1] == "192.0.2.2:51820":
            break
        assert not ping_once()
        assert refresh().count("\n") == 1
    assert len(set(tried)) == len(tried)
    assert ping("wg", "10.64.0.1")
    assert refresh() == ""


def ping_once() -> bool:
    """Whether the far side answers within a second."""
    return shell("ip netns exec wg ping -n -c1 -W1 10.64.0.1 > /dev/null && echo yes || :") == "yes\n"


@pytest.mark.wireguard
def test_addresses_without_a_route_are_left_out(provider: str) -> None:
    """A host without IPv6 does not look for its peer there, unless there is nothing else."""
    shell("ip -6 addr flush dev uplink")
    hosts("192.0.2.77", "2001:db8::2")
    up(provider.replace("192.0.2.2", "vpn.example"))
    before = configuration()
    assert refresh() == ""
    assert configuration() == before


@pytest.mark.wireguard
def test_who_is_alive_is_left_alone(provider: str) -> None:
    """It may have roamed, whatever its name says; a literal endpoint is left alone dead or alive."""
    hosts("192.0.2.2")
    up(provider.replace("192.0.2.2", "vpn.example"))
    shell("ip netns exec wg wg set wg peer $(ip netns exec wg wg show wg peers) endpoint '[2001:db8::2]:51820'")
    assert ping("wg", "10.64.0.1")
    before = configuration()
    assert refresh() == ""
    up(provider.replace("192.0.2.2", "192.0.2.9"), "dead")
    shell("ip netns exec dead wg set dead peer $(ip netns exec dead wg show dead peers) endpoint 192.0.2.8:1")
    assert refresh() == ""
    assert configuration() == before


@pytest.mark.wireguard
def test_a_name_that_does_not_resolve(named: str) -> None:
    """The others are done, and the exit status is 75; configurations are not warned of again and again."""
    hosts("192.0.2.77")
    for name in ("a", "wg"):
        up(named.replace("[Peer]", "PostUp = x\n[Peer]", 1), name)
    write(named.replace("vpn.example", "gone.example"), "a")
    hosts("192.0.2.2")
    done = run("wgns", "refresh", env=QUIET)
    assert done.returncode == 75
    first, last, hint = done.stderr.splitlines()
    assert first.startswith('wgns: "wg": peer 1: endpoint vpn.example:51820 is 192.0.2.2:51820 now')
    assert last.startswith('wgns: endpoint "gone.example" does not resolve: ')
    assert hint.startswith("wgns: hint: getent ahosts")
    Path("/etc/wireguard/a.conf").unlink()
    assert run("wgns", "refresh").returncode == 0
    assert run("wgns", "refresh", "a").returncode == 78


@pytest.mark.wireguard
def test_a_tunnel_that_wg_up_works_on(named: str) -> None:
    """It is left to that, with a line, and not waited for."""
    hosts("192.0.2.77")
    up(named)
    hosts("192.0.2.2")
    before = configuration()
    with Lock("wg"):
        said = refresh()
    assert said.startswith('wgns: "wg" is left out: another program has had the lock')
    assert said.count("\n") == 1
    assert configuration() == before
    assert refresh() != ""
