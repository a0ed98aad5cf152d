"""wgns status: what it says of tunnels that are alive, stale, changed, gone, or not to be seen."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import pages
from tests.kernel.conftest import snapshot
from tests.kernel.test_tunnel import ping, provider, public, write
from tests.support import MINIMAL, POWERLESS, PRESHARED, PUBLIC, ROOT, run, shell
from wgns_helpers import dns_files, netns, refresh, report, status
from wgns_helpers.tunnel import Endpoint, Peer, Session, Tunnel

__all__ = ["provider"]

# The documented form of --json: what each part can be
TUNNEL: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "unit": (str,),
    "unit_state": (str,),
    "namespace": (str,),
    "inode": (int,),
    "inside": (dict,),
    "confined": (dict,),
    "published": (list,),
    "reaches": (list,),
    "name_servers": (list, type(None)),
    "search": (list, type(None)),
    "present": (bool, type(None)),
    "up": (bool, type(None)),
    "public_key": (str, type(None)),
    "listen_port": (int, type(None)),
    "addresses": (list, type(None)),
    "mtu": (int, type(None)),
    "open_ports": (list, type(None)),
    "peers": (list, type(None)),
    "differences": (list, type(None)),
    "unseen": (list,),
    "faults": (list,),
    "hints": (list,),
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
            assert peer["state"] in ("alive", "waiting", "idle", "stale", "never")
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


def test_the_man_page_has_the_form_of_the_json() -> None:
    """wgns(8) explains each key and each state of a peer, and nothing else."""
    page = pages.source("wgns.8")
    assert sorted(pages.tags(pages.section(page, "JSON"))) == sorted([*TUNNEL, *PEER])
    assert pages.tags(pages.section(page, "STATES OF A PEER")) == ["alive", "waiting", "idle", "never", "stale"]


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
    assert report.size(count) == words


@pytest.mark.parametrize(
    ("handshake", "state", "age"),
    [(0, "waiting", None), (10_000, "alive", 0), (10_100, "alive", 0), (9_821, "alive", 179), (9_820, "stale", 180)],
)
def test_the_state_goes_by_the_clock(handshake: int, state: str, age: int | None) -> None:
    """Alive until WireGuard's REJECT_AFTER_TIME after the handshake; one in the future is of a clock put back."""
    found = status.peer_at(Peer(b"k" * 32), Session(handshake), 10_000)
    assert (found["state"], found["handshake"]) == (state, age)


@pytest.mark.parametrize(
    ("keepalive", "former", "now", "state"),
    [
        (0, None, Session(0, 0, 0), "waiting"),
        (25, None, Session(0, 0, 0), "waiting"),
        (25, Session(0, 0, 0), Session(0, 0, 0), "never"),
        (0, None, Session(0, 0, 148), "never"),
        (0, Session(0, 0, 148), Session(10_000, 92, 180), "alive"),
        (0, Session(1, 9, 9), Session(1, 9, 9), "idle"),
        (0, Session(1, 9, 9), Session(1, 9, 157), "stale"),
        (0, Session(1, 9, 9), Session(10_000, 101, 189), "alive"),
        (25, Session(1, 9, 9), Session(1, 9, 9), "stale"),
        (0, Session(0, 0, 148), Session(0, 0, 148), "never"),
    ],
)
def test_the_state_goes_by_what_was_sent(keepalive: int, former: Session | None, now: Session, state: str) -> None:
    """Nothing sent yet is no fault; of two looks, nothing sent between them makes idle of stale, but for keepalives."""
    peer = Peer(b"k" * 32, b"", Endpoint("192.0.2.1", 1), keepalive)
    found = status.peer_at(peer, now, 10_000, former)
    assert (found["state"], found["may_idle"]) == (state, not keepalive)


def test_a_peer_without_an_endpoint_waits() -> None:
    """Nothing can be sent to it before it comes by itself, so that is no fault, also where another one is watched."""
    found = status.peer_at(Peer(b"k" * 32, keepalive=25), Session(0), 10_000, Session(0))
    assert found["state"] == "waiting"


class Sessions:
    """Stands for a link whose one peer has these sessions, one at each look, and the last one from then on."""

    def __init__(self, *sessions: Session) -> None:
        self.sessions = list(sessions)

    def read(self) -> tuple[Tunnel, dict[bytes, Session]]:
        """As wireguard.Link has it."""
        session = self.sessions.pop(0) if len(self.sessions) > 1 else self.sessions[0]
        return Tunnel(b"", peers=(Peer(b"k" * 32),)), {b"k" * 32: session}

    def __exit__(self, *_: object) -> None:
        """As wireguard.Link has it."""


