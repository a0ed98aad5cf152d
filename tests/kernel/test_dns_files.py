"""The namespace's resolv.conf and nsswitch.conf, and the symlink by which ip-netns(8) finds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernel.conftest import snapshot
from tests.support import run, shell
from wgns_helpers import dns_files
from wgns_helpers.errors import Failure
from wgns_helpers.tunnel import Tunnel

TUNNEL = Tunnel(b"", dns=("10.64.0.1",), search=("example.com",))
OTHER = Tunnel(b"", dns=("10.64.0.2", "fd64::2"))
FOLDER = Path("/run/wgns/wg")
FILE = FOLDER / "resolv.conf"
LINK = Path("/etc/netns/wg")


def test_resolv_conf_comes_and_goes(unchanged: None) -> None:
    """Servers and search domains are in the file, which every service can read; its removal leaves nothing."""
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
    assert FILE.read_text().splitlines()[1:] == ["nameserver 10.64.0.1", "search example.com"]
    assert [path.stat().st_mode & 0o777 for path in (FILE, FOLDER, FOLDER.parent)] == [0o644, 0o755, 0o755]
    dns_files.remove("wg", "wg")
    assert list(FOLDER.iterdir()) == []


def test_resolv_conf_is_written_in_place() -> None:
    """A bind mount of the file stays valid when its content changes, and shrinks."""
    dns_files.write(dns_files.diff("wg", "wg", OTHER))
    inode = FILE.stat().st_ino
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL._replace(search=())))
    assert FILE.stat().st_ino == inode
    assert FILE.read_text().splitlines()[1:] == ["nameserver 10.64.0.1"]


@pytest.mark.parametrize(
    "change", ["echo '# mine' >> {}", "echo x > {}", "sed -i s/10.64/10.65/ {}", "ln -sf /etc/hosts {}"]
)
def test_a_changed_file_is_left_alone(change: str) -> None:
    """The checksum in the first line tells: a file that is not as we wrote it is not ours any more."""
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
    shell(change.format(FILE))
    before = FILE.lstat(), FILE.read_bytes()
    dns_files.write(dns_files.diff("wg", "wg", OTHER))
    dns_files.remove("wg", "wg")
    assert (FILE.lstat(), FILE.read_bytes()) == before
    assert [path.name for path in FOLDER.iterdir()] == ["resolv.conf"]


def test_two_tunnels_in_one_namespace_do_not_share_the_file() -> None:
    """The file belongs to the tunnel that wrote it."""
    dns_files.write(dns_files.diff("wg", "one", TUNNEL))
    before = FILE.read_bytes()
    dns_files.write(dns_files.diff("wg", "two", OTHER))
    dns_files.remove("wg", "two")
    assert FILE.read_bytes() == before


def test_without_servers_no_name_is_looked_up(unchanged: None) -> None:
    """Without DNS= the file has no server: the host's would be asked otherwise. Search domains alone change nothing."""
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL._replace(dns=())))
    assert [line for line in FILE.read_text().splitlines() if not line.startswith("#")] == []
    dns_files.remove("wg", "wg")


def test_host_names_are_left_to_dns() -> None:
    """nsswitch.conf is the host's, but host names are not asked of any of its daemons."""
    Path("/etc/nsswitch.conf").write_text("# a\npasswd: files systemd\nhosts : files resolve [!UNAVAIL=return] dns\n\n")
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
    written = FILE.with_name("nsswitch.conf").read_text().splitlines()
    assert written[1:] == ["hosts: files dns", "passwd: files systemd"]
    Path("/etc/nsswitch.conf").write_text("hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns # x\n")
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
    assert FILE.with_name("nsswitch.conf").read_text().splitlines()[1:] == ["hosts: files myhostname dns"]
    Path("/etc/nsswitch.conf").unlink()
    assert dns_files.write(dns_files.diff("wg", "wg", TUNNEL)) == [
        "/run/wgns/wg/nsswitch.conf: host names by /etc/hosts and DNS"
    ]
    assert FILE.with_name("nsswitch.conf").read_text().splitlines()[1:] == ["hosts: files dns"]


