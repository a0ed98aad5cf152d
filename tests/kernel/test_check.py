"""wgns check: what it says of a process that is confined, and of one that is not."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import has_wireguard
from tests.kernel.test_imports import assert_within_budget, loaded
from tests.support import MINIMAL, POWERLESS, ROOT, run, shell
from wgns_helpers import dns_files, inbound, netlink, netns
from wgns_helpers.tunnel import Port, Tunnel, ports

TUNNEL = Tunnel(private_key=b"k" * 32, dns=("10.64.0.1",))
# The mounts of a confined service; in the sandbox /run has no sockets
INSIDE = """
mount --bind /run/wgns/demo/resolv.conf /etc/resolv.conf
mount --bind /run/wgns/demo/nsswitch.conf /etc/nsswitch.conf
mount -t sysfs sysfs /sys
mount -t proc -o hidepid=4 proc /proc
"""
# Where the kernel has no WireGuard, a link of another kind stands in, and a file says that it is one
STANDIN = """
echo DEVTYPE=wireguard > /run/uevent
mount --bind /run/uevent /sys/class/net/demo/uevent
"""
KIND = "wireguard" if has_wireguard() else "ifb"
CHECK = (sys.executable, str(ROOT / "bin/wgns"), "check", "demo", "--json")
AS_A_SERVICE = (sys.executable, str(ROOT / "tests/kernel/restricted.py"))
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "/mnt/bin/wgns")


@pytest.fixture
def readable() -> Iterator[None]:
    """The programs at a place that every user can read: a checkout below /root is none."""
    shell(f"mount -t tmpfs -o mode=755 tmpfs /mnt; cp -r {ROOT}/bin {ROOT}/wgns_helpers /mnt")
    yield
    shell("umount /mnt")


@pytest.fixture
def confined() -> None:
    """A namespace as wg-up leaves it."""
    run("netns-up", "demo")
    shell(f"""
    ip -n demo link add demo type {KIND}
    ip -n demo address add 10.9.0.2/32 dev demo
    ip -n demo link set demo up
    ip -n demo route add default dev demo
    """)
    dns_files.write(dns_files.diff("demo", "demo", TUNNEL))
    shell("mkdir -p -m 700 /etc/wireguard")
    Path("/etc/wireguard/demo.conf").write_text(MINIMAL.replace("[Peer]", "OpenPorts = 51413\nPostUp = true\n[Peer]"))
    with open(netns.open_namespace("demo"), "rb") as namespace, netns.Inside(namespace.fileno()):
        filtered(ports("51413"))


def filtered(wanted: tuple[Port, ...] | None) -> None:
    """Have the namespace of this process closed but for these ports."""
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sockets:
        for request in inbound.change("demo", inbound.read(sockets, "demo"), wanted):
            sockets.run([request])


def inside(
    damage: str, command: tuple[str, ...], where: str = "nsenter --net=/run/netns/demo"
) -> subprocess.CompletedProcess[str]:
    """Run a command inside, in mounts of its own, after `damage` in these."""
    prepared = INSIDE + (STANDIN if KIND == "ifb" and where.startswith("nsenter") else "")
    script = f'{where} unshare --mount sh -euc \'{prepared}{damage}\nexec "$@"\' sh "$@"'
    done = subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def answer(done: subprocess.CompletedProcess[str]) -> tuple[int, dict[str, bool | None]]:
    """The exit status of wgns check --json, and what it says of each point."""
    return done.returncode, {row["point"]: row["holds"] for row in json.loads(done.stdout)["points"]}


def check(
    damage: str = "", less: str = "", command: tuple[str, ...] = CHECK, where: str = "nsenter --net=/run/netns/demo"
) -> tuple[int, dict[str, bool | None]]:
    """Have wgns check judge itself as a service, after `damage` in its mounts, and with `less` restrictions."""
    return answer(inside(damage, (*AS_A_SERVICE, less, *command), where))


POINTS = {"namespace", "host", "capabilities", "no_new_privs", "keyrings", "forwarding", "links"}
ALL = POINTS | {"resolv.conf", "nsswitch.conf", "sockets"}
HOLDS = {**dict.fromkeys(ALL, True), "inbound": None}  # which takes root with its capabilities
IN_DEMO = "ip -n demo"
BREAKAGES = {
    "namespace without a name": ("umount /run/netns/demo", {"namespace"}),
    "name of a plain file": ("umount /run/netns/demo; echo > /run/netns/demo", {"namespace"}),
    "name hidden": ("mount -t tmpfs tmpfs /run/netns", {"namespace"}),
    "another link up": (f"{IN_DEMO} link add eth0 type bridge; {IN_DEMO} link set eth0 up", {"links"}),
    "another link down": (f"{IN_DEMO} link add eth0 type bridge", {"links"}),
    "no link": (f"{IN_DEMO} link set demo name other", {"links"}),
    "a link of another kind": (
        "echo DEVTYPE=bridge > /run/kind; mount --bind /run/kind /sys/class/net/demo/uevent",
        {"links"},
    ),
    "the host's processes": ("umount /proc", {"host"}),
    "a namespace that forwards": ("echo 1 > /proc/sys/net/ipv4/ip_forward", {"forwarding"}),
    "one that routes 127.0.0.1": ("echo 1 > /proc/sys/net/ipv4/conf/demo/route_localnet", {"forwarding"}),
    "one that forwards IPv6": ("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding", {"forwarding"}),
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
RESTRICTIONS = {
    "caps": {"capabilities", "host"},  # with CAP_SYS_PTRACE, all processes are visible
    "nnp": {"no_new_privs"},
    "filter": {"keyrings"},
    "request_key": {"keyrings"},
    "add_key": {"keyrings"},
    "keyctl": {"keyrings"},
    "caps,nnp,filter": {"capabilities", "host", "no_new_privs", "keyrings"},
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_no_to_what_is_broken(breakage: str, confined: None) -> None:
    """Each breakage is named at its point, and at no other; the exit status is 1."""
    damage, points = BREAKAGES[breakage]
    try:
        status, found = check("mount -t tmpfs tmpfs /run/systemd 2> /dev/null || :\n" + damage)
    finally:
        shell("rm -rf /run/nscd /run/systemd /run/dbus /run/avahi-daemon")
    assert status == 1
    assert {point for point, holds in found.items() if holds is False} == points


@pytest.mark.parametrize("less", RESTRICTIONS)
def test_no_to_what_it_may_do(less: str, confined: None) -> None:
    """A capability that leads out, set-id programs and keyrings that are left to the service: each is named."""
    status, found = check(less=less)
    assert status == 1
    assert {point for point, holds in found.items() if holds is False} == RESTRICTIONS[less]


def test_yes_to_what_is_whole(confined: None, readable: None) -> None:
    """All points hold, as root and as an ordinary user; also without a default route, without IPv6, and link down."""
    assert check() == (0, HOLDS)
    assert check(command=(*NOBODY, *CHECK[2:])) == (0, HOLDS)
    shell(f"{IN_DEMO} route flush default; {IN_DEMO} link set demo down")
    assert check() == (0, HOLDS)


@pytest.mark.wireguard
def test_a_link_is_a_tunnel_by_its_kind(confined: None) -> None:
    """A link with the tunnel's name that is not WireGuard's is none."""
    assert check()[0] == 0
    shell(f"{IN_DEMO} link delete demo; {IN_DEMO} link add demo type bridge")
    status, found = check()
    assert (status, found["links"]) == (1, False)


WHERES = {
    "by hand": "env",
    "a unit": "env SYSTEMD_EXEC_PID=1 INVOCATION_ID=x",
    "a namespace of its own": "unshare --net",
    "a container without systemd": "unshare --net --pid --fork --mount-proc --ipc --uts --cgroup",
}


@pytest.mark.parametrize("where", WHERES)
def test_it_judges_the_process_that_asks(where: str, confined: None) -> None:
    """By hand in the host, in a container, in any control group: a process that is not confined hears no.

    So `wgns check demo && daemon` does not start the daemon.
    """
    for privileges in (AS_A_SERVICE, (*AS_A_SERVICE[:2], "caps,nnp,filter")):
        argv = [*WHERES[where].split(), *privileges, *([""] if privileges is AS_A_SERVICE else []), *CHECK]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        status, found = answer(done)
        assert (status, found["namespace"], found["links"]) == (1, False, False)
        assert ("hint: --unit UNIT or --pid PID" in done.stderr) == (found["host"] is False)


def test_another_process(confined: None) -> None:
    """Root asks of another process by --pid: what it sees and what it may do, not what the one that asks does."""
    for less, damage, points in (
        ("", "", set()),
        ("caps,nnp", "", {"capabilities", "no_new_privs"}),
        ("filter", "", {"keyrings"}),
        ("", "umount /etc/resolv.conf; umount /proc", {"resolv.conf", "host"}),
        ("", "umount /proc; mount -t proc -o hidepid=2 proc /proc", {"host"}),  # which shows all to root's group
        ("", "mkdir /run/nscd; touch /run/nscd/socket", {"sockets"}),
        ("", "mount -t tmpfs tmpfs /etc", {"resolv.conf", "nsswitch.conf"}),
        ("", "mkfifo /run/fifo; mount --bind /run/fifo /etc/resolv.conf", {"resolv.conf"}),  # which holds nobody up
        ("", f"{IN_DEMO} link add eth0 type bridge", {"links"}),
        ("", "sed -i s/51413/51414/ /etc/wireguard/demo.conf", {"inbound"}),
    ):
        prepared = INSIDE + (STANDIN if KIND == "ifb" else "")
        script = f"{prepared}{damage}\nexec {' '.join(AS_A_SERVICE)} '{less}' sh -c 'echo; sleep 60'"
        argv = ["nsenter", "--net=/run/netns/demo", "unshare", "--mount", "sh", "-euc", script]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            done = run("wgns", "check", "demo", "--pid", str(process.pid), "--json")
            process.kill()
        shell("pkill sleep || :; rm -rf /run/nscd /run/fifo; ip -n demo link delete eth0 2> /dev/null || :")
        status, found = answer(done)
        assert {point for point, holds in found.items() if holds is False} == points
        assert (status, "warning: " in done.stderr) == (bool(points), False)  # wg-up has warned of PostUp already
    unconfined = run("wgns", "check", "demo", "--pid", "1", "--json")
    assert answer(unconfined)[1]["namespace"] is False
    assert answer(unconfined)[0] == 1


def test_a_process_that_cannot_be_judged(confined: None, readable: None) -> None:
    """A number that is no process, what is no number, and another user's process without root."""
    assert run("wgns", "check", "demo", "--pid", "4194304").returncode == 69
    for wrong in ("x", "-1", ""):
        assert run("wgns", "check", "demo", f"--pid={wrong}").returncode == 2
    assert run("wgns", "check", "demo", "--pid", "1", "--unit", "a").returncode == 2
    other = subprocess.run([*NOBODY, "check", "demo", "--pid", "1"], capture_output=True, text=True, check=False)
    assert other.returncode in (1, 69, 77), other.stderr


