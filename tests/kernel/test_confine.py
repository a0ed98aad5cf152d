"""`wgns confine` and `wgns release` where no systemd runs, as in an image: what they write, and what they refuse."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import faults
from tests.kernel.faults import Fault
from tests.support import run

SYSTEM = Path("/etc/systemd/system")
DROP_IN = SYSTEM / "echo.service.d/wireguard.conf"
LINK = SYSTEM / "wg-confined@home.service.wants/echo.service"
PLAIN = "ExecStart=/bin/sleep 9\nUser=nobody\n"


@pytest.fixture(autouse=True)
def folder() -> Iterator[None]:
    """A folder for units with one service, and configurations of the tunnels home and work."""
    shutil.rmtree(SYSTEM, ignore_errors=True)
    SYSTEM.mkdir(parents=True)
    configurations = Path("/etc/wireguard")
    configurations.mkdir()
    for name in ("home", "work", "wg"):
        (configurations / f"{name}.conf").touch()
    unit("echo.service", PLAIN)
    yield
    shutil.rmtree(configurations)
    shutil.rmtree(SYSTEM)


def unit(name: str, settings: str) -> None:
    """Write a unit with these settings of its service."""
    (SYSTEM / name).write_text(f"[Service]\n{settings}")


def confine(*arguments: str, status: int = 0) -> str:
    """Run `wgns confine`; what it reports."""
    done = run("wgns", "confine", *arguments)
    assert done.returncode == status, done.stderr
    return done.stderr + done.stdout


def tree() -> dict[str, str]:
    """All files and links in the folder, with what they have."""
    paths = sorted(SYSTEM.rglob("*"))
    return {
        str(path): str(path.readlink()) if path.is_symlink() else "" if path.is_dir() else path.read_text()
        for path in paths
    }


def restore(former: dict[str, str]) -> None:
    """Have in the folder what `tree` has seen there."""
    shutil.rmtree(SYSTEM)
    SYSTEM.mkdir()
    for name, content in former.items():
        path = Path(name)
        if not content:
            path.mkdir()
        elif content.startswith("/"):
            path.symlink_to(content)
        else:
            path.write_text(content)


def test_a_service_is_confined_moved_and_released() -> None:
    """One command each; twice is the same as once, and in the end all is as it was."""
    before = tree()
    said = confine("home", "echo")
    assert 'echo.service is confined to "home" from its next start on, and starts with wg@home.service' in said
    assert "wg@home.service is not enabled" in said
    assert DROP_IN.read_text().startswith(
        "# Written by wgns confine home echo.service; wgns release echo.service removes it.\n"
    )
    assert LINK.readlink() == SYSTEM / "echo.service"
    confined = tree()
    assert 'echo.service is already confined to "home"' in confine("home", "echo.service")
    assert tree() == confined
    confine("work", "echo")
    assert "NetworkNamespacePath=/run/netns/work\n" in DROP_IN.read_text()
    assert not LINK.is_symlink()
    for words in ("uses the host's open network from its next start on", "is not confined"):
        done = run("wgns", "release", "echo")
        assert (done.returncode, words in done.stderr) == (0, True), done.stderr
        assert tree() == before


def test_a_name_that_systemd_escapes() -> None:
    """The units of a tunnel my+vpn have the name that systemd-escape(1) gives."""
    Path("/etc/wireguard/my+vpn.conf").touch()
    confine("my+vpn", "echo")
    assert r"BindsTo=wg@my\x2bvpn.service" in DROP_IN.read_text()
    assert (SYSTEM / r"wg-confined@my\x2bvpn.service.wants/echo.service").is_symlink()


def test_print_changes_nothing() -> None:
    """--print shows the very drop-in and the commands; `wgns dropin` is its former name."""
    before = tree()
    text = confine("home", "echo", "--print")
    former = run("wgns", "dropin", "home", "--unit", "echo")
    assert (tree(), former.stderr + former.stdout) == (before, text)
    assert "systemctl add-wants 'wg-confined@home.service' 'echo.service'" in text
    confine("home", "echo")
    assert text.endswith(DROP_IN.read_text())


def test_what_was_allowed_stays_so() -> None:
    """A second command keeps what --allow of the first one has let in, and adds to it."""
    Path("/run/first").touch()
    Path("/run/second").touch()
    confine("home", "echo", "--allow", "/run/first")
    confine("home", "echo", "--allow", "/run/second")
    former = DROP_IN.read_text()
    assert former.endswith("BindPaths=/run/first\nBindPaths=/run/second\n")
    confine("home", "echo")
    assert DROP_IN.read_text() == former


# Settings of a unit, and lines of its drop-in
NEEDS = {
    "BindPaths=/srv /run /data:/x\nBindPaths=-/opt": [
        "BindPaths=",
        "BindPaths=/srv",
        "BindPaths=/data:/x",
        "BindPaths=-/opt",
    ],
    "BindReadOnlyPaths=/etc /var/run": ["BindPaths=", "BindReadOnlyPaths=/etc"],
    "BindReadOnlyPaths=/etc\nBindPaths=/run /srv": ["BindPaths=", "BindPaths=/srv", "BindReadOnlyPaths=/etc"],
    "BindReadOnlyPaths=/:/host": ["BindPaths="],
    "BindReadOnlyPaths=/run\nBindPaths=": [],
    "BindPaths=%t/dbus:/bus": ["BindPaths="],
    "BindPaths=/run/nscd\nBindPaths=\nBindPaths=/run/postgresql": [],
    "PIDFile=/run/echo.pid": ["PIDFile="],
    "PIDFile=echo.pid": ["PIDFile="],
    "PIDFile=/var/run/echo/echo.pid": ["BindPaths=-/run/echo"],
    "PIDFile=%t/%N/echo.pid": ["BindPaths=-/run/echo"],
    "PIDFile=/run/sub/echo.pid\nRuntimeDirectory=sub": [],
    "ReadWritePaths=/run/echo/sub /var/lib": ["BindPaths=-/run/echo"],
    "ReadWritePaths=-/run/others": [],
    "ReadOnlyPaths=/run/others": ["--allow", "/run/others", "BindPaths=/run/others"],
    "PIDFile=/run/others/echo.pid": ["--allow", "/run/others", "BindPaths=/run/others"],
    "ReadWritePaths=\\\n /run/others": ["--allow", "/run/others", "BindPaths=/run/others"],
    "# PIDFile=/run/echo.pid\n; BindPaths=/run": [],
}


@pytest.mark.parametrize("settings", NEEDS)
def test_what_a_unit_needs_of_run(settings: str) -> None:
    """What would show the host's sockets is left out, a folder of the unit's own let in, one of others named."""
    unit("echo.service", PLAIN + settings)
    lines, options = NEEDS[settings], []
    if lines[:1] == ["--allow"]:
        before = tree()
        hint = f"hint: wgns confine home echo.service {' '.join(lines[:2])}\n"
        assert hint in confine("home", "echo", status=1)
        assert tree() == before
        options, lines = lines[:2], lines[2:]
    confine("home", "echo", *options)
    kinds = ("BindPaths=", "BindReadOnlyPaths=", "PIDFile=")
    template = run("wgns", "dropin", "home").stdout.splitlines()
    added = [line for line in DROP_IN.read_text().splitlines() if line.startswith(kinds) and line not in template]
    assert added == lines


def test_a_folder_by_tmpfiles() -> None:
    """A folder in /run of the unit's name, which tmpfiles.d(5) has made, is let in."""
    Path("/run/echo").mkdir()
    try:
        confine("home", "echo")
        assert DROP_IN.read_text().endswith("\nBindPaths=-/run/echo\n")
    finally:
        Path("/run/echo").rmdir()


