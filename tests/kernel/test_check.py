"""wgns check: what it says of a process that is confined, and of one that is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.test_imports import assert_within_budget, loaded
from tests.support import POWERLESS, ROOT, run, shell
from wgns_helpers import confine
from wgns_helpers.tunnel import Tunnel

TUNNEL = Tunnel(private_key=b"k" * 32, dns=("10.64.0.1",))
# The mounts of a confined service; in the sandbox /run has no sockets
INSIDE = """
mount --bind /etc/netns/demo/resolv.conf /etc/resolv.conf
mount --bind /etc/netns/demo/nsswitch.conf /etc/nsswitch.conf
"""
AS_A_UNIT = 'SYSTEMD_EXEC_PID=$$ exec "$@"'
CHECK = ("sh", "-c", AS_A_UNIT, "sh", sys.executable, str(ROOT / "bin/wgns"), "check", "demo", "--json")


@pytest.fixture
def confined() -> None:
    """A namespace as wg-up leaves it; a link of another kind, which every kernel has, stands in for WireGuard's."""
    run("netns-up", "demo")
    shell("""
    ip -n demo link add demo type ifb
    ip -n demo address add 10.9.0.2/32 dev demo
    ip -n demo address add fd09::2/128 dev demo
    ip -n demo link set demo up
    ip -n demo route add default dev demo
    ip -n demo -6 route add default dev demo
    """)
    confine.write("demo", "demo", TUNNEL)


def check(
    damage: str = "", *, command: tuple[str, ...] = CHECK, where: str = "nsenter --net=/run/netns/demo"
) -> tuple[int, dict[str, bool | None]]:
    """The exit status of wgns check inside, and what it says of each point, after `damage` in its own mounts."""
    script = f'{where} unshare --mount sh -euc \'{INSIDE}{damage}\nexec "$@"\' sh "$@"'
    done = subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {row["point"]: row["holds"] for row in json.loads(done.stdout)["points"]}


