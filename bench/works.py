"""What run.py measures: the works, who does them and by which commands, and what has to be on disk for that."""

from __future__ import annotations

import base64
import compileall
import importlib.util
import ipaddress
import os
import shlex
import shutil
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
WORK = Path("/run/bench")  # on the sandbox's tmpfs
CYCLE = ("netns-up", "wg-up", "wg-down", "netns-down")
PROGRAMS = (*CYCLE, "wgns")
OURS, DASH, IN_PLACE, QUICK, PLAIN = "wgns-helpers", "dash", "dash, in place", "wg-quick", "pyroute2"
V4, V6 = "10.66.0.2", "fd66::2"
ENDPOINT = "192.0.2.1:51820"  # TEST-NET-1 (RFC 5737); nothing is sent there
AT_ONCE = (1, 10, 100)

# The scripts that this project replaces, and the same written better: a link made inside need not be moved, for which
# the kernel waits 25 ms, its UDP socket is outside all the same, `attach` names the script's own namespace, and one
# ip(8) does the rest. $1 is the name, $2 the kind of link, and $3 stands for what is to be done with wg(8).
SCRIPTS = {
    DASH: {
        "netns-up": "ip netns add $1; umount /var/run/netns/$1; mount --bind /proc/self/ns/net /var/run/netns/$1",
        "wg-up": f"""ip link add $1 type $2
$3
ip link set $1 netns $1 up
ip -n $1 address add {V4}/32 dev $1
ip -n $1 -6 address add {V6}/128 dev $1
ip -n $1 route add default dev $1
ip -n $1 -6 route add default dev $1""",
        "wg-down": "ip -n $1 link del $1; ip -n $1 route del default dev $1",
    },
    IN_PLACE: {
        "netns-up": "ip netns attach $1 $$",
        "wg-up": f"""ip link add $1 netns $1 type $2
ip netns exec $1 $3
ip -n $1 -batch - <<END
address add {V4}/32 dev $1
address add {V6}/128 dev $1
link set $1 up
route add default dev $1
route add ::/0 dev $1
END""",
        "wg-down": "ip -n $1 link del $1",
    },
}


class Tunnel(NamedTuple):
    """What one configuration has; without `routed` its allowed IPs are no routes."""

    peers: int = 1
    allowed_ips: int = 0  # of each peer; 0: everything
    routed: bool = True
    keepalive: int = 0  # of the last peer, in seconds

    def networks(self, peer: int) -> list[str]:
        """The allowed IPs of a peer."""
        first = peer * self.allowed_ips
        ipv4, ipv6 = ipaddress.IPv4Address("10.128.0.0"), ipaddress.IPv6Address("fd66:1::")
        found = [f"{ipv6 + n}/128" if n % 2 else f"{ipv4 + n}/32" for n in range(first, first + self.allowed_ips)]
        return found or ["0.0.0.0/0", "::/0"]

    def text(self, interface: str, peers: int | None = None) -> str:
        """A configuration with these lines under [Interface]."""
        lines = ["[Interface]", interface]
        for number in range(self.peers if peers is None else peers):
            lines += ["[Peer]", f"PublicKey = {public_key(number)}", f"Endpoint = {ENDPOINT}"]
            lines += [f"AllowedIPs = {', '.join(self.networks(number))}"]
            lines += [f"PersistentKeepalive = {self.keepalive}"] * (self.keepalive > 0 and number == self.peers - 1)
        return "\n".join([*lines, ""])


SIZES = {
    "wg-up, 100 peers": Tunnel(100, 1, routed=False),
    "wg-up, 1,000 peers": Tunnel(1000, 1, routed=False),
    "wg-up, 10,000 peers": Tunnel(10000, 1, routed=False),
    "wg-up, 100,000 allowed IPs": Tunnel(100, 1000, routed=False),
    "wg-up, 1,000 routes": Tunnel(1000, 1),
}
QUICK_LIMIT = 100  # peers; it is a shell script that looks at each line


class Step(NamedTuple):
    """Commands that run at the same time; what that takes belongs to `work`, or nobody's if that is empty."""

    work: str
    commands: list[list[str]]
    code: int = 0
    tunnel: Tunnel | None = None  # what has to be there afterwards


class Course(NamedTuple):
    """The steps by which somebody does one or more works, and leaves nothing behind."""

    who: str
    steps: list[Step]