def test_programs_that_cannot_be_executed() -> None:
    """NoExecPaths= does not hold up the check."""
    unit("echo.service", PLAIN + "NoExecPaths=/\nExecPaths=/bin/sleep\n")
    confine("home", "echo")
    assert "\nExecPaths=/usr/bin/env /" in DROP_IN.read_text()


# Settings, and what is refused about them
REFUSED = {
    "BusName=org.example.Echo": "is on the system bus (Type=dbus)",
    "Type=dbus": "is on the system bus (Type=dbus)",
    "ExecStart=\nExecStart=-/usr/bin/podman run x": "runs containers",
    "ExecStart=\nExecStart=docker-compose up": "runs containers",
    "RootDirectory=/srv": "has another root, which needs /usr/bin/env",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_units_that_cannot_work(settings: str) -> None:
    """They are refused before anything is written."""
    unit("echo.service", PLAIN + settings)
    before = tree()
    assert REFUSED[settings] in confine("home", "echo", status=1)
    assert tree() == before


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("hmoe", "echo"), 78, 'there is no tunnel "hmoe": no /etc/wireguard/hmoe.conf'),
        (("hmoe", "echo", "--print"), 78, "hint: did you mean home? install -m 600 PROVIDER.conf /etc/"),
        (("mullvad", "echo"), 78, "hint: install -m 600 PROVIDER.conf /etc/wireguard/mullvad.conf"),
        (("home", "ehco"), 69, 'there is no unit "ehco.service"'),
        (("home", "echo.timer"), 69, 'there is no unit "echo.timer.service"'),
        (("home", "../echo"), 2, '"../echo.service" is not the name of a unit'),
        (("home", "echo*"), 2, "expected a .service or a .socket"),
        (("home",), 2, "expected TUNNEL and UNIT, 1 given"),
        (("home", "echo", "--allow", "/etc"), 2, "hint: all else is as the unit has it"),
        (("home", "echo", "--allow", "/run/a:/run/b"), 2, "expected a path below /run"),
        (("home", "echo", "--allow", "/run/../etc"), 2, "expected a path below /run"),
        (("home", "echo", "--allow", "/run/a\nBindPaths=/run/dbus"), 2, "expected a path below /run"),
        (("home", "echo", "--allow", "/run/"), 2, "expected a path below /run"),
        (("home", "echo", "--allow", "/run/dbus"), 2, "/run/dbus/system_bus_socket is there"),
        (("home", "echo", "--allow", "/run/user/1000"), 2, "hint: name a single socket that the service needs"),
        (("home", "echo", "--allow", "/run/user/1000/systemd/private"), 2, "by systemd, a user's bus or containers"),
        (("home", "echo", "--allow", "/run/systemd/private"), 2, "by systemd, a user's bus or containers"),
        (("home", "echo", "--allow", "/run/docker.sock"), 2, "by systemd, a user's bus or containers"),
        (("home", "wg@home"), 2, "is a unit of the tunnels themselves"),
        (("home", "echo", "--allow", "/run/systemd/"), 2, "/run/systemd/resolve/io.systemd.Resolve is there"),
        (("home", "echo", "--allow", "/run/nscd/socket"), 2, "/run/nscd/socket is there"),
        (("home", "echo", "ehco"), 69, 'there is no unit "ehco.service"'),
    ],
)
def test_wrong_names(arguments: tuple[str, ...], status: int, words: str) -> None:
    """A typo ends with one line and changes nothing."""
    unit("wg@.service", PLAIN)
    before = tree()
    assert words in confine(*arguments, status=status)
    assert tree() == before


