"""`wgns forward`: a port that the provider forwards by NAT-PMP (RFC 6886), kept alive, and open while it is forwarded.

It runs inside the tunnel's namespace, with CAP_NET_ADMIN for the filter. The command that gets the port runs without.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from contextlib import closing, suppress
from struct import pack, unpack

from . import inbound, netlink, netns, signals
from .errors import NOTICE, WARNING, ConfigError, MissingError, PermissionRefusedError, UsageError, say, shown
from .netlink import socket
from .tunnel import Port

_PORT, _UDP, _TCP = 5351, 1, 2  # of the gateway; operations
_LIFETIME = 60  # seconds, the most that Proton grants
# Seconds between two requests, or half of a shorter lifetime. Each answer has the port of now, so this is how long
# another port or a restart of the gateway (section 3.6) goes unnoticed. The RFC has only the half of the lifetime.
_PERIOD = 10.0
_PATIENCE = (0.25, 0.5, 1, 2)  # seconds for the answer to each try; the RFC goes on to 64
_LOWEST = 1024  # no gateway opens one of the ports below, which are those of a system's services
_REFUSALS = ("", "unsupported version", "not authorized", "network failure", "out of resources", "unsupported request")


class GatewayRefusedError(OSError):
    """The gateway forwards no port."""


def forward(name: str, gateway: str, command: str) -> None:
    """Keep a port of the tunnel `name` forwarded and open until a signal ends that, and hand it to `command`.

    Asks `gateway` ("": the tunnel's first name server). Raises `Failure` if it cannot start, or the kernel refuses.
    """
    if netns.own() != netns.pinned(name):
        problem = f'this process is not in the network namespace "{name}"'
        raise PermissionRefusedError(problem, f"systemctl start wgns-forward@{name}")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--exec {shown(command)}: {str(error).lower()}") from None
    gateway = _address(gateway)
    signals.hold()
    with netlink.Socket(netlink.NETLINK_NETFILTER) as kernel:
        port = _Forwarded(name, gateway, words, kernel)
        port.open(0)  # a run that was killed may have left one
        _notify("READY=1")
        try:
            while not signals.pause(port.renew()):
                pass
        finally:
            port.open(0)
            port.give_back()


class _Forwarded:
    """The port of a tunnel, and what has become of it."""

    def __init__(self, name: str, gateway: str, command: list[str], kernel: netlink.Socket) -> None:
        self._name, self._gateway, self._command, self._kernel = name, gateway, command, kernel
        self._own = 0xC000 | int.from_bytes(os.urandom(2), "big")  # a port for private use
        self._number = self._handed = 0  # the open port, and the one that the command has
        self._inside = self._outside = 0  # of the mapping
        self._end, self._last_text = 0.0, ""  # of the lifetime, by time.monotonic(); the last line

    def open(self, number: int) -> None:
        """Open this port, or none for 0, and close others. Does nothing where there is no filter (OpenPorts = all)."""
        protocols = (socket.IPPROTO_TCP, socket.IPPROTO_UDP) if number else ()
        with suppress(MissingError):
            self._kernel.run([inbound.forward(self._name, tuple(Port(each, number, number) for each in protocols))])
        self._number = number

    def renew(self) -> float:
        """Ask for the port again, and follow the answer; the seconds until the next time."""
        try:
            text, priority = self._follow(), NOTICE
        except OSError as error:
            priority = WARNING
            if isinstance(error, GatewayRefusedError) or self._end < time.monotonic():
                self.open(0)
            text = f"port {self._number} stays open for the rest of its lifetime" if self._number else "no port is open"
            text = f"NAT-PMP by {self._gateway}: {(error.strerror or 'no answer').lower()}: {text}"
        if text != self._last_text:
            say(f'"{self._name}": {text}', priority=priority)
            _notify(f"STATUS={text}")
        self._last_text = text
        return min(_PERIOD, max(1.0, (self._end - time.monotonic()) / 2)) if self._number else _PERIOD

    def _follow(self) -> str:
        """Open the port that the gateway forwards, and hand it over; that in words. Raises OSError where it does not.

        For the internal port 0, Proton forwards a port to the same one here. Others refuse 0 (miniupnpd), and are asked
        to forward a port to one of ours.
        """
        address = socket.inet_ntoa(ask(self._gateway, bytes(2), 12)[8:])
        try:
            udp, tcp = self._map(0)
        except GatewayRefusedError:
            udp, tcp = self._map(self._own)
        self.open(self._inside or tcp)
        differs = f" (UDP from {udp})" if udp != tcp else ""
        return f"port {self._number} is open, forwarded from {address}:{tcp}{differs}{self._hand_over()}"

    def _map(self, inside: int) -> list[int]:
        """The external ports for UDP and TCP: if possible, the former one, and the same for both."""
        end, ports = time.monotonic() + _LIFETIME, [self._outside or inside or 1]
        for operation in (_UDP, _TCP):
            answer = ask(self._gateway, _request(operation, inside, ports[-1]), 16)
            mapped, port, lifetime = unpack("!HHI", answer[8:])
            if mapped != inside or port < _LOWEST or not lifetime:
                raise GatewayRefusedError(0, f"no use for port {port} to port {mapped} for {lifetime} s")
            ports.append(port)
            end = min(end, time.monotonic() + lifetime)
        self._inside, self._outside, self._end = inside, port, end
        return ports[1:]

    def give_back(self) -> None:
        """End the mapping, which would end by itself."""
        with suppress(OSError):
            for operation in (_UDP, _TCP) if self._outside else ():
                ask(self._gateway, _request(operation, self._inside, 0, 0), 16)

    def _hand_over(self) -> str:
        """Run the command with the port as its last argument, if it has not taken it yet; the result in words."""
        if not self._command:
            return ""
        if self._handed != self._number:
            status = execute([*self._command, str(self._number)])
            if status:
                return f"; {shown(self._command[0])} ended with status {status} and is tried again"
            self._handed = self._number
        return f", and {shown(self._command[0])} has it"


def _request(operation: int, inside: int, outside: int, lifetime: int = _LIFETIME) -> bytes:
    return pack("!BBHHHI", 0, operation, 0, inside, outside, lifetime)


def ask(gateway: str, request: bytes, size: int) -> bytes:
    """The answer, of `size` bytes. Raises `GatewayRefusedError`, or another OSError where there is none."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:  # a new one: no answer comes twice
        udp.connect((gateway, _PORT))  # which takes no packets from elsewhere
        for patience in _PATIENCE:
            udp.send(request)
            end = time.monotonic() + patience
            while (left := end - time.monotonic()) > 0:
                udp.settimeout(left)
                with suppress(TimeoutError):
                    answer = udp.recv(64)
                    result = int.from_bytes(answer[2:4], "big")
                    if answer[:2] == bytes([0, 128 | request[1]]) and (result or len(answer) == size):
                        if result:
                            words = _REFUSALS[result] if result < len(_REFUSALS) else "unknown reason"
                            raise GatewayRefusedError(result, f"refused, {words} ({result})")
                        return answer
    raise TimeoutError


def _address(gateway: str) -> str:
    """The gateway's address: the given one, or the tunnel's first name server, which is the gateway at Proton."""
    lines = [words for line in netns.lines("/etc/resolv.conf") if len(words := line.split()) > 1]
    for address in [gateway] if gateway else [line[1] for line in lines if line[0] == "nameserver"]:
        with suppress(OSError):
            socket.inet_pton(socket.AF_INET, address)
            return address
    if gateway:
        raise UsageError(f"--gateway {shown(gateway)}: expected an IPv4 address")
    raise ConfigError("the tunnel has no IPv4 name server to ask for a port", "--gateway ADDRESS names the gateway")


def execute(command: list[str], seconds: float = 20) -> int:
    """Run a command without capabilities; its status, or that of timeout(1) after `seconds`, or that of env(1).

    After `seconds`, it is killed with all that it has started.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=_renounce,  # noqa: PLW1509  (no threads)
        )
    except OSError:
        return 127
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return 124


def _renounce() -> None:
    """Take all capabilities away from the command that is about to be executed, and let signals through to it."""
    netns.call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS of linux/prctl.h
    netns.call("capset", pack("=Ii", 0x20080522, 0), bytes(24))  # _LINUX_CAPABILITY_VERSION_3 of linux/capability.h
    signals.default()
    signals.release()


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3))."""
    with suppress(OSError), closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as unix:
        unix.sendto(state.encode(), os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1))
