"""netns-up and netns-down against the kernel's namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernel.conftest import snapshot
from tests.support import POWERLESS, ROOT, run, shell
from wgns_helpers import netns
from wgns_helpers.errors import Failure, TryAgainError
from wgns_helpers.signals import Lock

NETNS = Path("/run/netns")
UNSHARED = ("unshare", "--net")
# A main process of a unit: $SYSTEMD_EXEC_PID is its own PID
AS_UNIT = ("sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh")


def identity(name: str) -> int:
    """The inode number of a named namespace."""
    return (NETNS / name).stat().st_ino


def sleeper(namespace: str) -> subprocess.Popen[bytes]:
    """A process inside a namespace."""
    process = subprocess.Popen(["ip", "netns", "exec", namespace, "sleep", "60"])
    while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":  # first it is ip, which enters the namespace
        time.sleep(0.01)
    return process


def test_by_hand_makes_a_new_namespace_with_lo_up() -> None:
    """In the host's namespace netns-up makes a new one that iproute2 knows, and lo is up in it."""
    assert run("netns-up", "wg").returncode == 0
    assert identity("wg") != os.stat("/proc/self/ns/net").st_ino
    assert shell("ip netns list").split() == ["wg"]
    assert "LOOPBACK,UP" in shell("ip -n wg link show lo")
    assert shell("ip netns exec wg ip -o link").count("\n") == shell("unshare -n ip -o link").count("\n")


def test_netns_down_leaves_nothing(unchanged: None) -> None:
    """Up and down leave the machine as it was, but for the folder and its shared mount."""
    assert run("netns-up", "wg").returncode == 0
    done = run("netns-down", "wg")
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(NETNS.iterdir())


def test_pins_the_namespace_that_it_runs_in() -> None:
    """In a namespace of its own, as a unit has one, netns-up names that very namespace."""
    script = f"readlink /proc/self/ns/net; {sys.executable} {ROOT}/bin/netns-up wg"
    seen = shell(f"unshare --net sh -euc '{script}'")
    assert seen.strip() == f"net:[{identity('wg')}]"


def test_prepares_the_folder_as_iproute2_does() -> None:
    """/run/netns becomes a shared mount, so a name made later is seen in other mount namespaces."""
    assert run("netns-up", "one").returncode == 0
    line = next(
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == "/run/netns"
    )
    assert "shared:" in line


@pytest.mark.parametrize("order", ["iproute2 first", "netns-up first"])
def test_works_beside_iproute2(order: str) -> None:
    """Names of both kinds live side by side, and each takes the other's away."""
    if order == "iproute2 first":
        shell("ip netns add a")
    run("netns-up", "b").check_returncode()
    if order == "netns-up first":
        shell("ip netns add a")
    assert set(shell("ip netns list").split()) == {"a", "b"}
    assert run("netns-down", "a").returncode == 0
    shell("ip netns del b")
    assert not list(NETNS.iterdir())


def test_twice_by_hand_is_nothing_to_do() -> None:
    """By hand, a name that is there stays as it is, and one line says so."""
    run("netns-up", "wg").check_returncode()
    before = snapshot()
    done = run("netns-up", "wg")
    assert (done.returncode, done.stderr) == (0, 'netns-up: "wg" exists already\n')
    assert snapshot() == before


def test_twice_in_the_same_namespace_is_nothing_to_do() -> None:
    """A unit that pins its namespace again changes nothing."""
    run("netns-up", "wg", before=UNSHARED).check_returncode()
    before = snapshot()
    assert run("netns-up", "wg", before=("nsenter", "--net=/run/netns/wg")).returncode == 0
    assert snapshot() == before


def test_another_namespace_never_takes_the_name() -> None:
    """The seed's second netns-up re-pointed the name at an empty namespace; ours refuses and names both."""
    run("netns-up", "wg", before=UNSHARED).check_returncode()
    before = snapshot()
    done = run("netns-up", "wg", before=UNSHARED)
    assert done.returncode == 77
    assert f'"wg" is network namespace {identity("wg")} already, this one is ' in done.stderr
    assert snapshot() == before


