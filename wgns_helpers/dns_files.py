"""The resolv.conf and nsswitch.conf of a namespace in /run/wgns/NAME, which the drop-in binds to /etc.

The first line names the tunnel and has a checksum of the rest: `wg-up` leaves alone what somebody else wrote.
Files are written in place, so that bind mounts of them stay valid.
"""

from __future__ import annotations

import errno
import os
from binascii import crc32

from .errors import say, system_error, warn
from .signals import DIRECTORY, make_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Tunnel

FILES = ("resolv.conf", "nsswitch.conf")
ETC = "/etc/netns"  # where ip-netns(8) and podman look for the files of a namespace
_SIZE_LIMIT = 1 << 16  # bytes; a larger file is not ours


class File:
    """A file that differs: its path, new content, present content (None: no file), and the new content in words."""

    def __init__(self, path: str, content: bytes, former: bytes | None, what: str) -> None:
        self.path, self.content, self.former, self.what = path, content, former, what

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def diff(namespace: str, link: str, tunnel: Tunnel) -> list[File]:
    """The files that differ from what `tunnel` needs: they name its name servers, or none.

    An empty file, which a crash can leave, counts as ours; a file that is not ours stays, with a warning.
    """
    servers = f"name servers {', '.join(tunnel.dns)}" if tunnel.dns else "no name server"
    search = f", search {' '.join(tunnel.search)}" if tunnel.dns and tunnel.search else ""
    wanted = {
        "nsswitch.conf": (_nsswitch(), "host names by /etc/hosts and DNS"),
        "resolv.conf": (_resolv_conf(tunnel), servers + search),
    }
    files = []
    for name, (body, what) in wanted.items():
        path = f"{DIRECTORY}/{namespace}/{name}"
        former, content = read(path), _mark(link, body) + b"\n" + body
        if former and not is_ours(former, link):
            warn(f"{path} was not written by wg-up {link}: left as it is", f"not in effect: {what}")
        elif content != former:
            files.append(File(path, content, former, what))
    return files


def write(files: list[File]) -> list[str]:
    """Write the files and return what changed, in words. Raises `Failure` after putting the former content back.

    The caller holds the namespace's lock.
    """
    try:
        for file in files:
            make_folder(os.path.dirname(file.path))
            _overwrite(file.path, file.content)
    except OSError as error:
        for file in files:
            try:
                if file.former is not None:
                    _overwrite(file.path, file.former)
                elif os.path.exists(file.path):
                    os.unlink(file.path)
            except OSError as another:
                warn(f"{file.path} could not be put back: {os.strerror(another.errno or 0).lower()}")
        raise system_error(os.path.dirname(files[0].path), error) from None
    return list(map(str, files))


def remove(namespace: str, link: str) -> None:
    """Remove the files that wg-up wrote for `link`. Raises OSError. The caller holds the namespace's lock."""
    for name in FILES:
        path = f"{DIRECTORY}/{namespace}/{name}"
        content = read(path)
        if content and not is_ours(content, link):
            warn(f"{path} was not written by wg-up {link}: left as it is")
        elif content is not None:
            os.unlink(path)


def publish(namespace: str) -> None:
    """Let ip-netns(8) and podman find the files, by a symlink in /etc, unless something else has its name.

    Where /etc is read-only or something else has the name, they use other files, and a line says so.
    """
    path, target = f"{ETC}/{namespace}", f"{DIRECTORY}/{namespace}"
    try:
        if not os.path.islink(path) or os.readlink(path) != target:
            make_folder(ETC)
            os.symlink(target, path)
    except OSError as error:
        say(f"{path}: {os.strerror(error.errno or 0).lower()}: ip netns exec uses other files than {target}")


def unpublish(namespace: str) -> None:
    """Remove the symlink, if it is ours and can be removed."""
    path = f"{ETC}/{namespace}"
    try:
        if os.readlink(path) == f"{DIRECTORY}/{namespace}":
            os.unlink(path)
    except OSError:
        pass  # no symlink, or /etc is read-only: then it leads nowhere, and the next netns-up uses it


def _resolv_conf(tunnel: Tunnel) -> bytes:
    lines = [f"nameserver {server}\n" for server in tunnel.dns]
    lines += [f"search {' '.join(tunnel.search)}\n"] if tunnel.search and lines else []
    nobody = "# The configuration has no DNS=: names are not looked up, unless a name server runs in the namespace.\n"
    return "".join(lines or [nobody]).encode()


def _nsswitch() -> bytes:
    """The host's nsswitch.conf(5), without the host's daemons for host names.

    nss-myhostname(8) stays: it knows localhost and the host's own name, and asks nobody.
    """
    content = read(os.path.realpath("/etc/nsswitch.conf")) or b""
    host = [line for line in content.splitlines() if b":" in line.partition(b"#")[0]]
    kept = [line for line in host if line.partition(b":")[0].strip() != b"hosts"]
    by_itself = any(b"myhostname" in line.partition(b"#")[0].split() for line in host if line not in kept)
    hosts = b"hosts: files myhostname dns" if by_itself else b"hosts: files dns"
    return b"".join(line + b"\n" for line in [hosts, *kept])


def _mark(link: str, body: bytes) -> bytes:
    return f"# written by wg-up {link}, removed by wg-down {link}; {crc32(body):08x}".encode()


def is_ours(content: bytes, link: str) -> bool:
    """Whether wg-up wrote this content for `link`, and nobody changed it."""
    first, _, body = content.partition(b"\n")
    return first == _mark(link, body.rstrip(b"\n") + b"\n")  # see _overwrite


def read(path: str) -> bytes | None:
    """The file's content, None if it does not exist, content that is not ours if it is no regular file.

    Raises OSError. Only root can replace a file here between the two steps.
    """
    if not os.path.lexists(path):
        return None
    if os.path.islink(path) or not os.path.isfile(path):
        return b"?"
    with open(path, "rb") as file:
        return file.read(_SIZE_LIMIT)


def _overwrite(path: str, content: bytes) -> None:
    """Write in place, in one piece and with blank lines over what is longer: killed at any point, the file is valid."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644), "wb", buffering=0) as file:
        descriptor = file.fileno()
        os.fchmod(descriptor, 0o644)  # whatever the umask is
        padded = content.ljust(os.fstat(descriptor).st_size, b"\n")
        if os.write(descriptor, padded) < len(content):
            raise OSError(errno.ENOSPC, "")
        os.ftruncate(descriptor, len(content))
