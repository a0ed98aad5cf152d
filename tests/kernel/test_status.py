"""wgns status: what it says of tunnels that are alive, stale, changed, gone, or not to be seen."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import snapshot
from tests.kernel.test_tunnel import ping, provider, public, write
from tests.support import MINIMAL, POWERLESS, PRESHARED, PUBLIC, ROOT, run, shell
from wgns_helpers import dns_files, status
from wgns_helpers.tunnel import Network, Peer, Session, Tunnel

__all__ = ["provider"]

# The documented form of --json: what each part can be
TUNNEL: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "namespace": (str,),
    "inode": (int,),
    "inside": (dict,),
    "name_servers": (list, type(None)),
    "search": (list, type(None)),
    "present": (bool, type(None)),
    "up": (bool, type(None)),
    "public_key": (str, type(None)),
    "listen_port": (int, type(None)),
    "addresses": (list, type(None)),
    "mtu": (int, type(None)),
    "peers": (list, type(None)),
    "differences": (list, type(None)),
    "unseen": (list,),
    "faults": (list,),
}
PEER: dict[str, tuple[type, ...]] = {
    "public_key": (str,),
    "state": (str,),
    "handshake": (int, type(None)),
    "endpoint": (str,),
    "received": (int,),
    "sent": (int,),
    "allowed_ips": (list,),
    "keepalive": (int,),
    "may_idle": (bool,),
}
# Another clock in the program's process is what makes a handshake old
LATER = "import sys, time; now = time.time; time.time = lambda: now() + {}; sys.argv[0] = 'wgns'; "
LATER += "from wgns_helpers import cli; cli.main('wgns')"


QUIET = {"PYTHONDEVMODE": ""}  # in which asyncio, which pyroute2 uses, says what takes it 0.1 s


def keys() -> set[str]:
    """The public keys of the links and peers that the tests make."""
    said = shell("for name in $(ip netns list | cut -d' ' -f1); do ip netns exec $name wg show all dump || :; done")
    found = set()
    for line in map(str.split, said.splitlines()):
        found.add(line[2] if len(line) == 5 else line[1])
    return found


def ask(*arguments: str, before: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """The exit status of wgns status, what it prints, and what it says."""
    done = run("wgns", "status", *arguments, before=before, public=keys(), env=QUIET)
    return done.returncode, done.stdout, done.stderr


def asked(*arguments: str, before: tuple[str, ...] = ()) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and the tunnels of --json, which has the documented form."""
    code, printed, _ = ask(*arguments, "--json", before=before)
    found = json.loads(printed)
    assert found.keys() == {"tunnels"}
    for tunnel in found["tunnels"]:
        check_form(tunnel, TUNNEL)
        for peer in tunnel["peers"] or ():
            check_form(peer, PEER)
            assert peer["state"] in ("alive", "stale", "never")
    return code, found["tunnels"]


def check_form(part: dict[str, Any], form: dict[str, tuple[type, ...]]) -> None:
    """All keys are there, no others, and each value has a type that it may have."""
    assert part.keys() == form.keys()
    for key, value in part.items():
        assert type(value) in form[key], (key, value)


def later(seconds: int) -> tuple[int, dict[str, Any], str]:
    """As `asked` for one tunnel, with the clock so many seconds ahead; and what is said."""
    argv = [sys.executable, "-c", LATER.format(seconds), "status", "wg", "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)["tunnels"][0], done.stderr


@pytest.fixture
def tunnel(provider: str) -> str:
    """A tunnel with a session; its configuration."""
    write(provider)
    shell("ip netns add wg")
    assert run("wg-up").returncode == 0
    assert ping("wg", "10.64.0.1")
    return provider


def test_readme_has_the_form_of_the_json() -> None:
    """Each key stands in the README."""
    readme = (ROOT / "README.md").read_text()
    assert [key for key in (*TUNNEL, *PEER) if f"`{key}`" not in readme] == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "never"),
        (0, "0 seconds ago"),
        (1, "1 second ago"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (7200, "2 hours ago"),
        (86400, "1 day ago"),
    ],
)
def test_ages_in_words(seconds: int | None, words: str) -> None:
    """The largest unit that is filled."""
    assert status.age(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (3 << 20, "3.00 MiB"), (5 << 40, "5120.00 GiB")],
)
def test_sizes_in_words(count: int, words: str) -> None:
    """In powers of 1024, as wg(8) has them."""
    assert status.size(count) == words


@pytest.mark.parametrize(
    ("handshake", "state", "age"),
    [(0, "never", None), (10_000, "alive", 0), (10_100, "alive", 0), (9_821, "alive", 179), (9_820, "stale", 180)],
)
def test_the_state_goes_by_the_clock(handshake: int, state: str, age: int | None) -> None:
    """Alive until WireGuard's REJECT_AFTER_TIME after the handshake; one in the future is of a clock put back."""
    found = status.peer_at(Peer(b"k" * 32), Session(handshake), 10_000)
    assert (found["state"], found["handshake"]) == (state, age)


