"""The units on a booted systemd: what a user does with them, and what can go wrong."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import shell
from tests.system import guest
from tests.system.guest import configure, confine, drop_in, failed, journal, show, state, systemctl, wait_for

pytestmark = pytest.mark.usefixtures("since")
CHAIN = ("netns@demo.service", "wg@demo.service", "reach.service")


def states() -> list[str]:
    """What the three units of a confined service are."""
    return [state(unit) for unit in CHAIN]


def up() -> None:
    """Start the tunnel, and with it the confined service."""
    configure()
    confine("reach.service", "demo")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("reach.service") == "active")


def test_systemd_finds_nothing_wrong_with_them() -> None:
    """systemd-analyze(1) verifies the installed units, and the exposure of each is below its limit."""
    units = ("netns@demo.service", "wg@demo.service", "wg.service")
    assert shell(f"systemd-analyze verify --man=no {' '.join(units)} wg-confined@demo.service 2>&1") == ""
    for unit, limit in zip(units, (35, 25, 25), strict=True):  # in tenths
        shell(f"systemd-analyze security --no-pager --threshold={limit} {unit}")


def test_start_stop_restart_reload(since: str) -> None:
    """The states are what a user expects, a reload keeps the confined service running, a stop leaves nothing."""
    up()
    guest.reaches_the_far_side_only()
    found = guest.report()
    assert "nameserver 10.64.0.1" in found["resolv.conf"]
    assert found["configuration"] == ""  # it has a key: not for the service
    assert "nscd" not in found["run"]
    assert "dbus" not in found["run"]
    before = show("reach.service")["MainPID"]

    configure(other={"MTU": "1300"})
    systemctl("reload", "wg@demo.service")
    assert "mtu 1300" in shell("ip -n demo link show demo")
    configure(other={"Endpoint": "nonsense"})
    assert systemctl("reload", "wg@demo.service", check=False) != 0
    assert "nonsense" in journal(since, "wg@demo")
    assert (states(), show("reach.service")["MainPID"]) == (["active"] * 3, before)
    configure()

    for command in ("daemon-reload", "daemon-reexec"):
        systemctl(command)
        assert (states(), show("reach.service")["MainPID"]) == (["active"] * 3, before)
    systemctl("restart", "reach.service")
    guest.reaches_the_far_side_only()

    systemctl("restart", "wg@demo.service")
    wait_for(lambda: states() == ["active"] * 3)
    guest.reaches_the_far_side_only()
    assert show("reach.service")["MainPID"] != before

    systemctl("stop", "wg@demo.service")
    assert states() == ["active", "inactive", "inactive"]
    assert "demo" not in shell("ip -n demo link")
    assert not Path("/etc/netns/demo").exists()
    systemctl("start", "wg@demo.service")
    wait_for(lambda: states() == ["active"] * 3)

    systemctl("stop", "netns@demo.service")
    assert (states(), failed(), guest.leftovers()) == (["inactive"] * 3, [], [])


def test_the_tunnel_called_wg() -> None:
    """wg.service is the article's name for the tunnel wg; of it and wg@wg.service only one can be active."""
    configure("wg")
    systemctl("start", "wg.service")
    assert "10.64.1.1/32" in shell("ip -n wg address show wg")
    systemctl("reload", "wg.service")
    systemctl("start", "wg@wg.service")
    assert (state("wg.service"), state("wg@wg.service")) == ("inactive", "active")
    systemctl("start", "wg.service")
    assert (state("wg.service"), state("wg@wg.service")) == ("active", "inactive")
    systemctl("stop", "netns@wg.service")
    assert failed() == []