def test_all_doubtful_peers_share_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when all are alive, or when the kernel would have tried a handshake again with each."""
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr("time.time", lambda: 10_000.0)
    old, tried, answered = Session(1, 9, 9), Session(1, 9, 157), Session(9_999, 101, 189)

    def settled(*links: Sessions) -> tuple[list[str], float]:
        began, key = clock[0], b"k" * 32
        tunnels: list[dict[str, Any]] = [{"peers": [status.peer_at(Peer(key), old, 10_000)]} for _ in links]
        watched = [(tunnel, link, {key: old}) for tunnel, link in zip(tunnels, links, strict=True)]
        status._watch(watched)  # type: ignore[arg-type]  # noqa: SLF001
        return [tunnel["peers"][0]["state"] for tunnel in tunnels], round(clock[0] - began, 1)

    assert settled(Sessions(answered)) == (["alive"], 0.2)
    assert settled(Sessions(old, tried, answered)) == (["alive"], 0.6)
    states, seconds = settled(Sessions(old, tried))
    assert (states, 6 <= seconds < 6.5) == (["stale"], True)
    states, seconds = settled(Sessions(old), Sessions(old), Sessions(old, tried), Sessions(answered))
    assert states == ["idle", "idle", "stale", "alive"]
    assert 6 <= seconds < 6.5
    assert settled() == ([], 0)


def test_no_tunnel(unchanged: None) -> None:
    """Without any it says so; one that is asked for is missing: its namespace, or its link in that."""
    nothing = "wgns: there is no tunnel\nwgns: hint: put the provider's file at /etc/wireguard/NAME.conf; "
    nothing += "systemctl enable --now wg@NAME\n"
    assert ask() == (69, "", nothing)
    shell("mkdir -p /run/netns; touch /run/netns/file; ip netns add wg; ip -n wg link add wg type ifb")
    assert ask() == (69, "", nothing)
    assert asked() == (69, [])
    assert ask("file")[0] == 69
    hint = "netns-up nobody makes one; systemctl start wg@nobody, a tunnel"
    assert ask("nobody")[::2] == (69, f'wgns: there is no network namespace "nobody"\nwgns: hint: {hint}\n')
    code, printed, said = ask("wg")
    assert (code, said) == (69, 'wgns: "wg": there is no such WireGuard link\nwgns: hint: wg-up wg\n')
    assert "present:        no\n" in printed
    write(MINIMAL)
    code, printed, again = ask()
    assert (code, again) == (69, said)
    assert re.split(" {2,}", printed.splitlines()[1])[1:] == [
        *("fault", "-", "-", "-"),
        "there is no such WireGuard link; hint: wg-up wg",
    ]
    shell("rm /run/netns/file; ip netns del wg")


@pytest.fixture
def enabled() -> Iterator[Path]:
    """A folder in which symlinks are units that are enabled."""
    folder = Path("/etc/systemd/system/test.target.wants")
    folder.mkdir(parents=True)
    yield folder
    shell(f"rm -r {folder}")


def test_a_unit_that_is_enabled_and_not_there(enabled: Path) -> None:
    """It is a line and a fault, by its tunnel's name; with its tunnel there, it is none."""
    for unit in ("wg@my\\x2dvpn.service", "wg@other-vpn.service", "wg.service", "wg-quick@x.service", "wg@.service"):
        (enabled / unit).symlink_to("/dev/null")
    code, found = asked()
    assert code == 69
    assert {tunnel["name"]: tunnel["unit"] for tunnel in found} == {
        "my-vpn": "wg@my\\x2dvpn.service",
        "other-vpn": "wg@other-vpn.service",
        "wg": "wg.service",
    }
    assert found[2]["faults"] == ["wg.service is enabled, but it is not running"]
    assert found[2]["hints"] == ["systemctl start wg"]
    assert (found[2]["inode"], found[2]["present"], found[2]["unit_state"]) == (0, False, "inactive")
    assert ask("other-vpn")[0] == 69
    assert ask("my-vpn")[2].startswith('wgns: "my-vpn": wg@my\\x2dvpn.service is enabled, but it is not running\n')