@pytest.mark.parametrize(
    ("keepalive", "prefixes", "may_idle"),
    [(0, [8], True), (25, [8], False), (0, [0], False), (0, [8, 1], False), (0, [], True)],
)
def test_who_may_be_idle(keepalive: int, prefixes: list[int], may_idle: bool) -> None:
    """A peer without keepalive that has neither a default route nor half of one."""
    allowed = tuple(Network(socket.AF_INET, bytes(4), prefix) for prefix in prefixes)
    assert status.peer_at(Peer(b"k" * 32, b"", None, keepalive, allowed), Session(), 1)["may_idle"] is may_idle


def test_no_tunnel(unchanged: None) -> None:
    """Without any there is nothing to say; one that is asked for is missing: its namespace, or its link in that."""
    shell("mkdir -p /run/netns; touch /run/netns/file; ip netns add wg; ip -n wg link add wg type ifb")
    assert ask() == (0, "", "")
    assert ask("file")[0] == 69
    assert ask("nobody")[::2] == (
        69,
        'wgns: there is no network namespace "nobody"\nwgns: hint: netns-up nobody makes one\n',
    )
    code, printed, said = ask("wg")
    assert (code, said) == (69, 'wgns: "wg": there is no such WireGuard link\n')
    assert "present:        no\n" in printed
    shell("rm /run/netns/file; ip netns del wg")


def test_who_is_inside() -> None:
    """By unit and number, with names that cannot move the cursor; processes elsewhere are not named."""
    shell("ip netns add wg; cp $(command -v sleep) '/run/s\x1bp'")
    inside = subprocess.Popen(["nsenter", "--net=/run/netns/wg", "/run/s\x1bp", "60"])
    outside = subprocess.Popen(["sleep", "60"])
    try:
        while Path(f"/proc/{inside.pid}/comm").read_text() != "s\x1bp\n":
            pass
        code, (found,) = asked("wg")
        assert (code, list(found["inside"].values())) == (69, [{str(inside.pid): "s\x1bp"}])
        assert f": {inside.pid} s?p\n" in ask("wg")[1]
    finally:
        for process in (inside, outside):
            process.kill()
            process.wait()
        Path("/run/s\x1bp").unlink()


