"""A service that tries every way out of where it is, without asking whether it could work.

It does a round of that from its first moment on, and more for as long as a test is connected to its socket. A way out
has the name that the capture (tests/system/capture.py) gives to the packet that leaves by it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

UPLINK = "uplink"  # the host's only link to the outside
HOST = ("198.51.100.2", "2001:db8:1::2")  # the uplink's addresses
RESOLVER = ("192.0.2.53", "2001:db8:2::53")  # the name server in the host's resolv.conf
SOMEBODY = ("192.0.2.80", "2001:db8:2::80")  # every name has these addresses for who asks there
MEMBER = ("10.64.0.80", "fd00:64::80")  # and these for who asks the tunnel's name server
GROUPS = {  # multicast
    "224.0.0.251": 5353,  # mDNS
    "ff02::fb": 5353,
    "224.0.0.252": 5355,  # LLMNR
    "ff02::1:3": 5355,
    "239.255.255.250": 1900,  # SSDP
    "ff02::c": 1900,
    "255.255.255.255": 67,
}
EXPERIMENTAL, ETHERTYPE = 253, 0x88B5  # RFC 3692, IEEE 802: for what a probe likes to send
SOCKETS = {
    "nscd": "/run/nscd/socket",
    "resolved": "/run/systemd/resolve/io.systemd.Resolve",
    "D-Bus": "/run/dbus/system_bus_socket",
}

Way = Callable[[str], object]  # given the round's number; what it returns is a socket to wait at, or what was answered


def family(address: str) -> socket.AddressFamily:
    """The family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(address: str, port: int, _: str) -> socket.socket:
    """Begin to connect."""
    made = socket.socket(family(address), socket.SOCK_STREAM)
    made.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        made.connect((address, port))
    return made


def udp(address: str, port: int, _: str, data: bytes = b"?", before: Callable[..., object] = id) -> socket.socket:
    """Send a datagram, after something has been done `before` to the socket."""
    made = socket.socket(family(address), socket.SOCK_DGRAM)
    made.settimeout(0)
    before(made)
    made.sendto(data, (address, port))
    return made


def from_uplink(made: socket.socket) -> None:
    """Take the uplink's address, even where it is not."""
    inet6 = made.family == socket.AF_INET6
    made.setsockopt(*((socket.IPPROTO_IPV6, 78) if inet6 else (socket.IPPROTO_IP, 15)), 1)  # IPV6_FREEBIND, IP_FREEBIND
    made.bind((HOST[inet6], 0))


def bound_to_uplink(made: socket.socket) -> None:
    """Take the uplink itself."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, UPLINK.encode())


def group(address: str, port: int, _: str) -> None:
    """Send a datagram to a group by each of the links."""
    for index, _name in socket.if_nameindex():
        with socket.socket(family(address), socket.SOCK_DGRAM) as made, contextlib.suppress(OSError):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _name.encode())
            made.sendto(b"?", (address, port, 0, index) if ":" in address else (address, port))


def ping(address: str, _: str) -> socket.socket:
    """Ask for an echo by a raw socket."""
    made = socket.socket(family(address), socket.SOCK_RAW, 58 if ":" in address else 1)
    made.connect((address, 0))
    made.send(bytes.fromhex("8000000000000001" if ":" in address else "0800f7fe00000001"))
    return made


def raw(address: str, _: str) -> None:
    """Send a packet of a protocol that nobody has."""
    with socket.socket(family(address), socket.SOCK_RAW, EXPERIMENTAL) as made:
        made.sendto(b"?", (address, 0))


def frame(_: str) -> None:
    """Send frames to all, past the IP layer, by each of the links."""
    for _index, name in socket.if_nameindex():
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as made, contextlib.suppress(OSError):
            made.sendto(b"?" * 46, (name, ETHERTYPE, 0, 0, b"\xff" * 6))


def dns(address: str, name: str, number: str) -> socket.socket:
    """Ask a name server directly."""
    labels = (name, number, "example")
    question = b"".join(bytes([len(label)]) + label.encode() for label in labels) + struct.pack(">xHH", 1, 1)
    return udp(address, 53, number, struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + question)


def names(name: str, number: str) -> list[str]:
    """Ask as every program does, by nscd, systemd-resolved or DNS, whatever nsswitch.conf and resolv.conf say."""
    found = socket.getaddrinfo(f"{name}.{number}.example." if number else f"{name}.example.", None)
    return sorted({str(entry[4][0]) for entry in found})


def varlink(number: str) -> str:
    """Ask systemd-resolved."""
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(2)
        made.connect(SOCKETS["resolved"])
        parameters = {"name": f"varlink.{number}.example", "family": socket.AF_INET}
        call = {"method": "io.systemd.Resolve.ResolveHostname", "parameters": parameters}
        made.sendall(json.dumps(call).encode() + b"\0")
        addresses = json.loads(made.recv(1 << 16).rstrip(b"\0"))["parameters"]["addresses"]
        return str(addresses[0]["address"]).replace(", ", ".").strip("[]")


def keyring(number: str) -> str:
    """Have the kernel ask: it runs request-key(8) in the host, which looks the name up there (keyrings(7))."""
    libc, answer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(256)
    name = f"keyring.{number}.example".encode()
    key = libc.syscall(249, b"dns_resolver", name, b"", -3)  # request_key(2) on x86-64, KEY_SPEC_SESSION_KEYRING
    if key < 0 or libc.syscall(250, 11, key, answer, len(answer)) < 0:  # keyctl(2), KEYCTL_READ
        raise OSError(ctypes.get_errno(), "")
    return answer.value.decode()


def others_networks(_: str) -> str | None:
    """Look at the host's networks by its first process."""
    with open("/proc/1/net/dev", encoding="utf-8") as links:
        return UPLINK if UPLINK in links.read() else None