def test_the_name_is_found(confined: None) -> None:
    """Inside, NAME can be left out; in the host, or where the names are hidden, it is asked for."""
    assert check(command=tuple(word for word in CHECK if word != "demo"))[0] == 0
    done = run("wgns", "check")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "wgns: hint: wgns check NAME")


def test_it_loads_little(confined: None) -> None:
    """It runs before each start of a service: no pyroute2, no json, nothing that costs milliseconds."""
    names, code = loaded("wgns", "check", "demo")
    assert code == 1
    assert_within_budget("wgns check", names)


def environment() -> dict[str, str]:
    """Of who has called sudo: an ordinary user."""
    return {"SUDO_UID": "65534", "SUDO_GID": "65534"}


def execute(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `wgns exec demo` with these arguments. It takes no other kind of link, so these tests need WireGuard."""
    return run("wgns", "exec", "demo", *arguments, **options)


@pytest.mark.wireguard
def test_a_command_is_isolated(confined: None, unchanged: None) -> None:
    """The namespace, its resolv.conf and nsswitch.conf, a /run with nothing of the host's, and no descriptors."""
    shell("mkdir -p /run/nscd /run/dbus; touch /run/nscd/socket /run/dbus/system_bus_socket")
    shell("rm /etc/resolv.conf; echo nameserver 192.0.2.1 > /run/host.conf; ln -s /run/host.conf /etc/resolv.conf")
    [hosts] = [line for line in Path("/run/wgns/demo/nsswitch.conf").read_text().splitlines() if "hosts:" in line]
    script = "cat /etc/resolv.conf /etc/nsswitch.conf; ls -A /run /run/netns; ls /proc/self/fd; id -u; pwd; echo $HOME"
    low = os.open("/", os.O_RDONLY)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = os.dup2(low, soft - 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))  # below which closerange(3, SC_OPEN_MAX) ends
    try:
        done = execute("sh", "-c", script, env=environment(), pass_fds=[low, high], cwd="/usr")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(low)
        os.close(high)
        shell("rm -r /run/nscd /run/dbus /run/host.conf /etc/resolv.conf; echo > /etc/resolv.conf")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert {"nameserver 10.64.0.1", hosts} <= set(lines)
    assert not {"resolve", "mdns4"} & set(hosts.split())
    assert lines[lines.index("/run:") : lines.index("/run/netns:") + 2] == [
        "/run:",
        "host.conf",
        "netns",
        "",
        "/run/netns:",
        "demo",
    ]
    assert lines[-7:] == ["0", "1", "2", "3", "65534", "/usr", "/nonexistent"]  # 3 is the folder that ls reads


