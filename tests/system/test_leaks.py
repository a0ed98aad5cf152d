"""Nothing but the tunnel's packets leaves the host for a confined service, whatever happens around it."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import faults
from tests.support import shell
from tests.system import admin, guest
from tests.system.capture import ENDPOINT, ENDPOINT_NAME, TUNNEL, Capture
from tests.system.guest import state, systemctl, wait_for
from tests.system.leak import HOST, MEMBER, RESOLVER, SOMEBODY, UPLINK, WAYS

SERVICE = "leak@demo.service"
RESOLV_CONF = Path("/etc/resolv.conf")
NAME_SERVER = f"nameserver {RESOLVER[0]}\n"


def configure(**other: str) -> None:
    """The tunnel's configuration, with the endpoint by name."""
    guest.configure(other={"Endpoint": f"{ENDPOINT_NAME}:{ENDPOINT[1]}", **other})


def rounds(place: str = "demo") -> list[dict[str, Any]]:
    """What the service there, "demo" or "host", has reached in each of its rounds so far."""
    return [json.loads(line) for line in Path(f"/var/lib/leak-{place}/rounds").read_text().splitlines()]


@contextlib.contextmanager
def probing(place: str = "demo") -> Iterator[None]:
    """Have the service there try all ways out, over and over, at least once."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(60)
        asked.connect(f"/var/lib/leak-{place}/socket")
        yield
        asked.shutdown(socket.SHUT_WR)
        assert not asked.recv(1)


def probe() -> dict[str, Any]:
    """Have the confined service try all ways out once; what it reached."""
    with probing():
        pass
    return rounds()[-1]


def probe_names() -> dict[str, Any]:
    """The same, and the names have been looked up by the tunnel's name server."""
    reached = probe()
    assert reached.get("DNS fresh") == reached.get("DNS cached") == sorted(MEMBER)
    return reached


def by_host(reached: dict[str, Any]) -> list[str]:
    """Of what was reached: the host's daemons, and the names that were not looked up by the tunnel's name server."""
    asked = ("DNS", "socket", "host")
    return [way for way, what in reached.items() if way.startswith(asked) and what != sorted(MEMBER)]


def outside(capture: Capture) -> tuple[Counter[str], dict[str, Any]]:
    """Have the host's own service, which is not confined, try all ways out once; what left by them, and was reached."""
    assert set(capture.taken()) <= {TUNNEL}
    with probing("host"):
        pass
    time.sleep(1)  # nobody is to be blamed for what comes late
    reached = rounds("host")[-1]
    assert reached.get("DNS fresh") == sorted(SOMEBODY)
    return capture.taken(), reached


@pytest.fixture(scope="module")
def capture() -> Iterator[Capture]:
    """The capture, the name servers, a tunnel, and two services that probe, one of them confined to it."""
    RESOLV_CONF.write_text(NAME_SERVER)
    shell("modprobe dns_resolver")  # as mounting cifs, or trying to, loads it
    configure()
    guest.confine(SERVICE, "demo")
    systemctl("start", "dns@internet", "dns@far", "leak@host")
    up()
    with contextlib.closing(Capture()) as capture:
        yield capture
    systemctl("stop", "leak@*", "dns@*", "nscd.service", "systemd-resolved.service")
    RESOLV_CONF.unlink()
    guest.clean()
    shell("rm -rf /var/lib/leak-*")
    assert guest.leftovers() == []


@pytest.fixture(autouse=True)
def _journal() -> Iterator[None]:
    """Have pytest show the journal's end after a failure."""
    yield
    print(shell("journalctl -n 60 -o short-monotonic --no-pager"))


def up() -> None:
    """Start the tunnel, and with it the confined service."""
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state(SERVICE) == "active")


def test_the_capture_sees_every_way_out(capture: Capture) -> None:
    """A service that is not confined gets out by each of the ways, but for those by daemons that do not run now."""
    left, reached = outside(capture)
    sockets = {"socket of nscd", "socket of resolved", "socket of D-Bus"}
    assert set(left) == set(WAYS) - sockets - {"DNS stub", "DNS varlink", "host's networks"}
    assert sockets & set(reached) == {"socket of D-Bus"}
    assert {"DNS keyring", "host's networks"} < set(reached)


def tunnel_up(_: Capture) -> None:
    """Tunnel up."""
    reached = probe_names()
    assert {f"TCP {SOMEBODY[0]} 80", f"TCP {SOMEBODY[1]} 80"} < set(reached)


def endpoint_dead(_: Capture) -> None:
    """Endpoint dead."""
    shell("ip -n internet link set far down")
    try:
        assert probe() == {}
    finally:
        shell("ip -n internet link set far up")