def public_key(number: int) -> str:
    """A public key is any 32 bytes."""
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def install(kind: str) -> Path:
    """Make a virtual environment with the libraries and the project in it; its Python.

    The programs start as those of `make install` do: byte code is there, and `-IS` in their first line leaves out what
    site.py looks for.
    """
    home = WORK / "venv"
    venv.create(home, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home)}))
    for name in ("wgconfig", "pyroute2"):
        spec = importlib.util.find_spec(name)
        shutil.copytree(Path(str(spec and spec.origin)).parent, site / name)
    shutil.copytree(HERE.parent / "wgns_helpers", site / "wgns_helpers")
    shutil.copy(HERE / "standin.py", site)
    compileall.compile_dir(site, quiet=1, force=True)
    for program in PROGRAMS:
        script = home / "bin" / program
        text = (HERE.parent / "bin" / program).read_text(encoding="utf-8").partition("\n")[2]
        text = text.replace('sys.path[0] += "/.."', f'sys.path.insert(0, "{site}")')
        if kind != "wireguard" and program in ("wg-up", "wg-down"):
            text = text.replace("from wgns_helpers.cli", "import standin\nfrom wgns_helpers.cli")
        script.write_text(f"#!{home}/bin/python -IS\n{text}", encoding="utf-8")
        script.chmod(0o755)
    return home / "bin" / "python"