TRY_KEYRING = """import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
result = libc.syscall(int(sys.argv[1]), b"dns_resolver", b"host.example", b"", -3)
print(errno.errorcode[ctypes.get_errno()] if result < 0 else "asked")
"""
TRY_TERMINAL = """import errno, fcntl, os, pty
leader, terminal = pty.openpty()
for request in (0x5412, 0x541C, 0x100005412):  # TIOCSTI, TIOCLINUX, and one whose upper half the kernel ignores
    try:
        fcntl.ioctl(terminal, request & 0xFFFFFFFF, b"x" * 8)
        print("put in")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
LEADING_OUT = (2, 12, 16, 17, 19, 21, 22, 27, 38, 39)  # linux/capability.h: DAC_READ_SEARCH, NET_ADMIN, …, BPF
REQUEST_KEY = {"x86_64": 249, "aarch64": 218}  # asm/unistd.h


@pytest.mark.wireguard
def test_a_command_cannot_ask_the_kernel(confined: None) -> None:
    """By a key of type dns_resolver the kernel would have a name looked up in the host; refused in each ABI."""
    number = str(REQUEST_KEY[os.uname().machine])
    assert execute("python3", "-c", TRY_KEYRING, number, env=environment()).stdout == "EPERM\n"
    assert execute("python3", "-c", TRY_KEYRING, number).stdout == "EPERM\n"
    if os.uname().machine == "x86_64":
        x32 = str(0x40000000 + REQUEST_KEY["x86_64"])
        assert execute("python3", "-c", TRY_KEYRING, x32).stdout == "EPERM\n"
        outside = subprocess.run(["python3", "-c", I386], capture_output=True, text=True, check=False)
        if outside.stdout == "EFAULT\n":  # this kernel runs 32-bit programs
            assert execute("python3", "-c", I386).stdout == "EPERM\n"


# request_key(2) by int 0x80, the system calls of 32-bit programs, which answer with -errno
I386 = """import ctypes, errno, mmap
code = bytes.fromhex("53b81f010000" "31db31c931d231f6" "cd80" "5bc3")  # mov eax, 287; arguments of 0; int 0x80
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(errno.errorcode.get(-function(), "asked"))
"""


@pytest.mark.wireguard
def test_a_command_puts_nothing_into_the_terminal(confined: None) -> None:
    """TIOCSTI and TIOCLINUX would push a command into the shell of the root whose terminal it is."""
    assert execute("python3", "-c", TRY_TERMINAL, env=environment()).stdout.split() == ["EPERM"] * 3


@pytest.mark.wireguard
def test_a_command_gains_nothing(confined: None) -> None:
    """No set-id program makes it somebody else, root lacks what leads out, and the host's processes are hidden."""
    shell("mkdir -m 700 -p /etc/wireguard; echo secret > /etc/wireguard/demo.conf")
    shell("cp /bin/id /run/set-id; chmod 4755 /run/set-id; mkdir -p /opt; mv /run/set-id /opt/set-id")
    try:
        for user in ("daemon", "root"):
            script = "/opt/set-id -u; grep -E 'NoNewPrivs|CapEff' /proc/self/status; ls /proc/1/net /etc/wireguard/*; "
            script += "ls /sys/class/net; : > /proc/sys/kernel/core_pattern"
            done = execute("--user", user, "sh", "-c", script)
            uid, capabilities, sealed, *links = done.stdout.split("\n")
            assert uid == ("1" if user == "daemon" else "0")
            assert sealed.split() == ["NoNewPrivs:", "1"]
            assert [bit for bit in LEADING_OUT if int(capabilities.split()[1], 16) >> bit & 1] == []
            assert sorted(filter(None, links)) == sorted(shell("ip netns exec demo ls /sys/class/net").split())
            refused = ("No such file", "ermission denied", "Read-only file system")
            assert sum(map(done.stderr.count, refused)) == 3, done.stderr
    finally:
        shell("rm -f /opt/set-id")