@pytest.mark.parametrize(
    ("states", "unit"),
    [
        ({"wg.service": "failed", "wg@wg.service": "active"}, "wg@wg.service"),
        ({"wg.service": "activating", "wg@wg.service": "failed"}, "wg.service"),
        ({"wg.service": "inactive", "wg@wg.service": "failed"}, "wg@wg.service"),
        ({"wg.service": "inactive"}, None),
    ],
)
def test_of_two_units_of_a_tunnel(states: dict[str, str], unit: str | None) -> None:
    """The livelier one counts, and one that is inactive and not enabled does not."""
    properties = {unit: {"Id": unit, "ActiveState": state} for unit, state in states.items()}
    assert status._tunnels(properties) == ({"wg": unit} if unit else {})  # noqa: SLF001


@pytest.mark.skipif(not shutil.which("systemctl"), reason="there is no systemctl")
def test_a_systemd_that_does_not_answer() -> None:
    """It is said, since units that have failed are not seen then."""
    shell("mkdir -p /run/systemd/system")
    said = ask()[2]
    shell("rm -r /run/systemd/system")
    assert said.startswith("wgns: warning: systemd does not answer: units are left out\n")


def tunnel_of(**changes: Any) -> dict[str, Any]:
    """A tunnel that is as it should be, but for these."""
    found = {"name": "wg", "unit": "wg@wg.service", "unit_state": "active", "present": True, "inode": 1, "up": True}
    return {**found, "peers": [], "differences": [], "confined": {}, **changes}


PEERS = {state: {"public_key": "x" * 44, "state": state, "handshake": 200} for state in ("alive", "stale", "never")}


@pytest.mark.parametrize(
    ("changes", "result", "fault", "hint"),
    [
        ({}, "success", None, None),
        ({"unit": "", "unit_state": "", "differences": ["up"]}, "", "not as configured: up", "wg-up wg"),
        ({"differences": ["up"]}, "success", "not as configured: up", "systemctl reload wg@wg"),
        ({"up": False}, "success", "the interface is down", "systemctl reload wg@wg"),
        (
            {"unit_state": "failed", "present": False},
            "exit-code",
            "wg@wg.service has failed (exit-code)",
            "journalctl -u wg@wg tells why",
        ),
        (
            {"unit_state": "activating", "present": False},
            "exit-code",
            "wg@wg.service is starting (exit-code)",
            "journalctl -u wg@wg tells why",
        ),
        ({"unit_state": "inactive"}, "success", None, None),
        ({"present": False}, "success", "there is no such WireGuard link", "systemctl reload wg@wg"),
        (
            {"present": False, "inode": 0},
            "success",
            'there is no network namespace "wg"',
            "systemctl restart netns@wg",
        ),
        ({"peers": [PEERS["alive"]]}, "success", None, None),
        (
            {"peers": [PEERS["never"]]},
            "success",
            'peer "xxxxxxxx…" has never answered',
            "are the keys right, and known to the provider? does UDP to the endpoint get through?",
        ),
        (
            {"peers": [PEERS["stale"]]},
            "success",
            'peer "xxxxxxxx…" does not answer: last handshake 3 minutes ago',
            "are the keys right, and known to the provider? does UDP to the endpoint get through?",
        ),
        (
            {"confined": {"a.service": "nsswitch.conf: it is another"}},
            "success",
            "a.service: nsswitch.conf: it is another",
            "wgns refresh wg; if that does not help: systemctl restart a.service",
        ),
        (
            {"confined": {"": "resolv.conf: it is another"}},
            "success",
            "a command: resolv.conf: it is another",
            "start the command again",
        ),
        ({"confined": {"a.service": "host: it is seen", "b.service": None, "": "confined"}}, "success", None, None),
    ],
)
def test_faults_and_hints(changes: dict[str, Any], result: str, fault: str | None, hint: str | None) -> None:
    """Each fault has the command that mends it, or tells more."""
    faults, hints = status._faults(tunnel_of(**changes), result or "success", [], [])  # noqa: SLF001
    assert (faults, hints) == ([fault] if fault else [], [hint] if hint else [])


def on_terminal(*arguments: str, **environment: str) -> str:
    """What wgns status writes to a terminal."""
    terminal, ours = pty.openpty()
    argv = [sys.executable, str(ROOT / "bin/wgns"), "status", *arguments]
    cleared = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    subprocess.run(argv, stdout=ours, stderr=subprocess.DEVNULL, env={**cleared, **environment}, check=False)
    printed = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    os.close(ours)
    return printed