class Works:
    """All the courses, for links of one kind, with this Python."""

    def __init__(self, kind: str, python: Path) -> None:
        self.kind, self.python = kind, str(python)
        self.real = kind == "wireguard"
        self.key_file = write("key", base64.b64encode(os.urandom(32)).decode() + "\n")
        self.courses: list[Course] = []
        self._cycle()
        for work, tunnel in SIZES.items():
            self._size(work, tunnel)
        for number in AT_ONCE:
            self._at_once(number)
        self._again()
        self._looking()
        self._floors()

    def _ours(self, program: str, *arguments: str) -> list[str]:
        return [str(Path(self.python).with_name(program)), *arguments]

    def _dash(self, who: str, step: str, name: str = "wg", wg: str = "") -> list[str]:
        text = SCRIPTS[who][step].replace("$3", wg)
        return ["dash", write(f"{who}-{step}", text), name, self.kind]

    def _file(self, tunnel: Tunnel) -> str:
        """The configuration for ours."""
        table = "" if tunnel.routed else "Table = off\n"
        settings = f"PrivateKeyFile = {self.key_file}\nAddress = {V4}/32, {V6}/128\n{table}"
        return write(f"ours-{hash(tunnel)}.conf", tunnel.text(settings))

    def _wg_file(self, tunnel: Tunnel) -> str:
        """The configuration for wg(8)."""
        key = Path(self.key_file).read_text(encoding="ascii").strip()
        return write(f"wg-{hash(tunnel)}.conf", tunnel.text(f"PrivateKey = {key}"))

    def _quick_file(self, tunnel: Tunnel) -> str:
        """The configuration for wg-quick(8); with a Table= it makes no firewall rules."""
        key = Path(self.key_file).read_text(encoding="ascii").strip()
        table = "main" if tunnel.routed else "off"
        settings = f"PrivateKey = {key}\nAddress = {V4}/32, {V6}/128\nTable = {table}"
        folder = Path(f"quick-{hash(tunnel)}")
        return write(str(folder / "wg.conf"), tunnel.text(settings))

    def _wg_set(self) -> str:
        allowed = "allowed-ips 0.0.0.0/0,::/0"
        return f"wg set $1 private-key {self.key_file} peer {public_key(0)} {allowed} endpoint {ENDPOINT}"

    def _cycle(self) -> None:
        """The four programs. A netns-up that names the namespace that it runs in gets a fresh one."""
        one = Tunnel()
        fresh = ["unshare", "-n"]
        write("/etc/wireguard/wg.conf", Path(self._file(one)).read_text(encoding="ascii"))
        plain = [self.python, str(HERE / "with_pyroute2.py")]
        ip_netns = {"netns-up": ["ip", "netns", "add", "wg"], "netns-down": ["ip", "netns", "del", "wg"]}
        commands = {
            OURS: {program: self._ours(program, "wg") for program in CYCLE},
            PLAIN: {step: [*plain, step, self.kind, self.key_file, public_key(0)] for step in CYCLE},
        }
        for who, scripts in SCRIPTS.items():
            commands[who] = ip_netns | {step: self._dash(who, step, wg=self._wg_set()) for step in scripts}
        for each in commands.values():
            each["netns-up"] = fresh + each["netns-up"]
        if self.real:  # wg-quick looks for itself what is a tunnel, and knows no other kind of link
            # Its UDP socket ends up inside: no way out, but the same work
            file = self._quick_file(one)
            quick = {f"wg-{way}": ["ip", "netns", "exec", "wg", "wg-quick", way, file] for way in ("up", "down")}
            commands[QUICK] = ip_netns | quick
        for who, each in commands.items():
            # Of dash, the route that wg-down deletes has gone with the link
            codes = {"wg-down": 1} if who == DASH else {}
            steps = [Step(s, [each[s]], codes.get(s, 0), one if s == "wg-up" else None) for s in CYCLE]
            self.courses.append(Course(who, steps))

    def _size(self, work: str, tunnel: Tunnel) -> None:
        """wg-up with a large configuration."""
        up = {OURS: self._ours("wg-up", "wg", "--config", self._file(tunnel))}
        routes = ""
        if tunnel.routed:
            networks = [network for peer in range(tunnel.peers) for network in tunnel.networks(peer)]
            batch = write(f"routes-{hash(tunnel)}", "".join(f"route add {n} dev wg\n" for n in networks))
            routes = f"\nip -n wg -batch {batch}"
        for who, scripts in SCRIPTS.items():
            text = scripts["wg-up"].replace("$3", f"wg setconf wg {self._wg_file(tunnel)}") + routes
            up[who] = ["dash", write(f"{who}-{hash(tunnel)}", text), "wg", self.kind]
        if self.real and tunnel.peers * (tunnel.allowed_ips or 1) <= QUICK_LIMIT:
            up[QUICK] = ["ip", "netns", "exec", "wg", "wg-quick", "up", self._quick_file(tunnel)]
        for who, command in up.items():
            self.courses.append(Course(who, [*made("wg"), Step(work, [command], tunnel=tunnel), *gone("wg")]))

    def _at_once(self, number: int) -> None:
        """wg-up for several tunnels at the same time."""
        names = [f"t{n}" for n in range(number)]
        file = self._file(Tunnel())
        up = {OURS: [self._ours("wg-up", name, "--config", file) for name in names]}
        for who in SCRIPTS:
            up[who] = [self._dash(who, "wg-up", name, self._wg_set()) for name in names]
        work = f"{number} tunnel{'s' * (number > 1)} at once"
        for who, commands in up.items():
            self.courses.append(Course(who, [*made(*names), Step(work, commands), *gone(*names)]))

    def _again(self) -> None:
        """A second wg-up; others change only peers. To compare, the kernel's WireGuard has to be read."""
        if not self.real:
            return
        for peers in (1, 1000):
            before, after = (Tunnel(peers, peers > 1, routed=False, keepalive=keepalive) for keepalive in (25, 30))
            files = {
                OURS: [self._ours("wg-up", "wg", "--config", self._file(tunnel)) for tunnel in (before, after)],
                "wg syncconf": [
                    ["ip", "netns", "exec", "wg", "wg", "syncconf", "wg", self._wg_file(tunnel)]
                    for tunnel in (before, after)
                ],
            }
            for who, (same, other) in files.items():
                first = Step("", [files[OURS][0]], tunnel=before)
                size = f"{peers:,} peer{'s' * (peers > 1)}"
                again = [Step(f"once more, {size}, no difference", [same], tunnel=before)]
                again += [Step(f"once more, {size}, one difference", [other], tunnel=after)]
                self.courses.append(Course(who, [*made("wg"), first, *again, *gone("wg")]))

    def _looking(self) -> None:
        """Wgns check and wgns status, and what one would type instead."""
        up = Step("", [self._ours("wg-up", "wg", "--config", self._file(Tunnel()))])
        by_hand = "ip -n wg -d link show; ip -n wg address show; ip -n wg route show table all"
        check, status = "wgns check", "wgns status"
        ours = [up, Step(check, [self._ours("wgns", "check", "wg")], 1)]  # by hand in the host, it says no
        other = [up, Step(check, [["dash", "-c", f"{by_hand}; cat /etc/netns/wg/resolv.conf"]])]
        if self.real:
            ours.append(Step(status, [self._ours("wgns", "status", "wg")]))
            seen = f"{by_hand}; ip netns exec wg wg show wg dump; ip netns pids wg"
            other.append(Step(status, [["dash", "-c", seen]]))
        self.courses += [Course(OURS, [*made("wg"), *ours, *gone("wg")])]
        self.courses += [Course("ip and wg", [*made("wg"), *other, *gone("wg")])]

    def _floors(self) -> None:
        """Commands that do nothing: what a start costs."""
        starts = [[self.python, "-c", "pass"], [self.python, "-IS", "-c", "pass"], ["ip", "-V"], ["dash", "-c", ":"]]
        starts.append(["unshare", "-n", "true"])
        for start in starts:
            name = shlex.join(["python3" if word == self.python else word for word in start])
            self.courses.append(Course(name, [Step("start", [start])]))


def made(*names: str) -> list[Step]:
    """Make namespaces."""
    return [Step("", [["dash", "-c", "; ".join(f"ip netns add {name}" for name in names)]])]


def gone(*names: str) -> list[Step]:
    """Take them away again, with what is in them and what wg-up wrote for them; the kernel does that later."""
    remove = "; ".join(f"ip netns del {name}" for name in names)
    return [Step("", [["dash", "-c", f"{remove}; rm -rf /etc/netns; sleep {0.1 + len(names) / 100}"]])]


def write(name: str, text: str) -> str:
    """Write a file that only root can read, in the working folder; its path."""
    path = WORK / name.replace(", ", "-").replace(" ", "-")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(text, encoding="ascii")
    path.chmod(0o600)
    return str(path)