@pytest.mark.wireguard
def test_a_caller_hands_down_no_capability(confined: None) -> None:
    """Capabilities that the caller has made inheritable, and that lead out, are gone for every user."""
    caller = ("setpriv", "--inh-caps=+net_admin,+chown")
    for user in ("daemon", "root"):
        done = execute("--user", user, "grep", "CapInh", "/proc/self/status", before=caller)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[1], 16) == 0


@pytest.mark.wireguard
def test_a_commands_end_is_that_of_wgns(confined: None) -> None:
    """Exit status and signals pass through; a command that cannot be run gives 127 or 126, as with env(1)."""
    for command, status in {"exit 3": 3, "kill -TERM $$": -15, "kill -PIPE $$": -13}.items():
        assert execute("--", "sh", "-c", command).returncode == status
    assert execute("no-such-command").returncode == 127
    assert execute("/etc").returncode == 126


@pytest.mark.wireguard
def test_a_command_stands_where_it_was_called(confined: None) -> None:
    """The working folder is the caller's; one in /run is hidden, and cannot be reached by its old place either."""
    assert execute("pwd", cwd="/usr").stdout == "/usr\n"
    Path("/run/secret").mkdir()
    done = execute("sh", "-c", "pwd; ls ..; ls /run", cwd="/run/secret")
    Path("/run/secret").rmdir()
    assert done.stdout.splitlines()[0] == "/"
    assert "secret" not in done.stdout
    assert "/run/secret cannot be entered: the command starts in /" in done.stderr
    Path("/opt/closed").mkdir(mode=0o700, parents=True, exist_ok=True)
    done = execute("--user", "daemon", "pwd", cwd="/opt/closed")  # as the user: nobody gets into a folder by root
    Path("/opt/closed").rmdir()
    assert (done.stdout, "cannot be entered" in done.stderr) == ("/\n", True)