def test_a_unit_in_the_hosts_namespace_is_refused(unchanged: None) -> None:
    """Without PrivateNetwork=true a unit would pin the host: refused with the hint."""
    done = run("netns-up", "wg", before=AS_UNIT)
    assert done.returncode == 77
    assert "hint: the unit lacks PrivateNetwork=true" in done.stderr


def test_the_hosts_namespace_under_a_name_is_refused() -> None:
    """Where somebody gave the host's own namespace the name, it is no "nothing to do"."""
    shell("mkdir -p /run/netns; ip netns attach wg 1")
    done = run("netns-up", "wg")
    assert done.returncode == 1
    assert "the host's own network namespace" in done.stderr


@pytest.mark.parametrize("state", ["up", "down"])
def test_another_link_is_refused(state: str, unchanged: None) -> None:
    """A namespace with a link besides lo may be somebody's way out, also if the link is down now: no name for it."""
    command = f'ip link add out type bridge; ip link set out {state}; exec "$@"'
    done = run("netns-up", "wg", before=(*UNSHARED, "sh", "-c", command, "sh"))
    assert done.returncode == 77
    assert "(out)" in done.stderr


def test_a_link_of_the_kernels_is_no_obstacle() -> None:
    """A fresh namespace has sit0 and its like where their modules are loaded."""
    command = 'ip link add sit0 type bridge; exec "$@"'
    assert run("netns-up", "wg", before=(*UNSHARED, "sh", "-c", command, "sh")).returncode == 0


SYSCTLS = {
    "net/ipv4/ip_forward": ("1", "0"),
    "net/ipv4/conf/all/route_localnet": ("1", "0"),
    "net/ipv4/conf/default/route_localnet": ("1", "0"),
    "net/ipv4/conf/lo/route_localnet": ("1", "0"),
    "net/ipv4/conf/default/accept_local": ("1", "0"),
    "net/ipv4/conf/all/accept_redirects": ("1", "0"),
    "net/ipv4/conf/default/accept_source_route": ("1", "0"),
    "net/ipv6/conf/all/forwarding": ("1", "0"),
    "net/ipv6/conf/default/accept_ra": ("1", "0"),
    "net/ipv6/conf/all/accept_redirects": ("1", "0"),
    "net/ipv4/ping_group_range": ("1 0", "0 2147483647"),
}


def test_what_a_router_hands_down_is_off() -> None:
    """In a host that forwards (a router, Docker, kube-proxy) the namespace does not; a user may ping in it."""
    inherited = "; ".join(f"echo {before} > /proc/sys/{path}" for path, (before, _) in SYSCTLS.items())
    run("netns-up", "wg", before=(*UNSHARED, "sh", "-euc", f'{inherited}; exec "$@"', "sh")).check_returncode()
    read = f"cd /proc/sys; head -qn 1 {' '.join(SYSCTLS)}"
    found = shell(f"ip netns exec wg sh -c '{read}'").splitlines()
    assert [line.replace("\t", " ") for line in found] == [after for _, after in SYSCTLS.values()]
    shell("ip -n wg link add later type bridge")
    assert shell("ip netns exec wg cat /proc/sys/net/ipv4/conf/later/forwarding").strip() == "0"


def test_what_cannot_be_turned_off_is_refused(unchanged: None) -> None:
    """Where /proc/sys cannot be written, a namespace that forwards gets no name."""
    locked = 'mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec "$@"'
    before = ("unshare", "--mount", "--propagation", "slave", "sh", "-euc", locked, "sh")
    forward = (*UNSHARED, "sh", "-euc", 'echo 1 > /proc/sys/net/ipv4/ip_forward; exec "$@"', "sh")
    done = run("netns-up", "wg", before=(*forward, *before))
    assert done.returncode == 77
    assert 'forwarding cannot be set to "0": read-only file system' in done.stderr