ALL = {"namespace", "host", "links", "routes", "resolv.conf", "nsswitch.conf", "sockets"}
IN_DEMO = "ip -n demo"
BREAKAGES = {
    "namespace without a name": ("umount /run/netns/demo", {"namespace"}),
    "name of a plain file": ("umount /run/netns/demo; echo > /run/netns/demo", {"namespace"}),
    "name hidden": ("mount -t tmpfs tmpfs /run/netns", {"namespace"}),
    "another link up": (f"{IN_DEMO} link add eth0 type ifb; {IN_DEMO} link set eth0 up", {"links", "routes"}),
    "link down": (f"{IN_DEMO} link set demo down", {"links", "routes"}),
    "no link": (f"{IN_DEMO} link del demo", {"links", "routes"}),
    "no addresses": (f"{IN_DEMO} address flush dev demo", {"routes"}),
    "no IPv4 default route": (f"{IN_DEMO} route del default", {"routes"}),
    "no IPv6 default route": (f"{IN_DEMO} -6 route del default", {"routes"}),
    "half an IPv4 default route": (f"{IN_DEMO} route del default; {IN_DEMO} route add 0.0.0.0/1 dev demo", {"routes"}),
    "a route by another link": (
        f"{IN_DEMO} link add eth0 type ifb; {IN_DEMO} link set eth0 up; {IN_DEMO} route add 10.0.0.0/8 dev eth0",
        {"links", "routes"},
    ),
    "the host's resolv.conf": ("umount /etc/resolv.conf", {"resolv.conf"}),
    "an edited resolv.conf": ("echo nameserver 192.0.2.1 >> /etc/resolv.conf", {"resolv.conf"}),
    "another tunnel's resolv.conf": (
        "sed s/demo/other/g /etc/resolv.conf > /r; mount --bind /r /etc/resolv.conf; rm /r",
        {"resolv.conf"},
    ),
    "no resolv.conf": ("mount --bind /dev/null /etc/resolv.conf", {"resolv.conf"}),
    "the host's nsswitch.conf": ("umount /etc/nsswitch.conf", {"nsswitch.conf"}),
    "nscd": ("mkdir /run/nscd; touch /run/nscd/socket", {"sockets"}),
    "resolved": ("mkdir -p /run/systemd/resolve; touch /run/systemd/resolve/io.systemd.Resolve", {"sockets"}),
    "system bus": ("mkdir /run/dbus; touch /run/dbus/system_bus_socket", {"sockets"}),
    "avahi": ("mkdir /run/avahi-daemon; touch /run/avahi-daemon/socket", {"sockets"}),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_no_to_what_is_broken(breakage: str, confined: None) -> None:
    """Each breakage is named at its point, and at no other; the exit status is 1."""
    damage, points = BREAKAGES[breakage]
    status, found = check("mount -t tmpfs tmpfs /run/systemd 2> /dev/null || :\n" + damage)
    shell("rm -rf /run/nscd /run/systemd /run/dbus /run/avahi-daemon")
    assert status == 1
    assert {point for point, holds in found.items() if holds is False} == points


def test_yes_to_what_is_whole(confined: None) -> None:
    """All points hold; without any privilege too, and with two halves in place of a default route."""
    assert check() == (0, dict.fromkeys(ALL, True))
    assert check(command=(*POWERLESS, *CHECK)) == (0, dict.fromkeys(ALL, True))
    shell(
        f"{IN_DEMO} route del default; {IN_DEMO} route add 0.0.0.0/1 dev demo; {IN_DEMO} route add 128.0.0.0/1 dev demo"
    )
    assert check() == (0, dict.fromkeys(ALL, True))


def test_in_the_hosts_network(confined: None) -> None:
    """A unit that is in the host's network namespace is told so, root or not: it does not look into the namespace."""
    status, found = check(where="")
    assert (status, found["namespace"], found["host"], found["links"]) == (1, False, False, False)
    status, found = check(where="unshare --net")
    assert (status, found["namespace"], found["host"], found["links"]) == (1, False, True, False)


def test_without_default_routes(confined: None) -> None:
    """--no-default is for a tunnel that has none; all other points stay."""
    shell(f"{IN_DEMO} route flush default; {IN_DEMO} -6 route flush default")
    assert check()[0] == 1
    assert check(command=(*CHECK, "--no-default"))[0] == 0
    shell(f"{IN_DEMO} link set demo down")
    assert check(command=(*CHECK, "--no-default"))[0] == 1


def test_an_address_family_that_is_not_there(confined: None) -> None:
    """Without an IPv6 address no IPv6 default route is asked for."""
    shell(f"{IN_DEMO} -6 address flush dev demo scope global; {IN_DEMO} -6 route flush default")
    assert check()[0] == 0


def test_by_hand_in_the_host(confined: None) -> None:
    """Root in the host looks into the namespace; what only a service can tell is said. Nobody else can."""
    done = run("wgns", "check", "demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "?   sockets: what a service sees in its /run only itself can tell"
    shell(f"{IN_DEMO} link add eth0 type ifb; {IN_DEMO} link set eth0 up")
    done = run("wgns", "check", "demo")
    assert done.returncode == 1
    assert done.stderr == 'wgns: not confined to "demo": links: besides lo and demo there is eth0, and it is not down\n'
    assert run("wgns", "check", "demo", before=POWERLESS).returncode == 77
    assert run("wgns", "check", "nobody").returncode == 69


def test_the_name_is_found(confined: None) -> None:
    """Inside, NAME can be left out; in the host, or where the names are hidden, it is asked for."""
    assert check(command=tuple(word for word in CHECK if word != "demo"))[0] == 0
    done = run("wgns", "check")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "wgns: hint: wgns check NAME")


def test_it_loads_little(confined: None) -> None:
    """It runs before each start of a service: no pyroute2, no json, nothing that costs milliseconds."""
    names, code = loaded("wgns", "check", "demo")
    assert code == 0
    assert_within_budget("wgns check", names)


def environment() -> dict[str, str]:
    """Of who has called sudo: an ordinary user."""
    return {"SUDO_UID": "65534", "SUDO_GID": "65534"}


def test_a_command_is_isolated(confined: None, unchanged: None) -> None:
    """The namespace, its resolv.conf and nsswitch.conf, a /run with nothing of the host's, and no descriptors."""
    shell("mkdir -p /run/nscd /run/dbus; touch /run/nscd/socket /run/dbus/system_bus_socket")
    shell("rm /etc/resolv.conf; echo nameserver 192.0.2.1 > /run/host.conf; ln -s /run/host.conf /etc/resolv.conf")
    script = "cat /etc/resolv.conf /etc/nsswitch.conf; ls -A /run /run/netns; ls /proc/self/fd; id -u; pwd; echo $HOME"
    leak = os.open("/", os.O_RDONLY)
    done = run("wgns", "exec", "demo", "sh", "-c", script, env=environment(), pass_fds=[leak])
    os.close(leak)
    shell("rm -r /run/nscd /run/dbus /run/host.conf /etc/resolv.conf; echo > /etc/resolv.conf")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert {"nameserver 10.64.0.1", "hosts: files dns"} <= set(lines)
    assert lines[lines.index("/run:") : lines.index("/run/netns:") + 2] == [
        "/run:",
        "host.conf",
        "netns",
        "",
        "/run/netns:",
        "demo",
    ]
    assert lines[-7:] == ["0", "1", "2", "3", "65534", str(ROOT), "/nonexistent"]  # 3 is the folder that ls reads


def test_a_commands_end_is_that_of_wgns(confined: None) -> None:
    """Exit status and signals pass through; a command that cannot be run gives 127 or 126, as with env(1)."""
    for command, status in {"exit 3": 3, "kill -TERM $$": -15, "kill -PIPE $$": -13}.items():
        assert run("wgns", "exec", "demo", "--", "sh", "-c", command).returncode == status
    assert run("wgns", "exec", "demo", "no-such-command").returncode == 127
    assert run("wgns", "exec", "demo", "/etc").returncode == 126


def test_a_command_stands_where_it_was_called(confined: None) -> None:
    """The working folder is the caller's; one in /run is hidden, and cannot be reached by its old place either."""
    assert run("wgns", "exec", "demo", "pwd", cwd="/usr").stdout == "/usr\n"
    Path("/run/secret").mkdir()
    done = run("wgns", "exec", "demo", "sh", "-c", "pwd; ls ..; ls /run", cwd="/run/secret")
    Path("/run/secret").rmdir()
    assert done.stdout.splitlines()[0] == "/"
    assert "secret" not in done.stdout
    assert "/run/secret is hidden: the command starts in /" in done.stderr


def test_whose_the_command_is(confined: None) -> None:
    """Root's own, that of who has called sudo, or of --user; an unknown user is refused."""
    assert run("wgns", "exec", "demo", "id", "-u").stdout == "0\n"
    assert run("wgns", "exec", "demo", "--user", "daemon", "id", "-un", env=environment()).stdout == "daemon\n"
    assert run("wgns", "exec", "demo", "id", "-G", env=environment()).stdout == "65534\n"
    assert run("wgns", "exec", "demo", "--user", "daemon", "ls", "/run/netns", umask=0o077).stdout == "demo\n"
    assert run("wgns", "exec", "demo", "sh", "-c", "umask", umask=0o077).stdout == "0077\n"
    assert run("wgns", "exec", "demo", "--user", "nobody-there", "true").returncode == 2
    assert run("wgns", "exec", "demo", "true", before=POWERLESS).returncode == 77


def test_a_command_does_not_run_unconfined(confined: None) -> None:
    """With a second way out of the namespace, a missing file or no tunnel, nothing is executed."""
    assert run("wgns", "exec", "nobody", "echo", "ran").returncode == 69
    shell(f"{IN_DEMO} link add eth0 type ifb; {IN_DEMO} link set eth0 up")
    done = run("wgns", "exec", "demo", "echo", "ran")
    assert (done.returncode, done.stdout) == (77, "")
    shell(f"{IN_DEMO} link del eth0; rm /etc/netns/demo/resolv.conf")
    done = run("wgns", "exec", "demo", "echo", "ran")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/etc/netns/demo/resolv.conf" in done.stderr