FAILURES = {
    "bad key": ({"PrivateKey": "AAAA"}, "78", "PrivateKey"),
    "no such host": ({"Endpoint": "provider.invalid:51820"}, "75", "provider.invalid"),
    "a taken port": ({"ListenPort": "40404"}, "78", "UDP port 40404 is taken in the host"),
    "no configuration": ({}, "78", "/etc/wireguard/demo.conf"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_start_that_fails(failure: str, since: str) -> None:
    """Our line is in the journal, with the exit code; nothing is left, nothing runs. Mended, all of it comes up.

    What can mend itself is tried again until it works, here at least twice more, and the confined service with it.
    """
    settings, status, line = FAILURES[failure]
    path = configure(other=settings)
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if failure == "a taken port":
        taken.bind(("", 40404))
    hosts = Path("/etc/hosts")
    former = hosts.read_text()
    drop_in("wg@demo.service", "[Service]\nEnvironment=WG_UP_OPTIONS=\n", reload=False)  # fail at once
    confine("reach.service", "demo")
    if failure == "no configuration":
        path.unlink()
    systemctl("start", "--no-block", "wg@demo.service")
    wait_for(lambda: show("wg@demo.service")["ExecMainStatus"] == status)
    by_itself = status == "75"
    if by_itself:
        wait_for(lambda: int(show("wg@demo.service")["NRestarts"]) >= 2)
    else:
        wait_for(lambda: show("wg@demo.service")["SubState"] == "failed")
    said = journal(since, "wg@demo")
    assert any(text.startswith("wg-up: ") and line in text for text in said.splitlines())
    assert (state("netns@demo.service"), guest.namespace_of("reach.service")) == ("active", 0)
    wait_for(lambda: "demo" not in shell("ip -n demo link"))  # between two tries
    wait_for(lambda: not Path("/etc/netns/demo").exists())

    taken.close()
    if failure == "no such host":
        hosts.write_text(former + "203.0.113.1 provider.invalid\n")
    else:
        configure()
    if not by_itself:
        systemctl("start", "wg@demo.service")
    wait_for(lambda: states() == ["active"] * 3)
    guest.reaches_the_far_side_only()
    hosts.write_text(former)
    systemctl("stop", "netns@demo.service")
    assert (failed(), guest.leftovers()) == ([], [])


def test_killed_at_any_moment() -> None:
    """wg-up gets SIGKILL at twenty random moments: nothing is left each time, and then a start works."""
    configure()
    drop_in("wg@demo.service", "[Service]\nRestart=no\n", reload=False)
    confine("reach.service", "demo")
    systemctl("start", "netns@demo.service")
    results = []
    for _ in range(20):
        systemctl("start", "--no-block", "wg@demo.service")
        time.sleep(random.uniform(0, 0.8))  # noqa: S311  (a start takes about 0.6 s here)
        subprocess.run(["systemctl", "kill", "-s", "KILL", "wg@demo.service"], capture_output=True, check=False)
        wait_for(lambda: show("wg@demo.service")["ActiveState"] in ("active", "inactive", "failed"))
        results.append(show("wg@demo.service")["Result"])
        if state("wg@demo.service") != "active":
            assert "demo" not in shell("ip -n demo link")
            assert not Path("/etc/netns/demo").exists()
        systemctl("stop", "wg@demo.service")
        systemctl("reset-failed", "wg@demo.service", check=False)
    assert results.count("signal") >= 5, results
    systemctl("start", "wg@demo.service")
    wait_for(lambda: states() == ["active"] * 3)
    guest.reaches_the_far_side_only()


def test_stopped_in_the_middle_of_a_start() -> None:
    """A stop at ten random moments of a start leaves nothing, and the next start works."""
    configure()
    for _ in range(10):
        systemctl("start", "--no-block", "wg@demo.service")
        time.sleep(random.uniform(0, 1.2))  # noqa: S311
        systemctl("stop", "netns@demo.service", "wg@demo.service")
        wait_for(lambda: guest.leftovers() in ([], ["wg@demo.service"]) or failed())
        systemctl("reset-failed")
        assert guest.leftovers() == []
    systemctl("start", "wg@demo.service")
    assert "10.64.1.1/32" in shell("ip -n demo address show demo")


def test_a_namespace_that_cannot_be_made_at_first() -> None:
    """While the kernel makes no namespace, netns@ is tried again; then tunnel and service come up by themselves."""
    configure()
    confine("reach.service", "demo")
    limit = Path("/proc/sys/user/max_net_namespaces")
    former = limit.read_text()
    limit.write_text("0")
    try:
        systemctl("start", "--no-block", "wg@demo.service")
        wait_for(lambda: int(show("netns@demo.service")["NRestarts"]) >= 2)
    finally:
        limit.write_text(former)
    wait_for(lambda: states() == ["active"] * 3)
    guest.reaches_the_far_side_only()


def test_a_program_that_is_missing() -> None:
    """Where netns-up is not installed, the tunnel's start fails, and does not wait for ever."""
    configure()
    drop_in("netns@demo.service", "[Service]\nExecStart=\nExecStart=/nowhere/netns-up %I\n")
    assert systemctl("start", "wg@demo.service", check=False) != 0
    assert states()[:2] == ["failed", "inactive"]


def test_an_ordinary_user_holds_nothing_up() -> None:
    """Locks on all that a user can open hold up neither a reload nor a stop, after which no link is left anywhere."""
    up()
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]
    users = subprocess.Popen(
        [*argv, "for path in /run/netns /run/netns/* /run/wgns; do flock $path sleep 120 & done; wait"],
        start_new_session=True,
    )
    left = subprocess.Popen(["ip", "netns", "exec", "demo", "sleep", "120"])
    time.sleep(2)
    try:
        began = time.monotonic()
        systemctl("reload", "wg@demo.service")
        systemctl("stop", "netns@demo.service")
        assert time.monotonic() - began < 50  # a lock would be waited for a minute
        assert (states(), failed(), guest.leftovers()) == (["inactive"] * 3, [], [])
        assert "demo" not in Path(f"/proc/{left.pid}/net/dev").read_text()  # what is left over has no tunnel
        systemctl("start", "wg@demo.service")
        wait_for(lambda: states() == ["active"] * 3)
    finally:
        os.killpg(users.pid, 9)
        left.kill()
        left.wait()
        users.wait()


def test_what_a_router_hands_down_is_off() -> None:
    """In a host that forwards and routes 127.0.0.1 the namespace does neither, so the service starts."""
    shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.default.route_localnet=1")
    try:
        up()
        inside = "sysctl -n net.ipv4.ip_forward net.ipv4.conf.all.route_localnet net.ipv4.conf.demo.route_localnet"
        assert shell(f"ip netns exec demo {inside}").split() == ["0"] * 3
    finally:
        names = "net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=0 net.ipv4.conf.default.route_localnet=0"
        shell(f"sysctl -qw {names}")


WRONG = {
    "PrivateMounts=true": "set PrivateMounts=false in the unit",
    "ProtectSystem=strict\nPrivateMounts=": "set PrivateMounts=false in the unit",
    "PrivateNetwork=false": "the unit lacks PrivateNetwork=true",
}


@pytest.mark.parametrize("setting", WRONG, ids=lambda setting: setting.split("\n")[0])
def test_a_namespace_that_nobody_else_would_see(setting: str, since: str) -> None:
    """netns@ with settings under which it would be green and wrong fails, with the way out."""
    drop_in("netns@demo.service", f"[Service]\n{setting}\n", reload=False)
    configure()
    confine("reach.service", "demo")
    assert systemctl("start", "reach.service", check=False) != 0
    assert states() == ["failed", "inactive", "inactive"]
    assert f"hint: {WRONG[setting]}" in journal(since, "netns@demo")
    assert not Path("/run/netns/demo").exists()


def break_name() -> None:
    """The name of the namespace is gone."""
    shell("netns-down demo")


def break_file() -> None:
    """A plain file has the name."""
    shell("netns-down demo; touch /run/netns/demo")


def break_link() -> None:
    """The tunnel's link is gone."""
    shell("wg-down demo")


def break_kernel() -> None:
    """The kernel makes no more network namespaces, and the one of the tunnel is gone."""
    shell("netns-down demo; echo 0 > /proc/sys/user/max_net_namespaces")


def break_tunnel() -> None:
    """The tunnel and its namespace have been stopped."""
    systemctl("stop", "netns@demo.service")


def break_binding() -> None:
    """Nothing binds the services to the tunnel, which has been stopped with its namespace."""
    break_tunnel()
    for path in (guest.UNITS / "reach.service.d/wireguard.conf", guest.UNITS / "joined.service"):
        path.write_text(path.read_text().replace("BindsTo=wg@demo.service", ""))
    systemctl("daemon-reload")


STAYING = (break_name, break_file, break_kernel)  # the unit netns@demo.service still has the namespace, for who joins


@pytest.mark.parametrize("service", ["reach", "joined"])
@pytest.mark.parametrize("damage", [break_name, break_file, break_link, break_kernel, break_tunnel, break_binding])
def test_never_in_the_hosts_network(damage: object, service: str) -> None:
    """Whatever is broken, a service that is confined in either way does not run, or runs without the host's network."""
    up()
    joined = (guest.UNITS / "joined.service").read_text()
    limit = Path("/proc/sys/user/max_net_namespaces").read_text()
    host = os.stat("/proc/self/ns/net").st_ino
    try:
        damage()  # type: ignore[operator]
        systemctl("restart", f"{service}.service", check=False)
        pid, where = show(f"{service}.service")["MainPID"], guest.namespace_of(f"{service}.service")
        assert where != host
        if pid != "0":
            found = guest.report(service)
            assert (found["host"], found["namespace"]) == (False, where)
            assert found["far"] is (damage is break_tunnel or (damage in STAYING and service == "joined"))
    finally:
        Path("/proc/sys/user/max_net_namespaces").write_text(limit)
        (guest.UNITS / "joined.service").write_text(joined)


def test_a_tunnel_that_stops_takes_the_services_along() -> None:
    """When the tunnel's unit stops, services confined in either way are stopped."""
    up()
    systemctl("start", "joined.service")
    assert (guest.report("joined")["far"], guest.report("joined")["host"]) == (True, False)
    systemctl("stop", "wg@demo.service")
    assert (state("reach.service"), state("joined.service")) == ("inactive", "inactive")


@pytest.mark.parametrize("instance", ["my-vpn", r"my\x2dvpn"])
def test_a_name_with_a_dash(instance: str, since: str) -> None:
    """my-vpn is the same name in netns@, wg@, escaped or not, in drop-ins and in NetworkNamespacePath=."""
    configure("my-vpn")
    text = shell("wgns dropin my-vpn --unit reach")
    drop_in("reach.service", text.replace("wg@my-vpn", f"wg@{instance}"), reload=False)
    drop_in(f"wg@{instance}.service", "[Service]\nEnvironment=SEEN=1\n")
    systemctl("start", "reach.service")
    guest.reaches_the_far_side_only("my-vpn")
    assert "SEEN=1" in show(f"wg@{instance}.service")["Environment"]
    systemctl("stop", f"netns@{instance}.service")
    assert guest.leftovers() == []
    assert "read as" not in journal(since)


def test_the_key_is_nobody_elses() -> None:
    """With a credential as with a configuration that has the key: no file for others, no command line, no journal."""
    since = guest.cursor()
    key = guest.private_key(1)
    configure(other={"PrivateKey": ""})
    path = Path("/etc/wireguard/key")
    path.touch(mode=0o600)
    path.write_text(key + "\n")
    drop_in("wg@demo.service", "[Service]\nLoadCredential=private-key:/etc/wireguard/key\n", reload=False)
    confine("reach.service", "demo")
    watch = subprocess.Popen(
        ["sh", "-c", "while :; do cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; done > /run/seen 2> /dev/null"]
    )
    try:
        systemctl("start", "wg@demo.service")
        wait_for(lambda: states() == ["active"] * 3)
        credentials = Path("/run/credentials/wg@demo.service")
        assert not credentials.exists() or credentials.stat().st_mode & 0o077 == 0
        configure()
        systemctl("stop", "wg@demo.service")
        drop_in("wg@demo.service", "")
        systemctl("start", "wg@demo.service")
    finally:
        watch.kill()
        watch.wait()
    assert b"wg-up" in Path("/run/seen").read_bytes()
    assert key[:43].encode() not in Path("/run/seen").read_bytes()
    Path("/run/seen").unlink()
    assert key[:43] not in journal(since)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "grep", "-rsl", key[:43]]
    found = subprocess.run([*nobody, "/etc", "/run"], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_a_socket_of_a_confined_service() -> None:
    """A socket unit that joins listens inside the namespace, not in the host, and starts its confined service."""
    configure(other={"OpenPorts": "7777/tcp"})
    (guest.UNITS / "echo.socket").write_text(
        "[Socket]\nListenStream=7777\nAccept=yes\n[Install]\nWantedBy=sockets.target\n"
    )
    (guest.UNITS / "echo@.service").write_text("[Service]\nExecStart=cat /proc/self/net/dev\nStandardInput=socket\n")
    confine("echo.socket", "demo", "echo@.service")
    systemctl("enable", "echo.socket")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("echo.socket") == "active")
    assert ":7777" not in shell("ss -ltn")
    assert ":7777" in shell("ip netns exec demo ss -ltn")
    shell("ip netns exec demo ping -c 1 -W 20 10.64.0.1")  # the far side does not know yet where the tunnel's end is
    client = """import socket
with socket.create_connection(("10.64.1.1", 7777), 20) as connection:
    print(connection.makefile().read())
"""
    answer = subprocess.run(
        ["ip", "netns", "exec", "far", "python3", "-c", client], capture_output=True, text=True, check=True
    ).stdout
    assert "demo:" in answer
    assert "uplink" not in answer
    systemctl("stop", "netns@demo.service")
    assert (state("echo.socket"), failed()) == ("inactive", [])
    systemctl("disable", "echo.socket")