def test_where_the_host_cannot_be_told_it_refuses(unchanged: None) -> None:
    """With /proc/1 out of sight nobody knows whose namespace this is: refused."""
    hide = 'mount -t tmpfs tmpfs /proc/1; exec "$@"'
    done = run("netns-up", "wg", before=("unshare", "--mount", "sh", "-c", hide, "sh"))
    assert done.returncode == 77
    assert "cannot tell whether this is the host's" in done.stderr


def test_where_the_host_cannot_be_told_the_name_stays() -> None:
    """With /proc/1 out of sight netns-down takes away no name but its own namespace's."""
    run("netns-up", "wg").check_returncode()
    before = snapshot()
    hide = 'mount -t tmpfs tmpfs /proc/1; exec "$@"'
    done = run("netns-down", "wg", before=("unshare", "--mount", "sh", "-c", hide, "sh"))
    assert done.returncode == 1
    assert "left alone" in done.stderr
    assert snapshot() == before


def test_as_pid_1_it_refuses() -> None:
    """Under PrivatePIDs=true the program is PID 1 itself and would take its own namespace for the host's: refused."""
    run("netns-up", "other").check_returncode()
    before = snapshot()
    alone = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "slave")
    done = run("netns-up", "wg", before=alone)
    assert done.returncode == 77
    assert "PrivatePIDs=false" in done.stderr
    assert snapshot() == before


def test_a_mount_that_cannot_be_seen_is_not_taken_away() -> None:
    """Where the name is mounted outside only, as in a container that shares /run/netns, netns-down leaves it."""
    run("netns-up", "other").check_returncode()
    script = f"sleep 2; exec unshare --net {sys.executable} {ROOT}/bin/netns-down wg"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as blind:
        time.sleep(0.5)
        run("netns-up", "wg").check_returncode()
        before = snapshot()
        said = blind.communicate()[1]
    assert blind.returncode == 77
    assert "PrivateMounts=false" in said
    assert snapshot() == before


def test_the_folder_is_for_everybody() -> None:
    """Under UMask=0077 of a unit /run/netns can still be read by all."""
    shell("while umount /run/netns 2>/dev/null; do :; done; rm -rf /run/netns")
    run("netns-up", "wg", before=("sh", "-c", 'umask 077; exec "$@"', "sh")).check_returncode()
    assert NETNS.stat().st_mode & 0o777 == 0o755


def test_the_lock_is_not_waited_for_without_end() -> None:
    """A program that holds the lock for too long makes the next one end with 75."""
    with Lock("wg"), pytest.raises(TryAgainError, match="has had the lock"), Lock("wg", 0.05):
        pass


def test_a_user_who_holds_the_folders_lock_delays_the_first_name_only() -> None:
    """The folder, which everybody can lock, is locked until it is a shared mount, and not waited for without end."""
    shell("while umount /run/netns 2>/dev/null; do :; done; rm -rf /run/netns; mkdir /run/netns")
    with subprocess.Popen(["flock", "/run/netns", "sleep", "60"]) as user:
        time.sleep(0.5)
        done = run("netns-up", "wg")
        assert (done.returncode, "going on without it" in done.stderr) == (0, True), done.stderr
        done = run("netns-up", "next")
        assert (done.returncode, done.stderr) == (0, "")
        shell("pkill -x sleep")
        user.wait()
    assert set(shell("ip netns list").split()) == {"wg", "next"}


def test_a_read_only_run_is_refused(unchanged: None) -> None:
    """Under ProtectSystem=strict, others would not see the name: refused, with the hint about PrivateMounts=."""
    locked = 'mount --bind /run /run; mount -o remount,bind,ro /run; exec "$@"'
    before = ("unshare", "--net", "--mount", "--propagation", "slave", "sh", "-euc", locked, "sh")
    done = run("netns-up", "wg", before=before)
    assert (done.returncode, "PrivateMounts=false" in done.stderr) == (77, True), done.stderr


