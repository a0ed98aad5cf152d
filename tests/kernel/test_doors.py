"""`wgns publish` and `wgns reach` where no systemd runs, as in an image: what they write, and what they refuse."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import faults
from tests.kernel.faults import Fault
from tests.support import run, shell

SYSTEM = Path("/etc/systemd/system")
WANTS = SYSTEM / "wg-confined@home.service.wants"


@pytest.fixture(autouse=True)
def folder() -> Iterator[None]:
    """An empty folder for units, and configurations of some tunnels."""
    shutil.rmtree(SYSTEM, ignore_errors=True)
    SYSTEM.mkdir(parents=True)
    configurations = Path("/etc/wireguard")
    configurations.mkdir()
    for name in ("home", "work", "wg", "a.b-c+d@e", "home-10.0.0.1"):
        (configurations / f"{name}.conf").touch()
    yield
    shutil.rmtree(configurations)
    shutil.rmtree(SYSTEM)


def wgns(*arguments: str, status: int = 0) -> str:
    """Run wgns; what it reports."""
    done = run("wgns", *arguments)
    assert done.returncode == status, done.stderr
    return done.stderr + done.stdout


def tree() -> dict[str, str]:
    """All files and links in the folder, with what they have."""
    paths = [path for path in sorted(SYSTEM.rglob("*")) if path.is_symlink() or path.is_file()]
    return {str(path): str(path.readlink()) if path.is_symlink() else path.read_text() for path in paths}


def settings(unit: str, *keys: str) -> list[str]:
    """The lines of a unit that set one of these."""
    lines = (SYSTEM / unit).read_text().splitlines()
    return [line for line in lines if line.partition("=")[0] in keys]


# What is asked for, the door's unit, where it listens and what the proxy connects to
PUBLISHED = {
    ("8080",): ("publish-home-8080", "127.0.0.1:8080", "127.0.0.1:8080"),
    ("127.0.0.1:08080", "80"): ("publish-home-8080", "127.0.0.1:8080", "127.0.0.1:80"),
    ("0.0.0.0:8080",): ("publish-home-0.0.0.0-8080", "0.0.0.0:8080", "127.0.0.1:8080"),
    ("[0::0]:8080", "10.64.1.1:80"): ("publish-home-::-8080", "[::]:8080", "10.64.1.1:80"),
    ("192.0.2.7:8080", "[::1]:80"): ("publish-home-192.0.2.7-8080", "192.0.2.7:8080", "::1:80"),
}


@pytest.mark.parametrize("asked", PUBLISHED)
def test_a_port_is_published(asked: tuple[str, ...]) -> None:
    """The socket listens in the host, the proxy runs inside, and the socket starts with the tunnel; then all goes."""
    stem, listen, target = PUBLISHED[asked]
    said = wgns("publish", "home", *asked)
    assert "from the next start of wg@home.service on" in said
    assert f"hint: wgns release {stem}.socket takes it away" in said
    assert (SYSTEM / f"{stem}.socket").read_text().startswith(f"# Written by wgns publish home {listen} ")
    assert settings(f"{stem}.socket", "ListenStream", "BindIPv6Only", "NetworkNamespacePath") == [
        f"ListenStream={listen}",
        "BindIPv6Only=ipv6-only",
    ]
    assert settings(f"{stem}.service", "ExecStart", "NetworkNamespacePath") == [
        f"ExecStart=/usr/lib/systemd/systemd-socket-proxyd {target}",
        "NetworkNamespacePath=/run/netns/home",
    ]
    assert (WANTS / f"{stem}.socket").readlink() == SYSTEM / f"{stem}.socket"
    before = tree()
    assert len(before) == 3
    wgns("publish", "home", *asked)
    assert tree() == before
    assert "is closed and removed" in wgns("release", f"{stem}.socket")
    assert list(SYSTEM.iterdir()) == []
    assert "is not confined" in wgns("release", f"{stem}.socket")


# The target, the words for the proxy, and the addresses that it may use
REACHED = {
    "192.0.2.7:5432": ("192.0.2.7:5432", ["IPAddressAllow=192.0.2.7", "IPAddressDeny=any"]),
    "[2001:DB8:0::7]:5432": ("2001:db8::7:5432", ["IPAddressAllow=2001:db8::7", "IPAddressDeny=any"]),
    "HOST.lan:5432": ("HOST.lan:5432", []),
}


@pytest.mark.parametrize("target", REACHED)
def test_a_port_of_the_host_is_reached(target: str) -> None:
    """The socket listens inside, the proxy runs in the host with one address that it may use."""
    told, allowed = REACHED[target]
    wgns("reach", "home", "432", target)
    assert settings("reach-home-432.socket", "ListenStream", "NetworkNamespacePath") == [
        "ListenStream=127.0.0.1:432",
        "NetworkNamespacePath=/run/netns/home",
    ]
    assert settings("reach-home-432.service", "ExecStart", "NetworkNamespacePath") == [
        f"ExecStart=/usr/lib/systemd/systemd-socket-proxyd {told}"
    ]
    assert settings("reach-home-432.service", "IPAddressAllow", "IPAddressDeny") == allowed
    assert (WANTS / "reach-home-432.socket").is_symlink()
    wgns("release", "reach-home-432")
    assert tree() == {}


def test_nothing_of_a_template_is_left() -> None:
    """The units have the names and addresses in the places of the words that stand for them."""
    wgns("publish", "home", "[::]:8080")
    wgns("reach", "home", "8081", "db.lan:80")
    for path, text in tree().items():
        for word in ("NAME", "LISTEN", "TARGET", "HOST", "PORT"):
            assert word not in text, path


def test_another_port_inside() -> None:
    """The same port of the host leads to the last place that it was published for."""
    wgns("publish", "home", "8080")
    wgns("publish", "home", "8080", "9090")
    assert settings("publish-home-8080.service", "ExecStart")[0].endswith(" 127.0.0.1:9090")
    assert len(tree()) == 3


def test_doors_beside_each_other() -> None:
    """A port of two addresses, and one of two tunnels, are different doors; each is released alone."""
    doors = (("publish", "home", "0.0.0.0:80"), ("publish", "home", "[::]:80"), ("publish", "work", "80"))
    for door in (*doors, ("reach", "home", "80", "[::1]:80"), ("reach", "work", "80", "[::1]:80")):
        wgns(*door)
    assert len(tree()) == 15
    wgns("release", "publish-home-::-80.socket", "reach-work-80.service")
    assert len(tree()) == 9
    assert not any("home-::-80" in path or "reach-work" in path for path in tree())


def test_a_name_that_systemd_escapes() -> None:
    """The units of a tunnel with + and @ in its name are no instances, and belong to the tunnel's own unit."""
    wgns("publish", "a.b-c+d@e", "80")
    stem = r"publish-a.b-c\x2bd\x40e-80"
    assert settings(f"{stem}.socket", "BindsTo") == [r"BindsTo=wg@a.b-c\x2bd@e.service"]
    assert settings(f"{stem}.service", "NetworkNamespacePath") == ["NetworkNamespacePath=/run/netns/a.b-c+d@e"]
    assert (SYSTEM / rf"wg-confined@a.b-c\x2bd@e.service.wants/{stem}.socket").is_symlink()
    wgns("release", f"{stem}.socket")
    assert tree() == {}


