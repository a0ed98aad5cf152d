"""Signals while wg-up waits for a name server, and the locks that the programs wait for."""

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
from wgns_helpers.errors import TryAgainError
from wgns_helpers.signals import Lock


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


LOCK = Path("/run/wgns/wg/lock")
HOLDER = "import time; from wgns_helpers.signals import Lock\nwith Lock('wg'): print(flush=True); time.sleep({})"


def holder(seconds: float) -> subprocess.Popen[bytes]:
    """A process that has the namespace's lock, for some time."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER.format(seconds)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout
    process.stdout.readline()
    return process


def test_a_second_run_waits_and_says_for_what() -> None:
    """While another process has the namespace's lock, wg-up and wg-down wait; then they go on."""
    shell("ip netns add wg")
    with holder(4):
        done = run("wg-down")
    waits = 'wg-down: waiting at most 60 s for another program, which has the lock of namespace "wg"\n'
    assert (done.returncode, done.stderr) == (0, f'{waits}wg-down: there is no "wg" in namespace "wg"\n')


def test_the_lock_of_a_killed_process_is_free() -> None:
    """SIGKILL of the holder lets the next one go on at once."""
    shell("ip netns add wg")
    with holder(60) as process, subprocess.Popen([sys.executable, str(ROOT / "bin/wg-down")]) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
        process.kill()
        assert waiting.wait(1) == 0


def test_waiting_has_an_end_and_a_code() -> None:
    """After its patience a run ends with 75; a signal ends it sooner."""
    shell("ip netns add wg")
    words = 'another program has had the lock of namespace "wg" for 1 s'
    with holder(60) as process:
        with pytest.raises(TryAgainError, match=words), Lock("wg", 1):
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
    counted = "import time; from wgns_helpers.signals import Lock\nfor _ in range(5):\n    with Lock('wg'):\n        "
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
    assert time.monotonic() - began < 30  # a lock would be waited for a minute
    os.killpg(user.pid, signal.SIGKILL)
    user.wait()


@pytest.mark.wireguard
def test_a_link_is_deleted_whoever_has_the_lock() -> None:
    """A wg-up that hangs with the lock does not keep the tunnel alive: wg-down warns and goes on."""
    shell("ip netns add wg; ip -n wg link add wg type wireguard")
    impatient = "from wgns_helpers import signals, wg_down; signals._PATIENCE = 0.5; wg_down.down('wg', 'wg')"
    with holder(60) as process:
        argv = [sys.executable, "-c", impatient]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        process.kill()
    assert done.returncode == 0, done.stderr
    assert 'warning: another program has had the lock of namespace "wg" for 0 s: going on without it' in done.stderr
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
    with holder(4):
        with subprocess.Popen([sys.executable, str(ROOT / "bin/wg-up")], stderr=subprocess.PIPE, text=True) as waiting:
            time.sleep(1)
            config.write_text("[Interface]\nMTU = 7\n")
            assert waiting.stderr
            assert 'MTU: "7"' in waiting.stderr.read()
        assert waiting.returncode == 78