def test_private_mounts_are_refused() -> None:
    """In a mount namespace of its own the name would be seen by nobody: undone, with the hint about PrivateMounts=."""
    run("netns-up", "other").check_returncode()
    before = snapshot()
    done = run("netns-up", "wg", before=("unshare", "--net", "--mount", "--propagation", "slave"))
    assert done.returncode == 77
    assert "PrivateMounts=false" in done.stderr
    assert "ProtectSystem=" in done.stderr
    assert snapshot() == before


def test_a_stale_file_is_taken_over() -> None:
    """An empty plain file, left where a mount is gone, is no obstacle."""
    NETNS.mkdir(exist_ok=True)
    (NETNS / "wg").touch()
    assert run("netns-up", "wg").returncode == 0
    shell("ip -n wg link")
    assert run("netns-down", "wg").returncode == 0
    assert not (NETNS / "wg").exists()


@pytest.mark.parametrize("what", ["text", "folder", "symlink"])
def test_what_is_not_a_namespace_stays(what: str) -> None:
    """A file with content, a folder, a symlink under /run/netns is somebody's: neither up nor down touches it."""
    NETNS.mkdir(exist_ok=True)
    make = {"text": "echo x > /run/netns/wg", "folder": "mkdir /run/netns/wg", "symlink": "ln -s /x /run/netns/wg"}
    shell(make[what])
    before = snapshot()
    for program in ("netns-up", "netns-down"):
        done = run(program, "wg")
        assert done.returncode == 1
        assert "/run/netns/wg" in done.stderr
    assert snapshot() == before


def test_netns_down_of_an_empty_file_removes_it() -> None:
    """An empty file without a mount, as a failed start of others leaves it, goes."""
    NETNS.mkdir(exist_ok=True)
    (NETNS / "wg").touch()
    assert run("netns-down", "wg").returncode == 0
    assert not (NETNS / "wg").exists()


def test_netns_down_without_the_name_is_nothing_to_do(unchanged: None) -> None:
    """Taking away what is not there succeeds with one line."""
    done = run("netns-down", "wg")
    assert (done.returncode, done.stderr) == (0, 'netns-down: there is no "wg"\n')


def test_netns_down_names_what_is_inside() -> None:
    """Processes and links that are still inside are listed, and the name goes, as with ip netns del."""
    run("netns-up", "wg").check_returncode()
    shell("ip -n wg link add out type bridge; ip -n wg link set out up")
    process = sleeper("wg")
    done = run("netns-down", "wg")
    process.kill()
    process.wait()
    assert done.returncode == 0
    assert f"link out; sleep ({process.pid})" in done.stderr
    assert not (NETNS / "wg").exists()


def test_netns_down_inside_another_namespace_leaves_the_name() -> None:
    """As ExecStopPost= of a unit whose start failed, netns-down must not take another namespace's name away."""
    run("netns-up", "wg").check_returncode()
    before = snapshot()
    done = run("netns-down", "wg", before=UNSHARED)
    assert done.returncode == 1
    assert "left alone" in done.stderr
    assert snapshot() == before


def test_netns_down_inside_its_own_namespace_takes_the_name() -> None:
    """As ExecStop= of the unit that pinned it, netns-down runs inside the namespace, and says nothing."""
    run("netns-up", "wg").check_returncode()
    done = run("netns-down", "wg", before=("nsenter", "--net=/run/netns/wg"))
    assert (done.returncode, done.stderr) == (0, "")
    assert not (NETNS / "wg").exists()


def test_a_name_mounted_twice_goes_at_once() -> None:
    """A name that was mounted over (as the seed's scripts can do) is taken away with all its mounts."""
    shell("mkdir -p /run/netns; ip netns add wg; mount --bind /run/netns/wg /run/netns/wg")
    assert run("netns-down", "wg").returncode == 0
    assert not (NETNS / "wg").exists()


