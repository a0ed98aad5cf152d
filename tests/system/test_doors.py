"""`wgns publish` and `wgns reach` on a booted system: who gets an answer, when, and by which way."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import shell
from tests.system import guest
from tests.system.guest import UNITS, configure, confine, state, systemctl, wait_for
from tests.system.leak import HOST, RESOLVER

pytestmark = pytest.mark.usefixtures("since")
ROUTER = ("198.51.100.1", "2001:db8:1::1")  # another machine in the host's network
FETCH = """import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
        connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print(connection.makefile().readline() or "closed")
except OSError as error:
    print(type(error).__name__)
"""
SERVE = "python3 -m http.server --directory /usr/share/doc --bind"
SERVERS = {  # "confined": in the tunnel's namespace
    "echo-web": (f"{SERVE} 127.0.0.1 9091", "confined"),
    "echo-web6": (f"{SERVE} ::1 9091", "confined"),
    "echo-host": (f"{SERVE} :: 9092", ""),
    "echo-lan": (f"{SERVE} :: 9092", "NetworkNamespacePath=/run/netns/internet"),
}
# What is asked for; from which namespace ("" is the host's), and where it is answered then
PUBLISHED = {
    ("9091",): [("", "127.0.0.1", 9091)],
    ("0.0.0.0:9093", "9091"): [("", "127.0.0.1", 9093), ("internet", HOST[0], 9093)],
    ("[::]:9093", "[::1]:9091"): [("", "::1", 9093), ("internet", HOST[1], 9093)],
}
REACHED = {
    ("8081", f"{HOST[0]}:81"): [("demo", "127.0.0.1", 8081)],
    ("8082", "[::1]:9092"): [("demo", "127.0.0.1", 8082)],
    ("8083", f"{ROUTER[0]}:9092"): [("demo", "127.0.0.1", 8083)],
    ("8084", f"[{ROUTER[1]}]:9092"): [("demo", "127.0.0.1", 8084)],
    ("8085", "localhost:9092"): [("demo", "127.0.0.1", 8085)],
}
PLACES = [place for places in (*PUBLISHED.values(), *REACHED.values()) for place in places]
DOORS = [
    *("publish-demo-9091.socket", "publish-demo-0.0.0.0-9093.socket", "publish-demo-::-9093.socket"),
    *(f"reach-demo-{asked[0]}.socket" for asked in REACHED),
]


def answer(place: tuple[str, str, int]) -> str:
    """What the web server there answers to a client in a namespace; or "closed", or the error."""
    namespace, address, port = place
    argv = ["ip", "netns", "exec", namespace] if namespace else []
    argv += ["python3", "-c", FETCH, address, str(port)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def answers() -> dict[tuple[str, str, int], str]:
    """Those that are not as they should be with a tunnel that is up."""
    said = {place: answer(place) for place in PLACES}
    return {place: words for place, words in said.items() if "200 OK" not in words}


def wgns(*arguments: str, status: int = 0) -> str:
    """Run wgns; what it says."""
    done = subprocess.run(["wgns", *arguments], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == status, (done.returncode, done.stderr)
    return done.stderr + done.stdout


def serve(*servers: str) -> None:
    """Write units of web servers, and start those outside."""
    for name in servers:
        command, where = SERVERS[name]
        more = where if "=" in where else ""
        (UNITS / f"{name}.service").write_text(f"[Service]\nDynamicUser=yes\nExecStart={command}\n{more}\n")
        if where == "confined":
            confine(name, "demo")
    systemctl("daemon-reload")
    for name in servers:
        if SERVERS[name][1] != "confined":
            systemctl("start", name)


def listening(*servers: str) -> None:
    """Wait until those that are confined listen: active is not listening yet."""
    wait_for(lambda: shell("ip netns exec demo ss -Hltn").count(":9091 ") == len(servers))


@contextmanager
def connected(namespace: str, port: int) -> Iterator[None]:
    """A connection from a namespace to 127.0.0.1 there that stays."""
    code = (
        f"import socket; s = socket.create_connection(('127.0.0.1', {port}), 60); print(flush=True); print(s.recv(1))"
    )
    argv = [*(["ip", "netns", "exec", namespace] if namespace else []), "python3", "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout
        client.stdout.readline()
        yield
        assert client.stdout.readline() == "b''\n"


def test_doors_go_with_their_tunnel() -> None:
    """From the host, another machine and inside, by IPv4 and IPv6: up, down, up again and released."""
    configure()
    serve(*SERVERS)
    for verb, doors in (("publish", PUBLISHED), ("reach", REACHED)):
        for asked in doors:
            assert "from the next start of wg@demo.service on" in wgns(verb, "demo", *asked)
    assert answer(("", "127.0.0.1", 9091)) == "ConnectionRefusedError"
    for _time in range(2):
        systemctl("start", "wg@demo.service")
        wait_for(lambda: [door for door in DOORS if state(door) != "active"] == [])
        listening("echo-web", "echo-web6")
        assert answers() == {}
        links = [line.split()[0].partition("@")[0] for line in shell("ip -n demo -br link").splitlines()]
        assert [link for link in links if link not in ("sit0", "tunl0", "ip6tnl0")] == ["lo", "demo"]
        shell("ip -n demo link set demo down")  # the way does not lead through the tunnel
        assert answers() == {}
        shell("ip -n demo link set demo up")
        with connected("", 9093), connected("demo", 8081):
            systemctl("stop", "wg@demo.service")
        assert {answer(place) for place in PLACES} == {"ConnectionRefusedError"}
        units = shell("systemctl list-units --plain --no-legend 'publish-*' 'reach-*'")
        assert units == ""
    systemctl("start", "wg@demo.service")
    wait_for(lambda: [door for door in DOORS if state(door) != "active"] == [])
    with connected("", 9093), connected("demo", 8081):
        wgns("release", *DOORS)
    assert {answer(place) for place in PLACES} == {"ConnectionRefusedError"}
    assert [*UNITS.glob("publish-*"), *UNITS.glob("reach-*"), *UNITS.glob("wg*.wants/*-demo-*")] == []
    assert shell("systemctl list-units --all --plain --no-legend 'publish-*' 'reach-*'") == ""
    wgns("release", *DOORS)
    assert state("echo-web.service") == "active"


def test_doors_of_a_running_tunnel() -> None:
    """They open at once, lead elsewhere by a second command, and are in wgns status, which finds no fault in them."""
    configure()
    serve("echo-web", "echo-host")
    systemctl("start", "wg@demo.service")
    listening("echo-web")
    wgns("publish", "demo", "9094", "9099")
    assert answer(("", "127.0.0.1", 9094)) in ("closed", "ConnectionResetError")
    said = wgns("publish", "demo", "9094", "9091")
    assert 'wgns: 127.0.0.1:9094 leads to 127.0.0.1:9091 in "demo"\n' in said
    wgns("reach", "demo", "8081", "192.0.2.9:9")
    wgns("reach", "demo", "8081", f"{HOST[0]}:81")
    before = guest.show("publish-demo-9094.service")["MainPID"]
    for place in (("", "127.0.0.1", 9094), ("demo", "127.0.0.1", 8081)):
        assert "200 OK" in answer(place)
    wgns("publish", "demo", "9094", "9091")
    shell("ip netns exec demo ping -c 1 -W 20 10.64.0.1")
    (tunnel,) = json.loads(wgns("status", "demo", "--json"))["tunnels"]
    assert tunnel["published"] == ["127.0.0.1:9094 -> 127.0.0.1:9091"]
    assert tunnel["reaches"] == [f"127.0.0.1:8081 -> {HOST[0]}:81"]
    assert tunnel["confined"] == {"echo-web.service": "confined", "publish-demo-9094.service": "a door"}
    assert tunnel["faults"] == []
    assert guest.show("publish-demo-9094.service")["MainPID"] != before
    for line in ("published:      127.0.0.1:9094 -> 127.0.0.1:9091", "publish-demo-9094.service, a door: "):
        assert line in wgns("status", "demo")
    assert "not confined" not in wgns("status")
    wgns("release", "publish-demo-9094.service")
    wgns("release", "reach-demo-8081")
    assert answer(("", "127.0.0.1", 9094)) == answer(("demo", "127.0.0.1", 8081)) == "ConnectionRefusedError"


def test_a_door_that_does_not_open() -> None:
    """A port that is taken, and a socket that systemd does not start: nothing is left, and the former door is back."""
    configure()
    serve("echo-web", "echo-host")
    systemctl("start", "wg@demo.service")
    listening("echo-web")
    for port in ("9092", "0.0.0.0:9092", "[::]:9092"):
        said = wgns("publish", "demo", port, status=1)
        assert "is taken" in said
    assert '"127.0.0.1:9091" is taken in "demo"' in wgns("reach", "demo", "9091", "192.0.2.9:9", status=1)
    wgns("publish", "demo", "9095", "9091")
    for door in ("publish-demo-9094", "publish-demo-9095"):
        folder = Path(f"/run/systemd/system/{door}.socket.d")
        folder.mkdir(parents=True)
        (folder / "test.conf").write_text(
            "[Socket]\nExecStartPre=/bin/sh -c '! grep -qs :9098 /etc/systemd/system/%N.*'\n"
        )
    systemctl("daemon-reload")
    for port in ("9094", "9095"):
        assert "failed" in wgns("publish", "demo", port, "9098", status=1)
    assert "200 OK" in answer(("", "127.0.0.1", 9095))
    assert [path.name for path in sorted(UNITS.glob("publish-*"))] == [
        f"publish-demo-9095.{kind}" for kind in ("service", "socket")
    ]
    assert not [unit for unit in guest.failed() if unit.startswith("publish-")]
    for door in ("publish-demo-9094", "publish-demo-9095"):
        shell(f"rm -r /run/systemd/system/{door}.socket.d")


def test_a_name_is_looked_up_in_the_host() -> None:
    """The host's name server knows another machine by the name than the tunnel's, and that one answers."""
    Path("/etc/resolv.conf").write_text(f"nameserver {RESOLVER[0]}\n")
    configure()
    serve("echo-lan")
    systemctl("start", "dns@internet", "dns@far", "wg@demo.service")
    wgns("reach", "demo", "8081", "somebody.example:9092")
    wait_for(lambda: "200 OK" in answer(("demo", "127.0.0.1", 8081)))
    systemctl("stop", "dns@internet", "dns@far")
    Path("/etc/resolv.conf").unlink()


def test_the_proxy_reaches_one_address_only() -> None:
    """Another address in its command line does not help it; this takes eBPF."""
    configure()
    serve("echo-host", "echo-lan")
    systemctl("start", "wg@demo.service")
    for port, target, other in (("8081", HOST[0], ROUTER[0]), ("8082", f"[{ROUTER[1]}]", "::1")):
        wgns("reach", "demo", port, f"{target}:9092")
        assert "200 OK" in answer(("demo", "127.0.0.1", int(port)))
        argument = f"/usr/lib/systemd/systemd-socket-proxyd {other}:9092"
        guest.drop_in(f"reach-demo-{port}.service", f"[Service]\nExecStart=\nExecStart={argument}\n")
        systemctl("stop", f"reach-demo-{port}.service")
        assert "200 OK" not in answer(("demo", "127.0.0.1", int(port)))