def tunnel_down(_: Capture) -> None:
    """Tunnel taken down by hand."""
    shell("wg-down demo")
    assert probe() == {}
    shell("wg-up demo")


def half_configured(_: Capture) -> None:
    """Half configured: wg-up killed after each system call."""
    for step in range(1, 100):
        faults.run("wg-down", "demo")
        ended = faults.run("wg-up", "demo", fault=faults.Fault(step, "SIGKILL", "after"))
        if not ended.status:
            break
        assert ended.status == -9, ended
        probe()
    assert step > 10


def configured_again(_: Capture) -> None:
    """Configured again and again."""
    with probing():
        for changed in ({"MTU": "1300"}, {"Address": "10.64.1.9/32"}, {"AllowedIPs": "10.0.0.0/8"}, {"DNS": ""}, {}):
            configure(**changed)
            shell("wg-up demo")


def reloaded(_: Capture) -> None:
    """Reloaded."""
    with probing():
        for mtu in ("1300", ""):
            configure(MTU=mtu)
            systemctl("reload", "wg@demo.service")


def name_removed(_: Capture) -> None:
    """Namespace's name removed by hand."""
    with probing():
        shell("netns-down demo")
    systemctl("restart", SERVICE, check=False)
    systemctl("stop", "netns@demo.service")
    up()


def doors_open(_: Capture) -> None:
    """A port published, and one of the host reached."""
    shell(f"wgns publish demo 9091 10.64.0.1:80; wgns reach demo 9092 {HOST[0]}:81")
    with probing():
        for where, port in (("", 9091), ("ip netns exec demo", 9092)):
            code = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/', timeout=60)"
            shell(f'{where} python3 -c "{code}"')
    probe_names()
    shell("wgns release publish-demo-9091 reach-demo-9092")


def restarted(_: Capture) -> None:
    """Service restarted."""
    for _time in range(3):
        systemctl("restart", SERVICE)


def resolved_running(capture: Capture) -> None:
    """Daemon systemd-resolved running."""
    config = Path("/run/systemd/resolved.conf.d/test.conf")
    config.parent.mkdir(exist_ok=True)
    # It would announce the host's name by LLMNR when it starts.
    config.write_text(f"[Resolve]\nDNS={RESOLVER[0]}\nLLMNR=no\nMulticastDNS=no\n")
    RESOLV_CONF.unlink()
    RESOLV_CONF.symlink_to("/run/systemd/resolve/stub-resolv.conf")
    systemctl("start", "systemd-resolved.service")
    left, reached = outside(capture)
    assert set(left) > {"DNS varlink", "DNS stub"}
    assert set(reached) > {"DNS varlink", "DNS stub", "socket of resolved"}
    probe()
    systemctl("restart", SERVICE)
    probe_names()
    systemctl("stop", "systemd-resolved.service")
    RESOLV_CONF.unlink()
    RESOLV_CONF.write_text(NAME_SERVER)
    systemctl("restart", SERVICE)


def nscd_started_later(capture: Capture) -> None:
    """Daemon nscd started later than the service."""
    systemctl("start", "nscd.service")
    outside(capture)
    left, reached = outside(capture)
    assert "socket of nscd" in reached
    assert reached.get("DNS cached") == sorted(SOMEBODY)
    assert "DNS cached" not in left
    probe_names()


def nscd_running(_: Capture) -> None:
    """Daemon nscd running, a name cached and one not."""
    systemctl("restart", SERVICE)


def nscd_restarted(_: Capture) -> None:
    """Daemon nscd restarted."""
    with probing():
        systemctl("restart", "nscd.service")
    probe_names()
    systemctl("stop", "nscd.service")


def resolv_conf_replaced(_: Capture) -> None:
    """resolv.conf replaced, its target replaced, its link changed."""
    new = Path("/etc/resolv.conf.new")
    new.write_text(NAME_SERVER)
    new.rename(RESOLV_CONF)
    probe()
    for folder in (Path("/etc/test"), Path("/run/test")):
        folder.mkdir()
        for name in ("one", "two", "new"):
            (folder / name).write_text(NAME_SERVER)
        new.symlink_to(folder / "one")
        new.rename(RESOLV_CONF)
        systemctl("restart", SERVICE)
        (folder / "new").rename(folder / "one")
        probe()
        new.symlink_to(folder / "two")
        new.rename(RESOLV_CONF)
        probe()
        shell(f"rm -r {folder}")
    RESOLV_CONF.unlink()
    RESOLV_CONF.write_text(NAME_SERVER)
    systemctl("restart", SERVICE)