def test_color_on_a_terminal_only(enabled: Path) -> None:
    """A fault is red there, unless NO_COLOR (no-color.org) or the kind of terminal forbids it."""
    (enabled / "wg@gone.service").symlink_to("/dev/null")
    assert re.search(r"^\x1b\[31mgone .*\x1b\[0m\r$", on_terminal(TERM="linux"), re.MULTILINE)
    assert "\x1b[31mwg@gone.service is enabled" in on_terminal("gone", TERM="linux")
    assert "\x1b" in on_terminal(TERM="linux", NO_COLOR="")
    for environment in ({"TERM": "dumb"}, {"TERM": "linux", "NO_COLOR": "1"}, {}):
        assert "\x1b" not in on_terminal(**environment)
    assert "\x1b" not in ask()[1]


def test_columns_line_up(enabled: Path) -> None:
    """Whatever the names' lengths."""
    for name in ("a", "long-name-12345"):
        (enabled / f"wg@{name}.service").symlink_to("/dev/null")
    titles, first, second = ask()[1].splitlines()
    assert titles.split()[:5] == ["NAME", "STATE", "HANDSHAKE", "RECEIVED", "SENT"]
    assert titles.index("STATE") == first.index("fault") == second.index("fault")
    assert titles.index("INSIDE") == first.index("wg@a") == second.index("wg@long")


CONFINED = """
mount --bind /run/wgns/wg/resolv.conf /etc/resolv.conf
mount --bind /run/wgns/wg/nsswitch.conf /etc/nsswitch.conf
mkdir -p /run/new/netns
mount -t tmpfs none /run/new
mkdir /run/new/netns; : > /run/new/netns/wg
mount --bind /run/netns/wg /run/new/netns/wg
mount -n --move /run/new /run
exec sleep 60
"""


@pytest.fixture
def confined() -> Iterator[subprocess.Popen[bytes]]:
    """A process in the namespace of a tunnel without a link, with the tunnel's files as the drop-in mounts them."""
    write(MINIMAL)
    shell("ip netns add wg")
    dns_files.write(dns_files.diff("wg", "wg", Tunnel(b"", dns=("10.64.0.1",))))
    argv = ["nsenter", "--net=/run/netns/wg", "unshare", "--mount", "sh", "-euc", CONFINED]
    with subprocess.Popen(argv) as process:
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            assert process.poll() is None
        yield process
        process.kill()