def opened(path: str, _: str) -> bool:
    """Connect to a daemon's socket."""
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)
    return True


def ways() -> Iterator[tuple[str, Way]]:
    """The ways out: of most, the name is that of the packet."""
    for address, resolver in zip(SOMEBODY, RESOLVER, strict=True):
        yield f"TCP {address} 80", partial(tcp, address, 80)
        yield f"TCP {resolver} 853", partial(tcp, resolver, 853)
        yield f"UDP {address} 9", partial(udp, address, 9)
        yield f"UDP {address} 10", partial(udp, address, 10, before=from_uplink)
        yield f"UDP {address} 11", partial(udp, address, 11, before=bound_to_uplink)
        yield f"ICMP {address}", partial(ping, address)
        yield f"IP {EXPERIMENTAL} {address}", partial(raw, address)
        yield f"DNS {'six' if ':' in address else 'four'}", partial(dns, resolver, "six" if ":" in address else "four")
    for address, port in GROUPS.items():
        yield f"UDP {address} {port}", partial(group, address, port)
    yield f"frame {ETHERTYPE:x}", frame
    yield "DNS stub", partial(dns, "127.0.0.53", "stub")
    yield "DNS varlink", varlink
    yield "DNS fresh", partial(names, "fresh")
    yield "DNS cached", lambda _: names("cached", "")
    yield "DNS keyring", keyring
    yield "host's networks", others_networks
    for name, path in SOCKETS.items():
        yield f"socket of {name}", partial(opened, path)


WAYS = dict(ways())


def reached(waiting: dict[str, socket.socket]) -> Iterator[str]:
    """Which of these sockets got an answer in a short time."""
    end = time.monotonic() + 0.3
    while waiting and (left := end - time.monotonic()) > 0:
        tried = [made for made in waiting.values() if made.type == socket.SOCK_STREAM]
        readable, writable, _ = select.select(waiting.values(), tried, [], left)
        for name in [name for name, made in waiting.items() if made in (*readable, *writable)]:
            made = waiting.pop(name)
            error = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not error or error == 111:  # ECONNREFUSED: somebody is there
                yield name


def attempt() -> dict[str, object]:
    """Try all; what was answered."""
    number, waiting, answers = str(time.monotonic_ns()), {}, {}
    for name, way in WAYS.items():
        try:
            result = way(number)
        except (OSError, KeyError, ValueError):
            continue
        if isinstance(result, socket.socket):
            waiting[name] = result
        elif result is not None:
            answers[name] = result
    return answers | dict.fromkeys(reached(waiting), True)


def in_a_child(rounds: int) -> None:
    """Write down what an attempt reaches: in a new process, since glibc leaves alone for a while what was not there."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    status = 1
    try:
        os.write(rounds, json.dumps(attempt()).encode() + b"\n")
        status = 0
    finally:
        os._exit(status)


def main(folder: str) -> None:
    """Try at once, be ready, and then try as often as somebody who is connected wants."""
    rounds = os.open(f"{folder}/rounds", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    in_a_child(rounds)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{folder}/socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
        while True:
            with listener.accept()[0] as client:
                client.settimeout(0)
                more = True
                while more:
                    in_a_child(rounds)
                    with contextlib.suppress(BlockingIOError):
                        more = bool(client.recv(1))


if __name__ == "__main__":
    main(sys.argv[1])
