"""A service that writes down where it is and what it can reach, says that it is ready, and stays."""

import json
import os
import signal
import socket


def reached(address: str, port: int, seconds: float) -> bool:
    """Whether a web server answers there in time."""
    try:
        with socket.create_connection((address, port), timeout=seconds) as connection:
            connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return connection.recv(4) == b"HTTP"
    except OSError:
        return False


def text(path: str) -> str:
    """What stands in a file, empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


report = {
    "namespace": os.stat("/proc/self/ns/net").st_ino,
    "links": sorted(name for _, name in socket.if_nameindex() if name not in ("sit0", "tunl0", "ip6tnl0")),
    "far": reached("10.64.0.1", 80, 10),
    "host": reached("198.51.100.2", 81, 1),
    "resolv.conf": text("/etc/resolv.conf"),
    "configuration": text("/etc/wireguard/demo.conf"),
    "run": sorted(os.listdir("/run")),
    "boot": text("/proc/sys/kernel/random/boot_id"),
}
with open(os.path.join(os.environ["STATE_DIRECTORY"], "report.json"), "w", encoding="utf-8") as file:
    json.dump(report, file)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