@pytest.mark.skipif(not shutil.which("systemctl"), reason="there is no systemctl")
@pytest.mark.parametrize("file", ["resolv.conf", "nsswitch.conf"])
def test_a_file_that_is_renamed_into_place(
    confined: subprocess.Popen[bytes], file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a DHCP client does: the mount goes, and refresh says why it cannot mend it here, but leaves a scope alone."""
    monkeypatch.setattr(status, "_unit", lambda _: "a.service")
    assert refresh.mend("wg", [confined.pid]) == []
    shell(f"cp /etc/{file} /etc/{file}.new; mv /etc/{file}.new /etc/{file}")
    shell(f"mv /etc/{file} /etc/{file}.new")
    assert len(refresh.mend("wg", [confined.pid])) == 1
    shell(f"mv /etc/{file}.new /etc/{file}")
    (failure,) = refresh.mend("wg", [confined.pid])
    assert str(failure).startswith(f'"wg": a.service no longer sees the tunnel\'s {file}: ')
    assert (failure.code, failure.hint) == (75, "systemctl restart a.service")
    monkeypatch.setattr(status, "_unit", lambda _: "a.scope")
    assert refresh.mend("wg", [confined.pid]) == []


def test_a_process_that_ends_meanwhile(confined: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks at it: it has lost nothing."""
    samefile = os.path.samefile

    def late(*paths: str) -> bool:
        confined.kill()
        confined.wait()
        return samefile(*paths)

    monkeypatch.setattr(os.path, "samefile", late)
    monkeypatch.setattr(status, "_unit", lambda _: "a.service")
    assert refresh.mend("wg", [confined.pid]) == []


@pytest.mark.wireguard
@pytest.mark.parametrize("file", ["resolv.conf", "nsswitch.conf"])
def test_a_confined_process_that_loses_a_file(tunnel: str, file: str) -> None:
    """The point of wgns check that fails is beside it, and that is a fault."""
    argv = [sys.executable, str(ROOT / "bin/wgns"), "exec", "wg", "--user", "root", "sleep", "60"]
    with subprocess.Popen(argv) as process:
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            assert process.poll() is None
        code, (found,) = asked("wg")
        assert (code, list(found["confined"].values())) == (0, ["confined"])
        shell(f"cp /etc/{file} /etc/{file}.new; mv /etc/{file}.new /etc/{file}")
        code, (found,) = asked("wg")
        process.kill()
    (unit,) = found["inside"]
    lacks = f"{file}: /etc/{file} is not the one that wg-up wg wrote"
    assert (code, found["confined"]) == (1, {unit: lacks})
    assert found["faults"] == [f"{unit or 'a command'}: {lacks}"]


def test_a_process_that_never_had_the_files() -> None:
    """One that only is in the namespace sees the host's files by its own choice."""
    shell("ip netns add wg")
    dns_files.write(dns_files.diff("wg", "wg", Tunnel(b"", dns=("10.64.0.1",))))
    with subprocess.Popen(["nsenter", "--net=/run/netns/wg", "unshare", "--mount", "sleep", "60"]) as process:
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            pass
        (found,) = asked("wg")[1]
        process.kill()
    assert list(found["inside"].values()) == [{str(process.pid): "sleep"}]
    assert next(iter(found["confined"].values()))[:6] == "host: "
    assert refresh.mend("wg", [process.pid]) == []


def test_who_is_inside() -> None:
    """By unit and number, with names that cannot move the cursor; processes elsewhere are not named."""
    shell("ip netns add wg; cp $(command -v sleep) '/run/s\x1bp'")
    process = subprocess.Popen(["nsenter", "--net=/run/netns/wg", "/run/s\x1bp", "60"])
    outside = subprocess.Popen(["sleep", "60"])
    try:
        while Path(f"/proc/{process.pid}/comm").read_text() != "s\x1bp\n":
            pass
        code, (found,) = asked("wg")
        assert (code, list(found["inside"].values())) == (69, [{str(process.pid): "s\x1bp"}])
        assert f": {process.pid} s?p\n" in ask("wg")[1]
    finally:
        for each in (process, outside):
            each.kill()
            each.wait()
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
    monkeypatch.setattr(netns, "lines", lambda _: groups.splitlines())
    assert status._unit(1) == unit  # noqa: SLF001


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
    assert re.fullmatch(r"NAME .*\nwg +alive  \d+ seconds? ago  [\d.]+ K?i?B +[\d.]+ K?i?B\n", printed), printed
    assert re.search(r"^\x1b\[32mwg .*\x1b\[0m\r$", on_terminal(TERM="linux"), re.MULTILINE)
    assert snapshot() == before


@pytest.mark.wireguard
def test_a_provider_that_is_gone(tunnel: str) -> None:
    """It is said 180 s after the last handshake, WireGuard's own time, and not before: if something is sent."""
    time.sleep(11)  # 10 s after the last packet, the kernel tells the other side that it came (KEEPALIVE_TIMEOUT)
    shell("ip -n provider link set server down")
    code, found, said = later(140)
    assert (code, found["peers"][0]["state"], said) == (0, "alive", "")
    code, found, said = later(181)
    assert (code, found["peers"][0]["state"], said) == (0, "idle", "")
    with subprocess.Popen(["ip", "netns", "exec", "wg", "ping", "-qi", "0.5", "10.64.0.1"], stdout=-3) as sender:
        code, found, said = later(181)
        sender.kill()
    assert (code, found["peers"][0]["state"]) == (1, "stale")
    assert re.fullmatch(
        r'wgns: "wg": peer "[^"]{8}…" does not answer: last handshake 3 minutes ago\nwgns: hint: are the .*\n', said
    )


@pytest.mark.wireguard
def test_a_peer_that_has_never_answered(provider: str) -> None:
    """It waits for a first packet; after that it is a fault, and so is a link that is down."""
    write(MINIMAL)
    shell("ip netns add wg")
    assert run("wg-up").returncode == 0
    code, (found,) = asked("wg")
    assert (code, found["peers"][0]["state"], found["peers"][0]["handshake"]) == (0, "waiting", None)
    assert "  state:        waiting: nothing sent yet\n" in ask("wg")[1]
    ping("wg", "10.64.0.1")
    began = time.monotonic()
    code, (found,) = asked("wg")
    assert (code, found["peers"][0]["state"], found["peers"][0]["handshake"]) == (1, "never", None)
    assert time.monotonic() - began < 20  # 6 s, and the rest on a busy machine
    hint = "wgns: hint: are the keys right, and known to the provider? does UDP to the endpoint get through?\n"
    assert ask("wg")[2] == f'wgns: "wg": peer "xTIBA5rb…" has never answered\n{hint}'
    shell("ip -n wg link set wg down")
    assert ask("wg")[2].startswith('wgns: "wg": the interface is down; peer "xTIBA5rb…" has never answered; not as')


@pytest.mark.wireguard
def test_keepalives_that_cannot_be_sent() -> None:
    """Without a way to the endpoint nothing is sent, and that is no peace."""
    write(MINIMAL.replace("127.0.0.1:", "192.0.2.9:") + "PersistentKeepalive = 25\n")
    shell("ip netns add wg")
    assert run("wg-up").returncode == 0
    code, (found,) = asked("wg")
    assert (code, found["peers"][0]["state"], found["peers"][0]["sent"]) == (1, "never", 0)


@pytest.mark.wireguard
def test_a_first_answer_that_is_on_its_way(provider: str) -> None:
    """A status in the moment of the first packet waits for the handshake, which then is there."""
    write(provider)
    shell("ip netns add wg; tc qdisc add dev uplink root netem delay 400ms || :")
    assert run("wg-up").returncode == 0
    shell("ip netns exec wg ping -c 1 -W 0.1 10.64.0.1 || :")
    code, (found,) = asked("wg")
    assert (code, found["peers"][0]["state"]) == (0, "alive")


@pytest.mark.wireguard
def test_a_peer_that_is_idle(tunnel: str) -> None:
    """Without keepalive nothing is sent while there is nothing to send: idle, and no fault; with one it is dead."""
    time.sleep(11)  # as above
    for text in (tunnel, tunnel.replace("0.0.0.0/0, ::/0", "10.64.0.0/24")):
        write(text)
        assert run("wg-up").returncode == 0
        code, found, _ = later(1000)
        assert (code, found["peers"][0]["state"], found["peers"][0]["may_idle"]) == (0, "idle", True)
    write(tunnel + "PersistentKeepalive = 25\n")
    assert run("wg-up").returncode == 0
    began = time.monotonic()
    code, found, _ = later(1000)
    assert (code, found["peers"][0]["state"], found["peers"][0]["may_idle"]) == (1, "stale", False)
    assert time.monotonic() - began < 6


@pytest.mark.wireguard
def test_differences_from_the_configuration(tunnel: str) -> None:
    """In the words of wg-up --dry-run, with no word of warning besides; without a configuration that is said."""
    write(tunnel.replace("[Peer]", f"PostUp = x\nListenPort = 40009\n[Peer]\nPresharedKey = {PRESHARED}"))
    shell("ip -n wg route del default; echo nameserver 10.64.0.9 > /run/wgns/wg/resolv.conf")
    code, (found,) = asked("wg")
    assert (code, found["differences"]) == (1, run("wg-up", "--dry-run").stdout.splitlines())
    _, printed, said = ask("wg")
    assert said == (
        'wgns: "wg": not as configured: listen port 40009; not as configured: peer 1: preshared key (not shown); '
        "not as configured: route default (IPv4)\nwgns: hint: wg-up wg\n"
    )
    assert printed.endswith("hints:          wg-up wg\n")
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
    """Namespaces without a tunnel are not among them, unless they have a configuration; the first fault counts."""
    shell("ip netns add other; ip netns add zero")
    write(MINIMAL, "other")
    assert run("wg-up", "other").returncode == 0
    code, printed, said = ask()
    assert (code, said) == (0, "")
    assert [line.split()[:2] for line in printed.splitlines()[1:]] == [["other", "waiting"], ["wg", "alive"]]
    shell("ip -n other link set other down")
    code, printed, said = ask()
    assert (code, said.startswith('wgns: "other": the interface is down; not as configured: up; ')) == (1, True)
    assert [(found["name"], bool(found["faults"])) for found in asked()[1]] == [("other", True), ("wg", False)]
    assert PUBLIC not in printed
    run("wg-down", "other").check_returncode()
    assert ask()[::2] == (69, 'wgns: "other": there is no such WireGuard link\nwgns: hint: wg-up other\n')
    Path("/etc/wireguard/other.conf").unlink()
    assert ask()[0] == 0