def test_the_tunnel_that_is_called_wg() -> None:
    """Its unit is wg.service where that is enabled."""
    (SYSTEM / "multi-user.target.wants").mkdir()
    (SYSTEM / "multi-user.target.wants/wg.service").symlink_to("/usr/lib/systemd/system/wg.service")
    wgns("publish", "wg", "80")
    assert settings("publish-wg-80.socket", "BindsTo") == ["BindsTo=wg.service"]
    assert settings("publish-wg-80.socket", "WantedBy") == ["WantedBy=wg-confined@wg.service"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("publish", "hmoe", "80"), 78, 'there is no tunnel "hmoe": no /etc/wireguard/hmoe.conf'),
        (("reach", "hmoe", "80", "db:80"), 78, 'there is no tunnel "hmoe": no /etc/wireguard/hmoe.conf'),
        (("publish", "home"), 2, "expected TUNNEL and PORT, 1 given"),
        (("reach", "home", "80"), 2, "expected TUNNEL, PORT and HOST:PORT, 2 given"),
        (("publish", "home", "http"), 2, '"http" is not a number from 1 to 65535'),
        (("publish", "home", "0"), 2, '"0" is not a number from 1 to 65535'),
        (("publish", "home", "127.0.0.1:65536"), 2, "a port from 1 to 65535"),
        (("publish", "home", "::1:80"), 2, "hint: write [IPV6]:PORT"),
        (("publish", "home", "1.2.3:80"), 2, '"1.2.3" is neither an address'),
        (("publish", "home", "localhost:80"), 2, "expected an address without a zone, and a port"),
        (("publish", "home", "[fe80::1%eth0]:80"), 2, "expected an address without a zone, and a port"),
        (("publish", "home", "80", "localhost:80"), 2, "expected an address without a zone, and a port"),
        (("reach", "home", "0.0.0.0:80", "db:80"), 2, '"0.0.0.0:80": expected a port'),
        (("reach", "home", "80", "db"), 2, '"db" is not a number from 1 to 65535'),
        (("reach", "home", "80", "d b:80"), 2, '"d b" is neither an address nor the name of a host'),
        (("reach", "home", "80", "db\nUser=root:80"), 2, "is neither an address nor the name of a host"),
        (("reach", "home", "80", "[fe80::1%eth0]:80"), 2, "expected a name or an address without a zone"),
    ],
)
def test_wrong_names(arguments: tuple[str, ...], status: int, words: str) -> None:
    """A typo ends with one line and changes nothing."""
    assert words in wgns(*arguments, status=status)
    assert tree() == {}