@pytest.mark.wireguard
def test_whose_the_command_is(confined: None) -> None:
    """The command runs as root, as the caller of sudo, pkexec or doas, or as --user; an unknown user is refused."""
    assert execute("id", "-u").stdout == "0\n"
    assert execute("--user", "daemon", "id", "-un", env=environment()).stdout == "daemon\n"
    assert execute("id", "-G", env=environment()).stdout == "65534\n"
    assert execute("id", "-u", env={"PKEXEC_UID": "65534"}).stdout == "65534\n"
    assert execute("id", "-un", env={"DOAS_USER": "daemon"}).stdout == "daemon\n"
    assert execute("--user", "daemon", "ls", "/run/netns", umask=0o077).stdout == "demo\n"
    assert execute("sh", "-c", "umask", umask=0o077).stdout == "0077\n"
    assert execute("--user", "nobody-there", "true").returncode == 2
    assert execute("--user", "9" * 30, "true").returncode == 2
    assert execute("true", before=POWERLESS).returncode == 77


@pytest.mark.wireguard
def test_a_command_of_roots_is_said(confined: None) -> None:
    """Where nobody says whose the command is, it is root's, with a warning; `--user root` means it."""
    assert "warning: the command runs as root" in execute("true").stderr
    assert "warning: the command runs as root" in execute("true", env={"SUDO_UID": "0"}).stderr
    assert execute("--user", "root", "true").stderr == ""