def test_a_drop_in_of_somebody_else() -> None:
    """A file of that name that it has not written stays, and confine and release refuse, unless it is empty."""
    DROP_IN.parent.mkdir()
    DROP_IN.write_text("[Service]\nNice=5\n")
    before = tree()
    assert "was not written by wgns confine: left as it is" in confine("home", "echo", status=1)
    assert run("wgns", "release", "echo").returncode == 1
    assert tree() == before
    DROP_IN.write_text("")
    confine("home", "echo")
    assert "NetworkNamespacePath=/run/netns/home\n" in DROP_IN.read_text()


def test_nixos() -> None:
    """There units are in the store: the message names the option."""
    Path("/etc/NIXOS").touch()
    try:
        assert 'hint: systemd.services.echo.wireguardTunnel = "home";' in confine("home", "echo", status=77)
        assert run("wgns", "release", "echo").returncode == 77
    finally:
        Path("/etc/NIXOS").unlink()


@pytest.mark.parametrize(
    ("settings", "others"),
    [("Type=oneshot", []), ("", ["echo.timer"]), ("", ["echo.path"]), ("Type=oneshot\nRemainAfterExit=yes", None)],
)
def test_what_starts_with_the_tunnel(settings: str, others: list[str] | None) -> None:
    """The tunnel does not start what ends by itself, nor what a timer or a path starts."""
    unit("echo.service", PLAIN + settings)
    for other in others or ():
        (SYSTEM / other).touch()
    confine("home", "echo")
    assert LINK.is_symlink() == (others is None)


@pytest.mark.parametrize(("socket", "settings"), [("echo.socket", ""), ("else.socket", "Sockets=else.socket\n")])
def test_a_service_with_a_socket(socket: str, settings: str) -> None:
    """Both are confined by one command, or none."""
    unit("echo.service", PLAIN + settings)
    (SYSTEM / socket).write_text("[Socket]\nListenStream=80\nService=echo.service\n")
    before = tree()
    for one in ("echo", socket) if socket == "echo.socket" else ("echo",):
        said = confine("home", one, "--allow", "/run/a", "--allow", "/run/b", status=1)
        assert "would stay in another network" in said
        assert said.endswith(" --allow /run/a --allow /run/b\n"), said
        assert tree() == before
    confine(*said.partition("hint: wgns confine ")[2].split())
    assert "BindPaths=/run/b\n" in DROP_IN.read_text()
    assert "[Socket]" in (SYSTEM / f"{socket}.d/wireguard.conf").read_text()
    assert (SYSTEM / f"wg-confined@home.service.wants/{socket}").is_symlink()
    assert not LINK.is_symlink()
    confine("home", "echo")  # the socket is confined already
    assert "--allow is for services" in confine("home", socket, "--allow", "/run/a", status=2)
    alone = run("wgns", "release", socket, "--restart")
    assert alone.returncode == 0 or alone.stderr.endswith(f"hint: wgns release {socket} echo.service --restart\n")
    assert (alone.returncode == 0) == (socket == "else.socket")  # which its files do not tell