def test_a_full_disk_brings_the_former_file_back() -> None:
    """When the new content does not fit, the former one is there again, and the failure is named."""
    shell(f"mkdir -p {FOLDER}; mount -t tmpfs -o size=12k tmpfs {FOLDER}")
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
    former = FILE.read_bytes()
    shell(f"head -c 4096 /dev/zero > {FOLDER}/full")
    with pytest.raises(Failure, match="no space left"):
        dns_files.write(dns_files.diff("wg", "wg", TUNNEL._replace(search=("x" * 200,) * 40)))
    assert FILE.read_bytes() == former
    shell(f"umount {FOLDER}")


def test_files_that_cannot_be_made_leave_nothing(unchanged: None) -> None:
    """When there is no room for the second file, the first goes, too."""
    shell(f"mkdir -p {FOLDER}; mount -t tmpfs -o nr_inodes=2 tmpfs {FOLDER}")
    with pytest.raises(Failure, match="no space left"):
        dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
    assert list(FOLDER.iterdir()) == []
    shell(f"umount {FOLDER}")


def test_an_empty_file_is_taken_over() -> None:
    """What a crash can leave of the file keeps neither the next wg-up from writing it, nor wg-down from removing it."""
    shell(f"mkdir -p {FOLDER}; touch {FILE}")
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
    assert "nameserver 10.64.0.1" in FILE.read_text()
    FILE.write_text("")
    dns_files.remove("wg", "wg")
    assert not FILE.exists()


def test_an_unchanged_file_is_not_written() -> None:
    """On a read-only file system, a file that is right already is no failure."""
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
    shell("mount --bind /run/wgns /run/wgns; mount -o remount,bind,ro /run/wgns")
    try:
        dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
        with pytest.raises(Failure, match="read-only"):
            dns_files.write(dns_files.diff("wg", "wg", OTHER))
    finally:
        shell("umount /run/wgns")
    assert "nameserver 10.64.0.1" in FILE.read_text()


def test_the_umask_does_not_matter(unchanged: None) -> None:
    """Under UMask=0077 of a unit the service can still read the file, and follow the symlink."""
    former = os.umask(0o077)
    try:
        dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
        dns_files.publish("wg")
    finally:
        os.umask(former)
    paths = (FILE, FOLDER, FOLDER.parent, LINK.parent)
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o644, 0o755, 0o755, 0o755]
    dns_files.unpublish("wg")
    dns_files.remove("wg", "wg")
    LINK.parent.rmdir()


def test_iproute2_finds_the_files() -> None:
    """By the symlink that netns-up makes and netns-down takes away, `ip netns exec` sees the tunnel's resolv.conf."""
    run("netns-up", "wg").check_returncode()
    dns_files.write(dns_files.diff("wg", "wg", TUNNEL))
    assert "nameserver 10.64.0.1" in shell("ip netns exec wg cat /etc/resolv.conf")
    run("netns-down", "wg").check_returncode()
    assert list(LINK.parent.iterdir()) == []


@pytest.mark.parametrize("what", ["mkdir {}", "ln -s /run/other {}", "mkdir {}; touch {}/resolv.conf"])
def test_what_somebody_else_has_there_stays(what: str) -> None:
    """A folder or symlink of somebody else's in /etc/netns is left alone, and a line names what is in effect."""
    shell(f"mkdir -p {LINK.parent}; " + what.format(LINK, LINK))
    before = snapshot()
    dns_files.publish("wg")
    done = run("netns-up", "wg")
    words = f"{LINK}: file exists: ip netns exec uses other files than {FOLDER}"
    assert (done.returncode, words in done.stderr) == (0, True)
    run("netns-down", "wg").check_returncode()
    assert snapshot() == before


def test_where_etc_is_read_only() -> None:
    """With an immutable /etc the name is made all the same, and one line says what `ip netns exec` uses."""
    shell("mount --bind /etc /etc; mount -o remount,bind,ro /etc")
    try:
        done = run("netns-up", "wg")
    finally:
        shell("umount /etc")
    assert done.returncode == 0
    assert f"{LINK}: read-only file system: ip netns exec uses other files" in done.stderr
    assert not LINK.parent.exists()