def test_twenty_at_once_without_the_folder() -> None:
    """Twenty at once, on a machine without /run/netns, all succeed, and /run/netns is mounted once."""
    shell("umount /run/netns 2>/dev/null || true; rmdir /run/netns 2>/dev/null || true")
    argv = [sys.executable, str(ROOT / "bin/netns-up")]
    running = [subprocess.Popen([*UNSHARED, *argv, f"n{number}"]) for number in range(20)]
    assert [process.wait() for process in running] == [0] * 20
    assert len({identity(f"n{number}") for number in range(20)}) == 20
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert mounts.count("/run/netns") == 1


def test_racing_for_one_name_only_one_namespace_gets_it() -> None:
    """Ten namespaces at once that want the same name: one has it, nine are refused."""
    argv = [*UNSHARED, sys.executable, str(ROOT / "bin/netns-up"), "wg"]
    running = [subprocess.Popen(argv, stderr=subprocess.DEVNULL) for _ in range(10)]
    assert sorted(process.wait() for process in running) == [0] + [77] * 9
    assert [path.name for path in NETNS.iterdir()] == ["wg"]


def test_ten_at_once_take_one_name_away() -> None:
    """Ten netns-down of one name at once all succeed."""
    run("netns-up", "wg").check_returncode()
    argv = [sys.executable, str(ROOT / "bin/netns-down"), "wg"]
    running = [subprocess.Popen(argv, stderr=subprocess.DEVNULL) for _ in range(10)]
    assert [process.wait() for process in running] == [0] * 10
    assert not (NETNS / "wg").exists()


def test_a_lock_that_is_held_is_waited_for() -> None:
    """While another program holds the lock netns-up waits, and a signal ends it at once with nothing changed."""
    NETNS.mkdir(exist_ok=True)
    before = snapshot()
    Path("/run/wgns/wg").mkdir(parents=True)
    with subprocess.Popen(["flock", "/run/wgns/wg/lock", "sleep", "30"]) as holder:
        time.sleep(0.5)
        waiting = subprocess.Popen([sys.executable, str(ROOT / "bin/netns-up"), "wg"], stderr=subprocess.DEVNULL)
        time.sleep(1)
        assert waiting.poll() is None
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(2) == -signal.SIGTERM
        holder.terminate()
    shell("pkill -x sleep || true")
    assert snapshot() == before


@pytest.mark.parametrize(
    ("written", "name"),
    [("my/vpn", "my-vpn"), ("a/b/c", "a-b-c"), ("x_.@+:Y9", "x_.@+:Y9"), ("n" * 255, "n" * 255)],
)
def test_names(written: str, name: str) -> None:
    """A slash is read as a dash, as %I of a unit has it; by hand one line says so."""
    done = run("netns-up", written)
    assert done.returncode == 0
    assert identity(name)
    assert ("is read as" in done.stderr) == (written != name)
    in_unit = run("netns-down", written, before=AS_UNIT)
    assert (in_unit.returncode, in_unit.stderr) == (0, "")


def test_without_privilege_it_says_so() -> None:
    """Without the capabilities for it the programs end with 77 and a hint, and nothing changes."""
    shell("mkdir -p /run/netns; ip netns add wg")
    before = snapshot()
    for program, name in (("netns-up", "new"), ("netns-down", "wg")):
        done = run(program, name, before=POWERLESS)
        assert done.returncode == 77, done.stderr
        assert "hint: root lacks a capability" in done.stderr
    assert snapshot() == before


def test_inside_for_a_while(unchanged: None) -> None:
    """The process is in the namespace, and back afterwards, also after a failure; where it cannot enter it stays."""
    shell("ip netns add wg")
    here, links = netns.own(), len(os.listdir("/proc/self/fd"))
    there = netns.open_namespace("wg")
    with netns.Inside(there):
        assert netns.own() == netns.pinned("wg") != here
    assert netns.own() == here
    with pytest.raises(ZeroDivisionError), netns.Inside(there):
        _ = 1 / 0
    assert netns.own() == here
    os.close(there)
    with Path("/etc/passwd").open("rb") as file, pytest.raises(Failure), netns.Inside(file.fileno()):
        pass
    assert (netns.own(), len(os.listdir("/proc/self/fd"))) == (here, links)
    shell("ip netns del wg")