@pytest.mark.wireguard
def test_a_user_who_cannot_read_the_library(confined: None) -> None:
    """A command runs as a user who cannot read Python's library, or our own: all is loaded before."""
    hidden = f"mount -t tmpfs -o mode=700 tmpfs /mnt; cp -r {ROOT}/bin {ROOT}/wgns_helpers /mnt; "
    hidden += 'exec env -u PYTHONDEVMODE "$@"'
    argv = ["unshare", "--mount", "--propagation", "slave", "sh", "-euc", hidden, "sh", sys.executable]
    argv += ["/mnt/bin/wgns", "exec", "demo", "--user", "daemon", "id", "-un"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "daemon\n", "")


@pytest.mark.wireguard
def test_a_command_does_not_run_unconfined(confined: None) -> None:
    """With a second way out of the namespace, a missing file or no tunnel, nothing is executed."""
    assert run("wgns", "exec", "nobody", "echo", "ran").returncode == 69
    shell(f"{IN_DEMO} link add eth0 type bridge; {IN_DEMO} link set eth0 up")
    done = execute("echo", "ran")
    assert (done.returncode, done.stdout) == (77, "")
    shell(f"{IN_DEMO} link del eth0; rm /run/wgns/demo/resolv.conf")
    done = execute("echo", "ran")
    assert (done.returncode, done.stdout) == (69, "")
    assert "there is no /run/wgns/demo/resolv.conf" in done.stderr


@pytest.mark.wireguard
def test_a_command_sees_what_is_allowed_of_run(confined: None) -> None:
    """`wgns exec --allow PATH` shows the command a socket or a folder of the host's /run, which it can write to."""
    shell("mkdir -p /run/user/1000; touch /run/user/1000/wayland-0 /run/user/1000/bus; mkdir /run/database")
    script = "ls /run/user/1000; echo new > /run/database/file; ls /run"
    allowed = ("--allow", "/run/user/1000/wayland-0", "--allow", "/run/database/")
    done = execute("--user", "root", *allowed, "sh", "-c", script)
    assert done.stdout.split() == ["wayland-0", "database", "netns", "user"], done.stderr
    assert Path("/run/database/file").read_text() == "new\n"
    for path in ("/run/user/1000", "/run/user/1000/bus", "/run/dbus", "/etc"):
        assert execute("--user", "root", "--allow", path, "true").returncode == 2
    shell("rm -r /run/user /run/database")