def test_a_port_that_is_taken() -> None:
    """It is refused before anything is written, in the host for publish, and in the namespace for reach."""
    with socket.create_server(("127.0.0.1", 8080)), socket.create_server(("::1", 8081), family=socket.AF_INET6):
        said = wgns("publish", "home", "8080", status=1)
        assert '"127.0.0.1:8080" is taken\n' in said
        assert "hint: ss -ltnp sport = 8080 shows by whom" in said
        wgns("publish", "home", "0.0.0.0:8080", status=1)
        wgns("publish", "home", "[::]:8081", status=1)
        assert tree() == {}
        wgns("publish", "home", "[::]:8080")
        shell("ip netns add home; ip -n home link set lo up")
        wgns("reach", "home", "8080", "192.0.2.1:80")
    before = tree()
    script = "import socket; taken = socket.create_server(('127.0.0.1', 8083)); print(flush=True); input()"
    argv = ["ip", "netns", "exec", "home", "python3", "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
        assert listener.stdout
        listener.stdout.readline()
        said = wgns("reach", "home", "8083", "192.0.2.1:80", status=1)
        listener.communicate(b"\n")
    assert '"127.0.0.1:8083" is taken in "home"' in said
    assert "hint: ip netns exec home ss -ltnp sport = 8083 shows by whom" in said
    assert tree() == before


def test_files_of_somebody_else() -> None:
    """A unit of that name stays: one that is not written by wgns, and one of another tunnel with a similar name."""
    wgns("publish", "home-10.0.0.1", "80")
    other = SYSTEM / "publish-work-80.service"
    other.write_text("[Service]\nExecStart=true\n")
    before = tree()
    said = wgns("publish", "home", "10.0.0.1:80", status=1)
    assert "was not written by wgns publish home 10.0.0.1:80: left as it is" in said
    wgns("publish", "work", "80", status=1)
    assert tree() == before
    assert "is not confined" in wgns("release", "publish-work-80")
    assert tree() == before


def test_release_takes_units_of_both_kinds() -> None:
    """One command takes a confined service and a door back."""
    (SYSTEM / "echo.service").write_text("[Service]\nExecStart=/bin/sleep 9\nUser=nobody\n")
    before = tree()
    wgns("confine", "home", "echo")
    wgns("publish", "home", "80")
    said = wgns("release", "echo", "publish-home-80.socket")
    assert "echo.service uses the host's open network" in said
    assert "publish-home-80 is closed and removed" in said
    assert tree() == before


def test_nixos() -> None:
    """There units are in the store: the message names the option."""
    Path("/etc/NIXOS").touch()
    try:
        said = wgns("publish", "home", "8080", "80", status=77)
        assert 'hint: my.wireguard.tunnels.home.publish."127.0.0.1:8080" = 80;' in said
        said = wgns("reach", "wg", "80", "db:81", status=77)
        assert 'hint: my.wireguard.reach."80" = "db:81";' in said
        assert wgns("release", "publish-home-80.socket", status=77)
    finally:
        Path("/etc/NIXOS").unlink()
    assert tree() == {}


@pytest.mark.parametrize("kind", ["error", "SIGTERM"])
def test_a_failure_at_each_step(kind: str) -> None:
    """A failing system call or a signal at any step of publishing, changing or releasing leaves all as it was."""
    commands = (("publish", "home", "80"), ("publish", "home", "80", "81"), ("release", "publish-home-80"))
    for command in (*commands, ("reach", "home", "80", "db:80")):
        before, step, ended = tree(), 0, None
        while not ended or len(ended.steps) >= step:
            step += 1
            ended = faults.run("wgns", *command, fault=Fault(step, kind, "before"))
            if ended.steps[step - 1 : step] != ["rmdir"]:  # a folder that is left empty is no failure
                assert (tree() == before) == bool(ended.status), (step, ended)
            if not ended.status:
                restore(before)
        assert step > 3
        wgns(*command)


def restore(former: dict[str, str]) -> None:
    """Have in the folder what `tree` has seen there."""
    shutil.rmtree(SYSTEM)
    SYSTEM.mkdir()
    for name, content in former.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to(content) if content.startswith("/") else Path(name).write_text(content)


def test_a_kill_at_each_step() -> None:
    """After SIGKILL no link leads to half a door, and the next run ends as if nothing had happened."""
    wgns("publish", "home", "80")
    whole = tree()
    for command in (("publish", "home", "80"), ("release", "publish-home-80.socket")):
        for step in range(1, 20):
            if command[0] == "publish":
                wgns("release", "publish-home-80")
            ended = faults.run("wgns", *command, fault=Fault(step, "SIGKILL", "before"))
            assert not (WANTS / "publish-home-80.socket").is_symlink() or tree() == whole
            if len(ended.steps) < step:
                break
            wgns(*command)
            assert tree() == (whole if command[0] == "publish" else {})
            wgns("publish", "home", "80")
        assert step > 3
        wgns("publish", "home", "80")