@pytest.mark.parametrize(
    ("groups", "unit"),
    [
        ("0::/system.slice/transmission.service", "transmission.service"),
        ("0::/system.slice/system-getty.slice/getty@tty1.service/inner", "getty@tty1.service"),
        ("0::/user.slice/user-1.slice/user@1.service/app.slice/web.scope", "web.scope"),
        ("12:cpu:/x.service\n1:name=systemd:/system.slice/old.service", "old.service"),
        ("0::/", ""),
    ],
)
def test_the_unit_of_a_process(groups: str, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the innermost in the path of the control group."""
    monkeypatch.setattr(status, "_read", lambda _: f"{groups}\n")
    shell("ip netns add wg")
    with subprocess.Popen(["nsenter", "--net=/run/netns/wg", "sleep", "60"]) as process:
        while not list(status.look("wg")["inside"]):
            pass
        assert list(status.look("wg")["inside"]) == [unit]
        process.kill()


def test_without_root() -> None:
    """What can be seen is shown, what cannot is said, and the exit status is 77, not one that promises something."""
    shell("ip netns add wg")
    dns_files.write(dns_files.diff("wg", "wg", Tunnel(b"", dns=("10.64.0.1",), search=("a.example",))))
    for arguments in ((), ("wg",)):
        code, (found,) = asked(*arguments, before=POWERLESS)
        assert (code, found["name"], found["present"], found["faults"]) == (77, "wg", None, [])
        assert (found["name_servers"], found["search"]) == (["10.64.0.1"], ["a.example"])
        assert found["inode"] == Path("/run/netns/wg").stat().st_ino
        assert found["unseen"][-1] == "the tunnel itself: cannot enter the network namespace: operation not permitted"
    code, printed, said = ask("wg", before=POWERLESS)
    assert "public key:     ?\n" in printed
    assert said == 'wgns: "wg" cannot be looked into\nwgns: hint: run it as root\n'
    assert ask("nobody", before=POWERLESS)[0] == 69


@pytest.mark.wireguard
def test_a_tunnel_that_is_alive(tunnel: str) -> None:
    """Everything about it, in words and as JSON; the exit status is 0, and nothing has been changed."""
    before = snapshot()
    code, (found,) = asked("wg")
    private = re.findall("PrivateKey = (.*)", tunnel)[0]
    assert (code, found["faults"], found["unseen"], found["differences"]) == (0, [], [], [])
    assert (found["present"], found["up"], found["mtu"]) == (True, True, 1320)
    assert found["public_key"] == public(private)
    assert str(found["listen_port"]) == shell("ip netns exec wg wg show wg listen-port").strip()
    assert found["addresses"] == ["10.64.0.2/32", "fd64::2/128"]
    (peer,) = found["peers"]
    assert (peer["state"], peer["endpoint"]) == ("alive", "192.0.2.2:51820")
    assert peer["allowed_ips"] == ["0.0.0.0/0", "::/0"]
    assert 0 <= peer["handshake"] < 60
    assert shell("ip netns exec wg wg show wg transfer").split()[1:] == [str(peer["received"]), str(peer["sent"])]
    code, printed, said = ask("wg")
    assert (code, said) == (0, "")
    assert re.search(r"^  handshake:    \d+ seconds? ago\n", printed, re.MULTILINE)
    assert "  state:        alive\n" in printed
    assert "differences:    none\n" in printed
    code, printed, said = ask()
    assert (code, said) == (0, "")
    assert re.fullmatch(r"wg: last handshake \d+ seconds? ago; [\d.]+ K?i?B received; [\d.]+ K?i?B sent\n", printed)
    assert snapshot() == before


@pytest.mark.wireguard
def test_a_provider_that_is_gone(tunnel: str) -> None:
    """It is said 180 s after the last handshake, WireGuard's own time, and not before."""
    shell("ip -n provider link set server down")
    code, found, said = later(170)
    assert (code, found["peers"][0]["state"], said) == (0, "alive", "")
    code, found, said = later(181)
    assert (code, found["peers"][0]["state"]) == (1, "stale")
    assert re.fullmatch(r'wgns: "wg": peer "[^"]{8}…": last handshake 3 minutes ago\n', said)


@pytest.mark.wireguard
def test_a_peer_that_has_never_answered(provider: str) -> None:
    """It is a fault, and so is a link that is down."""
    write(MINIMAL)
    shell("ip netns add wg")
    assert run("wg-up").returncode == 0
    code, (found,) = asked("wg")
    assert (code, found["peers"][0]["state"], found["peers"][0]["handshake"]) == (1, "never", None)
    shell("ip -n wg link set wg down")
    assert ask("wg")[2].startswith('wgns: "wg": the interface is down; peer "xTIBA5rb…": last handshake never; not as')


@pytest.mark.wireguard
def test_a_peer_that_may_be_idle(tunnel: str) -> None:
    """Without keepalive and default route nothing may have been sent: shown as stale, and no fault."""
    write(tunnel.replace("0.0.0.0/0, ::/0", "10.64.0.0/24"))
    assert run("wg-up").returncode == 0
    code, found, _ = later(1000)
    assert (code, found["peers"][0]["state"], found["peers"][0]["may_idle"]) == (0, "stale", True)
    write(tunnel.replace("0.0.0.0/0, ::/0", "10.64.0.0/24\nPersistentKeepalive = 25"))
    assert run("wg-up").returncode == 0
    assert later(1000)[0] == 1


@pytest.mark.wireguard
def test_differences_from_the_configuration(tunnel: str) -> None:
    """In the words of wg-up --dry-run, with no word of warning besides; without a configuration that is said."""
    write(tunnel.replace("[Peer]", f"PostUp = x\nListenPort = 40009\n[Peer]\nPresharedKey = {PRESHARED}"))
    shell("ip -n wg route del default; echo nameserver 10.64.0.9 > /run/wgns/wg/resolv.conf")
    code, (found,) = asked("wg")
    assert (code, found["differences"]) == (1, run("wg-up", "--dry-run").stdout.splitlines())
    assert ask("wg")[2] == (
        'wgns: "wg": not as configured: listen port 40009; not as configured: peer 1: preshared key (not shown); '
        "not as configured: route default (IPv4)\n"
    )
    write(tunnel.replace("192.0.2.2", "nowhere.example"))
    code, (found,) = asked("wg")
    assert (code, found["differences"]) == (0, None)
    assert found["unseen"][0].startswith('what differs from the configuration: endpoint "nowhere.example" does not')
    Path("/etc/wireguard/wg.conf").unlink()
    code, (found,) = asked("wg")
    assert (code, found["unseen"]) == (
        0,
        ['what differs from the configuration: "/etc/wireguard/wg.conf": no such file or directory'],
    )


@pytest.mark.wireguard
def test_all_tunnels_in_a_line_each(tunnel: str) -> None:
    """Namespaces without a tunnel are not among them; the worst one gives the exit status."""
    shell("ip netns add other; ip netns add zero")
    write(MINIMAL, "other")
    assert run("wg-up", "other").returncode == 0
    code, printed, said = ask()
    assert (code, said) == (1, 'wgns: "other": peer "xTIBA5rb…": last handshake never\n')
    assert [line.partition(":")[0] for line in printed.splitlines()] == ["other", "wg"]
    assert [(found["name"], bool(found["faults"])) for found in asked()[1]] == [("other", True), ("wg", False)]
    assert PUBLIC not in printed
    run("wg-down", "other").check_returncode()
    assert ask()[0] == 0
