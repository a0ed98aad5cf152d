"""What names mean in a namespace: /run/wgns/NAME/resolv.conf and nsswitch.conf, which the drop-in binds to /etc.

The first line says whose a file is, with a checksum of the rest: a file that somebody else wrote or changed stays.
Files are written in place, so that bind mounts of them stay valid.
"""

from __future__ import annotations

import errno
import os
import stat
from binascii import crc32

from .errors import say, system_error, warn
from .signals import DIRECTORY, make_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Tunnel

FILES = ("nsswitch.conf", "resolv.conf")
ETC = "/etc/netns"  # where ip-netns(8) and podman look for the files of a namespace
_SIZE_LIMIT = 1 << 16  # bytes; a larger file is not ours


class File:
    """A file that differs: its path, what it is to hold, what it holds (None: there is none), and that in words."""

    def __init__(self, path: str, content: bytes, former: bytes | None, what: str) -> None:
        self.path, self.content, self.former, self.what = path, content, former, what

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def diff(namespace: str, link: str, tunnel: Tunnel) -> list[File]:
    """The files that `write` has to write: the tunnel's name servers are asked, or none.

    An empty file, which a crash can leave, is taken over; a file that is not ours stays, with a warning.
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
    """Write them, and return what was done, in words. Raises `Failure`, and then all is as before.

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
    """Remove the files that wg-up wrote for `link`. Raises `Failure`. The caller holds the namespace's lock."""
    folder = f"{DIRECTORY}/{namespace}"
    try:
        for name in FILES:
            content = read(f"{folder}/{name}")
            if content is not None and (not content or is_ours(content, link)):
                os.unlink(f"{folder}/{name}")
            elif content is not None:
                warn(f"{folder}/{name} was not written by wg-up {link}: left as it is")
    except OSError as error:
        raise system_error(folder, error) from None


def publish(namespace: str) -> None:
    """Let ip-netns(8) and podman find the files, by a symlink in /etc, unless something else has its name.

    Where /etc is read-only, they take the host's resolv.conf, and a line says so.
    """
    path, target = f"{ETC}/{namespace}", f"{DIRECTORY}/{namespace}"
    try:
        _clear_former(path, namespace)
        if not os.path.islink(path) or os.readlink(path) != target:
            make_folder(ETC)
            os.symlink(target, path)
    except FileExistsError:
        warn(f"{path} exists already: ip netns exec uses its files, confined services use {target}")
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        say(f"{path}: {reason}: ip netns exec uses the host's resolv.conf, confined services use {target}")


def unpublish(namespace: str) -> None:
    """Remove the symlink, if it is ours and can be removed."""
    path = f"{ETC}/{namespace}"
    try:
        if os.readlink(path) == f"{DIRECTORY}/{namespace}":
            os.unlink(path)
    except OSError:
        pass  # there is none, or /etc is read-only: it leads nowhere, and the next netns-up takes it over


def _clear_former(path: str, link: str) -> None:
    """Remove the folder in /etc that version 0.1 wrote, if it holds what that wrote and nothing else."""
    if os.path.islink(path) or not os.path.isdir(path):
        return
    import hashlib

    for name in FILES:
        first, _, body = (read(f"{path}/{name}") or b"").partition(b"\n")
        digest = hashlib.blake2s(body, digest_size=16).hexdigest()
        mark = f"# written by wg-up {link}, removed by wg-down {link}; {digest}".encode()
        if first in (mark, mark + b"; with its folder"):
            os.unlink(f"{path}/{name}")
    if not os.listdir(path):
        os.rmdir(path)
    if os.listdir(ETC) == [".made-by-wg-up"]:
        os.unlink(f"{ETC}/.made-by-wg-up")


def _resolv_conf(tunnel: Tunnel) -> bytes:
    lines = [f"nameserver {server}\n" for server in tunnel.dns]
    lines += [f"search {' '.join(tunnel.search)}\n"] if tunnel.search and lines else []
    nobody = "# The configuration has no DNS=: no name is looked up, unless a name server runs in the namespace.\n"
    return "".join(lines or [nobody]).encode()


def _nsswitch() -> bytes:
    """The host's nsswitch.conf(5), but host names are not asked of the host's daemons."""
    try:
        with open("/etc/nsswitch.conf", "rb") as file:
            host = [line for line in file.read(_SIZE_LIMIT).splitlines() if b":" in line.partition(b"#")[0]]
    except OSError:
        host = []
    kept = [line for line in host if line.partition(b":")[0].strip() != b"hosts"]
    return b"".join(line + b"\n" for line in [b"hosts: files dns", *kept])


def _mark(link: str, body: bytes) -> bytes:
    return f"# written by wg-up {link}, removed by wg-down {link}; {crc32(body):08x}".encode()


def is_ours(content: bytes, link: str) -> bool:
    """Whether a file with this content is as wg-up wrote it for `link`."""
    first, _, body = content.partition(b"\n")
    return first == _mark(link, body.rstrip(b"\n") + b"\n")  # see _overwrite


def read(path: str) -> bytes | None:
    """The file's content, None where there is none; what is no regular file has one that is not ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a symlink, a socket
            return b"?"
        raise system_error(path, error) from None
    try:
        return os.read(descriptor, _SIZE_LIMIT) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"?"
    finally:
        os.close(descriptor)


def _overwrite(path: str, content: bytes) -> None:
    """Write in place, in one piece and with blank lines over what is longer: killed at any point, the file is valid."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if not size:
            os.fchmod(descriptor, 0o644)
        if os.write(descriptor, content.ljust(size, b"\n")) < len(content):
            raise OSError(errno.ENOSPC, "")
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)
