"""Signals while wg-up waits for a name server, and the resolv.conf that it writes; needs no WireGuard."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernel.conftest import snapshot
from tests.support import MINIMAL, MORTAL, ROOT, run, shell
from wgns_helpers import confine
from wgns_helpers.errors import Failure, TryAgainError
from wgns_helpers.lock import Lock
from wgns_helpers.tunnel import Tunnel

TUNNEL = Tunnel(b"", dns=("10.64.0.1",), search=("example.com",))
OTHER = Tunnel(b"", dns=("10.64.0.2", "fd64::2"))
FILE = Path("/etc/netns/wg/resolv.conf")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_resolving_ends_it_at_once(number: signal.Signals) -> None:
    """A name server that does not answer holds nothing up: a signal ends wg-up within a second, nothing changed."""
    shell("ip netns add wg; echo nameserver 127.0.0.1 > /etc/resolv.conf; echo hosts: dns > /etc/nsswitch.conf")
    before = snapshot()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        server.settimeout(60)
        argv = [*MORTAL, sys.executable, str(ROOT / "bin/wg-up"), "--config", "-"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
            assert process.stdin
            process.stdin.write(MINIMAL.replace("127.0.0.1:", "slow.example:").encode())
            process.stdin.close()
            server.recv(512)
            process.send_signal(number)
            assert process.wait(1) == -number
    assert snapshot() == before


def test_signals_that_the_caller_ignores_stay_ignored() -> None:
    """Under nohup(1) a SIGHUP is no reason to undo anything."""
    driver = "import os, signal; from wgns_helpers import signals; signals.default(); signals.hold(); "
    driver += "os.kill(os.getpid(), signal.SIGHUP); signals.check(); signals.release(); print('done')"
    done = subprocess.run(["nohup", sys.executable, "-c", driver], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"


def test_resolv_conf_comes_and_goes(unchanged: None) -> None:
    """Servers and search domains in the file, readable by every service; its removal takes the folders along."""
    confine.write("wg", "wg", TUNNEL)
    assert FILE.read_text().splitlines()[1:] == ["nameserver 10.64.0.1", "search example.com"]
    assert [path.stat().st_mode & 0o777 for path in (FILE, FILE.parent, FILE.parent.parent)] == [0o644, 0o755, 0o755]
    confine.remove("wg", "wg")
    assert not Path("/etc/netns").exists()


def test_resolv_conf_is_written_in_place() -> None:
    """A bind mount of the file stays valid when its content changes, and shrinks."""
    confine.write("wg", "wg", OTHER)
    inode = FILE.stat().st_ino
    confine.write("wg", "wg", TUNNEL._replace(search=()))
    assert FILE.stat().st_ino == inode
    assert FILE.read_text().splitlines()[1:] == ["nameserver 10.64.0.1"]


def test_the_last_of_several_takes_the_folder_along() -> None:
    """/etc/netns goes with the last tunnel, whichever came first."""
    for name in ("one", "two"):
        confine.write(name, "wg", TUNNEL)
    confine.remove("one", "wg")
    assert sorted(path.name for path in Path("/etc/netns").iterdir()) == [".made-by-wg-up", "two"]
    confine.remove("two", "wg")
    assert not Path("/etc/netns").exists()


def test_folders_of_others_stay() -> None:
    """Folders that were there before are there afterwards, and so is what somebody put into one of ours."""
    FILE.parent.mkdir(parents=True)
    before = snapshot()
    confine.write("wg", "wg", TUNNEL)
    confine.remove("wg", "wg")
    assert snapshot() == before
    confine.write("new", "wg", TUNNEL)
    Path("/etc/netns/new/hosts").touch()
    confine.remove("new", "wg")
    assert [path.name for path in Path("/etc/netns/new").iterdir()] == ["hosts"]


@pytest.mark.parametrize(
    "change", ["echo '# mine' >> {}", "echo x > {}", "sed -i s/10.64/10.65/ {}", "ln -sf /etc/hosts {}"]
)
def test_what_somebody_changed_is_left_alone(change: str) -> None:
    """The digest in the first line tells: a file that is not as we wrote it is not ours any more."""
    confine.write("wg", "wg", TUNNEL)
    shell(change.format(FILE))
    before = FILE.lstat(), FILE.read_bytes()
    confine.write("wg", "wg", OTHER)
    confine.remove("wg", "wg")
    assert (FILE.lstat(), FILE.read_bytes()) == before
    assert [path.name for path in FILE.parent.iterdir()] == ["resolv.conf"]


def test_two_tunnels_in_one_namespace_do_not_share_the_file() -> None:
    """The file belongs to the tunnel that wrote it."""
    confine.write("wg", "one", TUNNEL)
    before = snapshot()
    confine.write("wg", "two", OTHER)
    confine.remove("wg", "two")
    assert snapshot() == before


def test_without_servers_nobody_is_asked(unchanged: None) -> None:
    """Without DNS= the file has no server: the host's would be asked otherwise. Search domains alone change nothing."""
    confine.write("wg", "wg", TUNNEL)
    confine.write("wg", "wg", TUNNEL._replace(dns=()))
    assert [line for line in FILE.read_text().splitlines() if not line.startswith("#")] == []
    confine.remove("wg", "wg")