def test_templates_and_instances() -> None:
    """A template confines all of its instances, and none of them starts with the tunnel; an instance only itself."""
    unit("echo@.service", PLAIN)
    assert "instances" not in confine("home", "echo@.service")
    assert (SYSTEM / "echo@.service.d/wireguard.conf").exists()
    assert "hint: wgns release echo@.service" in run("wgns", "release", "echo@joe.smith").stderr
    confine("work", "echo@joe.smith")
    link = SYSTEM / "wg-confined@work.service.wants/echo@joe.smith.service"
    assert link.readlink() == SYSTEM / "echo@.service"
    assert [path.name for path in SYSTEM.glob("wg-confined@*")] == ["wg-confined@work.service.wants"]


def test_the_tunnel_that_is_called_wg() -> None:
    """Its unit is wg.service where that is enabled, wg@wg.service otherwise; the link is the same."""
    confine("wg", "echo")
    assert "BindsTo=wg@wg.service\n" in DROP_IN.read_text()
    (SYSTEM / "multi-user.target.wants").mkdir()
    (SYSTEM / "multi-user.target.wants/wg.service").symlink_to("/usr/lib/systemd/system/wg.service")
    assert "not enabled" not in confine("wg", "echo")
    assert "BindsTo=wg.service\n" in DROP_IN.read_text()
    assert (SYSTEM / "wg-confined@wg.service.wants/echo.service").is_symlink()


def test_a_link_of_the_administrators_stays() -> None:
    """What was not confined is not released, and its own enablement stays."""
    LINK.parent.mkdir()
    LINK.symlink_to(SYSTEM / "echo.service")
    assert "echo.service is not confined" in run("wgns", "release", "echo").stderr
    assert LINK.is_symlink()


def test_a_former_link_goes() -> None:
    """The links that users made by hand for former versions do not start the unit with another tunnel."""
    for tunnel in ("wg@work.service", "wg.service"):
        (SYSTEM / f"{tunnel}.wants").mkdir()
        (SYSTEM / f"{tunnel}.wants/echo.service").symlink_to(SYSTEM / "echo.service")
    confine("home", "echo")
    assert [path.parent.name for path in SYSTEM.rglob("echo.service") if path.is_symlink()] == [LINK.parent.name]


def test_a_unit_that_is_gone_is_released() -> None:
    """What confined a unit can be taken away after its package is."""
    confine("home", "echo")
    (SYSTEM / "echo.service").unlink()
    assert run("wgns", "release", "echo").returncode == 0
    assert tree() == {}


@pytest.mark.parametrize("kind", ["error", "SIGTERM"])
def test_a_failure_at_each_step(kind: str) -> None:
    """A failing system call or a signal at any step of confining, moving or releasing leaves all as it was."""
    unit("other.service", PLAIN)
    for command in (("confine", "home", "echo", "other"), ("confine", "work", "echo", "other"), ("release", "echo")):
        before, step, ended = tree(), 0, None
        while not ended or len(ended.steps) >= step:
            step += 1
            ended = faults.run("wgns", *command, fault=Fault(step, kind, "before"))
            if ended.steps[step - 1 : step] != ["rmdir"]:  # a folder that is left empty is no failure
                assert (tree() == before) == bool(ended.status), (step, ended)
            if not ended.status:
                restore(before)
        assert step > 3
        assert run("wgns", *command).returncode == 0


def test_a_full_disk() -> None:
    """A drop-in is never half there."""
    before = tree()
    done = run("wgns", "confine", "home", "echo", before=("prlimit", "--fsize=100"))
    assert done.returncode == 1, done.stderr
    assert tree() == before


def test_a_kill_at_each_step() -> None:
    """After SIGKILL a drop-in is whole or not there, and the next run ends as if nothing had happened."""
    confine("home", "echo")
    wanted = tree()
    for step in range(1, 20):
        run("wgns", "release", "echo")
        ended = faults.run("wgns", "confine", "home", "echo", fault=Fault(step, "SIGKILL", "before"))
        assert not DROP_IN.exists() or DROP_IN.read_text() == wanted[str(DROP_IN)]
        assert DROP_IN.exists() or not LINK.is_symlink()  # by which the tunnel would start it unconfined
        if len(ended.steps) < step:
            break
        confine("home", "echo")
        assert tree() == wanted
    assert step > 3


def test_any_umask() -> None:
    """Every user can read the drop-in, as unit files are."""
    done = run("wgns", "confine", "home", "echo", before=("sh", "-c", 'umask 077; exec "$@"', "sh"))
    assert done.returncode == 0
    assert DROP_IN.stat().st_mode & 0o777 == 0o644
    assert DROP_IN.parent.stat().st_mode & 0o777 == 0o755