def random_order(_: Capture) -> None:
    """Started with its tunnel in random order, thirty times."""
    units, before = ["netns@demo.service", "wg@demo.service", SERVICE], len(rounds())
    for _time in range(30):
        systemctl("stop", "netns@demo.service")
        random.shuffle(units)
        for unit in units:
            systemctl("start", "--no-block", unit)
            time.sleep(random.uniform(0, 0.4))  # noqa: S311
        wait_for(lambda: shell(f"systemctl is-active {' '.join(units)} || :").split() == ["active"] * 3)
    assert len(rounds()) == before + 30


CASES = (
    tunnel_up,
    doors_open,
    endpoint_dead,
    tunnel_down,
    half_configured,
    configured_again,
    reloaded,
    name_removed,
    restarted,
    resolv_conf_replaced,
    resolved_running,
    nscd_started_later,
    nscd_running,
    nscd_restarted,
    random_order,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_nothing_leaves_but_the_tunnels_packets(
    case: Callable[[Capture], None], capture: Capture, record_property: Callable[[str, object], None]
) -> None:
    """In each of these cases no packet but the tunnel's leaves the host, and no daemon of the host answers."""
    capture.taken()
    before = len(rounds())
    try:
        case(capture)
    finally:
        time.sleep(0.5)
        left, reached = capture.taken(), rounds()[before:]
        packets, answered = left.pop(TUNNEL, 0), [way for each in reached for way in by_host(each)]
        record_property("leaks", (case.__doc__, len(reached), packets, left.total(), len(answered)))
    assert reached
    assert (left, answered) == (Counter(), [])


def run_as_service(*arguments: str, drop_in: bool) -> subprocess.CompletedProcess[str]:
    """Run a command as a service in the tunnel's namespace; with the drop-in's other settings, or without them."""
    properties = guest.settings() if drop_in else ["--property=NetworkNamespacePath=/run/netns/demo"]
    argv = ["systemd-run", "--quiet", "--wait", "--pipe", "--setenv=PYTHONPATH=/root/wgns-helpers", *properties]
    return subprocess.run([*argv, *arguments], capture_output=True, text=True, check=False)


def test_net_admin_is_no_way_out(capture: Capture) -> None:
    """With that capability an unprivileged service reaches the uplink and reads the key; a confined one does not."""
    way, key = f"UDP {admin.TARGET} {admin.PORT}", guest.public_key(1)
    attack = ["--property=DynamicUser=yes", "--property=AmbientCapabilities=CAP_NET_ADMIN"]
    attack += ["--property=NoNewPrivileges=yes"]
    # The kernel clamps a private key; the public one tells that it was read
    script = f"wg show demo private-key | wg pubkey; python3 -m tests.system.admin {socket.if_nametoindex(UPLINK)}"
    shell("chmod 755 /root")
    try:
        for drop_in in (False, True):
            capture.taken()
            done = run_as_service(*attack, "sh", "-c", script, drop_in=drop_in)
            time.sleep(0.5)
            gained = way in capture.taken(), key in done.stdout, done.returncode == 0
            assert gained == ((False,) * 3 if drop_in else (True,) * 3), done.stderr
            shell("ip -n demo link delete escape 2> /dev/null || :")
    finally:
        shell("chmod 700 /root")


SEND_AWAY = f"""#!/usr/bin/python3
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"?", ("{SOMEBODY[0]}", int(sys.argv[1])))
"""


def test_nobody_else_runs_a_command_for_it(capture: Capture) -> None:
    """By crontab(1) and at(1), which are set-id, a service has commands run in the host; a confined one does not."""
    send = Path("/usr/local/bin/send-away")
    send.write_text(SEND_AWAY)
    send.chmod(0o755)
    script = f"echo '* * * * * {send} 12' | crontab - && echo cron; echo {send} 14 | at now && echo at"
    shell("useradd --create-home someone; systemctl start cron atd")
    try:
        for drop_in in (True, False):
            capture.taken()
            done = run_as_service("--property=User=someone", "sh", "-c", script, drop_in=drop_in)
            time.sleep(3 if drop_in else 65)  # cron(8) looks every minute
            left = {way for way in capture.taken() if way != TUNNEL}
            assert (done.stdout.split(), left) == (
                ([], set()) if drop_in else (["cron", "at"], {f"UDP {SOMEBODY[0]} 12", f"UDP {SOMEBODY[0]} 14"})
            ), done.stderr
    finally:
        shell("systemctl stop cron atd; crontab -u someone -r || :; userdel --remove someone 2> /dev/null")
        send.unlink()