def test_host_names_are_left_to_dns() -> None:
    """nsswitch.conf is the host's, but names of hosts are nothing that one of its daemons is asked for."""
    Path("/etc/nsswitch.conf").write_text("# a\npasswd: files systemd\nhosts : files resolve [!UNAVAIL=return] dns\n\n")
    confine.write("wg", "wg", TUNNEL)
    written = FILE.with_name("nsswitch.conf").read_text().splitlines()
    assert written[1:] == ["hosts: files dns", "passwd: files systemd"]
    Path("/etc/nsswitch.conf").unlink()
    assert confine.write("wg", "wg", TUNNEL) == ["/etc/netns/wg/nsswitch.conf: host names by /etc/hosts and DNS"]
    assert FILE.with_name("nsswitch.conf").read_text().splitlines()[1:] == ["hosts: files dns"]
    confine.remove("wg", "wg")
    assert not FILE.parent.exists()


def test_a_full_disk_brings_the_former_file_back() -> None:
    """When the new content does not fit, the former one is there again, and the failure is named."""
    shell("mkdir -p /etc/netns/wg; mount -t tmpfs -o size=12k tmpfs /etc/netns/wg")
    confine.write("wg", "wg", TUNNEL)
    former = FILE.read_bytes()
    shell("head -c 4096 /dev/zero > /etc/netns/wg/full")
    with pytest.raises(Failure, match="no space left"):
        confine.write("wg", "wg", TUNNEL._replace(search=("x" * 200,) * 40))
    assert FILE.read_bytes() == former
    shell("umount /etc/netns/wg")


def test_an_empty_file_is_taken_over() -> None:
    """What a crash can leave of the file does not keep the next wg-up from writing it."""
    shell("mkdir -p /etc/netns/wg; touch /etc/netns/wg/resolv.conf")
    confine.write("wg", "wg", TUNNEL)
    assert "nameserver 10.64.0.1" in FILE.read_text()


def test_an_unchanged_file_is_not_written() -> None:
    """With /etc read-only, a file that is right already is no failure."""
    confine.write("wg", "wg", TUNNEL)
    shell("mount --bind /etc/netns /etc/netns; mount -o remount,bind,ro /etc/netns")
    confine.write("wg", "wg", TUNNEL)
    with pytest.raises(Failure, match="read-only"):
        confine.write("wg", "wg", OTHER)
    shell("umount /etc/netns")
    assert "nameserver 10.64.0.1" in FILE.read_text()


def test_a_folder_that_cannot_be_made_leaves_nothing(unchanged: None) -> None:
    """When there is no room for the second folder, the first goes too."""
    shell("mkdir /run/small; mount -t tmpfs -o nr_inodes=4 tmpfs /run/small; mkdir /run/small/etc")
    shell("mount --bind /run/small/etc /etc")
    with pytest.raises(Failure, match="no space left"):
        confine.write("wg", "wg", TUNNEL)
    assert not list(Path("/etc").iterdir())
    shell("umount /etc; umount /run/small; rmdir /run/small")


def test_the_umask_does_not_matter(unchanged: None) -> None:
    """Under UMask=0077 of a unit the file can still be read by the service."""
    former = os.umask(0o077)
    try:
        confine.write("wg", "wg", TUNNEL)
    finally:
        os.umask(former)
    assert [path.stat().st_mode & 0o777 for path in (FILE, FILE.parent, FILE.parent.parent)] == [0o644, 0o755, 0o755]
    confine.remove("wg", "wg")


LOCK = Path("/run/wgns/wg/lock")
HOLDER = "import time; from wgns_helpers.lock import Lock\nwith Lock('wg'): print(flush=True); time.sleep({})"


def holder(seconds: float) -> subprocess.Popen[bytes]:
    """A process that has the namespace's lock, for some time."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER.format(seconds)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout
    process.stdout.readline()
    return process


def test_a_second_run_waits_and_says_for_whom() -> None:
    """While another process has the namespace's lock, wg-up and wg-down wait; then they go on."""
    shell("ip netns add wg")
    with holder(1.5) as process:
        done = run("wg-down")
    assert done.returncode == 0
    waits = f"wg-down: waiting for process {process.pid} (python"
    assert done.stderr.startswith(waits), done.stderr
    assert 'at most 60 s: it has the lock of namespace "wg"\nwg-down: there is no "wg"' in done.stderr


def test_the_lock_of_a_killed_process_is_free() -> None:
    """SIGKILL of the holder lets the next one go on at once."""
    shell("ip netns add wg")
    with holder(60) as process, subprocess.Popen([sys.executable, str(ROOT / "bin/wg-down")]) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
        process.kill()
        assert waiting.wait(1) == 0


def test_waiting_has_an_end_and_a_code() -> None:
    """After its patience a run ends with 75 and names the holder; a signal ends it sooner."""
    shell("ip netns add wg")
    words = r'process {} \(python.* has had the lock of namespace "wg" for 1 s'
    with holder(60) as process:
        with pytest.raises(TryAgainError, match=words.format(process.pid)), Lock("wg", 0.5):
            pass
        with subprocess.Popen([sys.executable, str(ROOT / "bin/wg-down")]) as waiting:
            time.sleep(1)
            waiting.terminate()
            assert waiting.wait(2) == -signal.SIGTERM
        process.kill()


def test_a_lock_leaves_nothing(unchanged: None) -> None:
    """The lock's file goes with the program, and so does one that a killed program has left."""
    shell("ip netns add wg")
    with holder(60) as process:
        assert LOCK.stat().st_mode & 0o777 == 0o600
        process.kill()
    assert LOCK.exists()
    run("wg-down").check_returncode()
    assert list(Path("/run/wgns").iterdir()) == []
    shell("ip netns delete wg")


def test_a_waiting_run_takes_the_lock_that_is_made_anew() -> None:
    """Of many that wait for one lock only one has it at a time, though each removes the file when it is done."""
    counted = "import time; from wgns_helpers.lock import Lock\nfor _ in range(5):\n    with Lock('wg'):\n        "
    counted += "path = '/run/count'; number = int(open(path).read()); time.sleep(0.01); "
    counted += "print(number + 1, file=open(path, 'w'))"
    Path("/run/count").write_text("0")
    running = [subprocess.Popen([sys.executable, "-c", counted], cwd=ROOT) for _ in range(8)]
    assert [process.wait() for process in running] == [0] * 8
    assert Path("/run/count").read_text() == "40\n"
    Path("/run/count").unlink()


def test_an_ordinary_user_holds_nothing_up() -> None:
    """Nobody but root can open a lock; what everybody can lock, the namespace itself and its folder, is none."""
    shell("ip netns add wg")
    script = "flock /run/netns sleep 60 & flock /run/netns/wg sleep 60 & sleep 0.5; ! flock -n /run/wgns/wg/lock true"
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", f"{script}; kill -STOP $$")
    with holder(0.5):
        user = subprocess.Popen([*as_nobody], start_new_session=True)
        assert os.waitpid(user.pid, os.WUNTRACED)[1] & 0xFF == 0x7F
    began = time.monotonic()
    for program, name in (("netns-up", "other"), ("wg-down", "wg"), ("netns-down", "wg"), ("netns-down", "other")):
        assert run(program, name).returncode == 0
    assert time.monotonic() - began < 5
    os.killpg(user.pid, signal.SIGKILL)
    user.wait()


@pytest.mark.wireguard
def test_a_link_is_deleted_whoever_has_the_lock() -> None:
    """A wg-up that hangs with the lock does not keep the tunnel alive: wg-down warns, goes on, and names the holder."""
    shell("ip netns add wg; ip -n wg link add wg type wireguard")
    impatient = "from wgns_helpers import lock, teardown; lock._PATIENCE = 0.5; teardown.down('wg', 'wg')"
    with holder(60) as process:
        argv = [sys.executable, "-c", impatient]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        process.kill()
    assert done.returncode == 0, done.stderr
    assert f"warning: process {process.pid} (python" in done.stderr
    assert "going on without it" in done.stderr
    assert "wg" not in shell("ip -n wg -br link")


def test_another_namespace_is_not_waited_for() -> None:
    """Each namespace has a lock of its own."""
    shell("ip netns add wg; ip netns add other")
    with holder(60) as process:
        done = run("wg-down", "other")
        process.kill()
    assert (done.returncode, done.stderr) == (0, 'wg-down: there is no "other" in namespace "other"\n')


def test_the_configuration_is_read_when_the_lock_is_there() -> None:
    """A run that waits goes by what stands in the file when its turn comes, not by what stood there before."""
    shell("mkdir -p -m 700 /etc/wireguard; ip netns add wg")
    config = Path("/etc/wireguard/wg.conf")
    config.write_text(MINIMAL)
    config.chmod(0o600)
    with holder(1.5):
        with subprocess.Popen([sys.executable, str(ROOT / "bin/wg-up")], stderr=subprocess.PIPE, text=True) as waiting:
            time.sleep(1)
            config.write_text("[Interface]\nMTU = 7\n")
            assert waiting.stderr
            assert "no private key" in waiting.stderr.read()
        assert waiting.returncode == 78
