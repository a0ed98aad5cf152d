"""The resolv.conf of a namespace, where ip-netns(8) looks for it: /etc/netns/NAME/resolv.conf.

The first line of what is written here says whose it is, with a digest of the rest: a file that somebody else wrote or changed
is never touched. Files are written in place, so that bind mounts of them stay valid.
"""

from __future__ import annotations

import os
import stat
from _blake2 import blake2s  # hashlib would load OpenSSL: 3 ms

from .errors import Failure, system_error, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Tunnel

DIRECTORY = "/etc/netns"
_MARK = f"{DIRECTORY}/.made-by-wg-up"  # there when we made DIRECTORY; `ip netns exec` looks only into its subfolders
_SIZE_LIMIT = 1 << 16  # bytes; a larger file is not ours


def write_resolv_conf(namespace: str, link: str, tunnel: Tunnel) -> None:
    """Name servers and search domains of the tunnel; without a server there is no file. Raises `Failure`, then all is as before."""
    if not tunnel.dns:
        remove_resolv_conf(namespace, link)
        return
    path = f"{DIRECTORY}/{namespace}/resolv.conf"
    former = _read(path)
    if former is not None and not _is_ours(former, link):
        warn(f"{path} was not written by wg-up {link}: left as it is", "the tunnel's DNS servers are not in use")
        return
    made: list[str] = []
    try:
        made = _make_folders(os.path.dirname(path))
        keep = (former or b"").split(b"\n", 1)[0].endswith(b"; with its folder") or os.path.dirname(path) in made
        _write(path, _content(link, tunnel, with_folder=keep), former)
    except OSError as error:
        _undo(path, made, former)
        raise system_error(path, error) from None


def remove_resolv_conf(namespace: str, link: str) -> None:
    """Remove the file that wg-up wrote for `link`, and the folders that it made. Raises `Failure`."""
    path = f"{DIRECTORY}/{namespace}/resolv.conf"
    content = _read(path)
    if content is None:
        return
    if not _is_ours(content, link):
        warn(f"{path} was not written by wg-up {link}: left as it is")
        return
    try:
        os.unlink(path)
        if content.split(b"\n", 1)[0].endswith(b"; with its folder"):
            _remove_folders(os.path.dirname(path))
    except OSError as error:
        raise system_error(path, error) from None


def _content(link: str, tunnel: Tunnel, *, with_folder: bool) -> bytes:
    body = "".join([f"nameserver {server}\n" for server in tunnel.dns])
    body += f"search {' '.join(tunnel.search)}\n" if tunnel.search else ""
    return _first_line(link, body.encode(), with_folder=with_folder) + body.encode()


def _first_line(link: str, body: bytes, *, with_folder: bool) -> bytes:
    digest = blake2s(body, digest_size=16).hexdigest()
    folder = "; with its folder" if with_folder else ""
    return f"# written by wg-up {link}, removed by wg-down {link}; {digest}{folder}\n".encode()


def _is_ours(content: bytes, link: str) -> bool:
    first, _, body = content.partition(b"\n")
    return first + b"\n" in (_first_line(link, body, with_folder=True), _first_line(link, body, with_folder=False))


def _read(path: str) -> bytes | None:
    """The file's content, None where there is none; what is no regular file counts as one that is not ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None if not os.path.lexists(path) else b""
    except OSError:
        return b""
    try:
        return os.read(descriptor, _SIZE_LIMIT) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError as error:
        raise system_error(path, error) from None
    finally:
        os.close(descriptor)


def _write(path: str, content: bytes, former: bytes | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        if former is None:
            os.fchmod(descriptor, 0o644)  # whatever the umask is, every service has to read it
        if os.write(descriptor, content) != len(content):
            raise OSError(28, "")  # ENOSPC, told by a short write
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def _undo(path: str, made: list[str], former: bytes | None) -> None:
    try:
        if former is not None:
            _write(path, former, former)
        elif os.path.lexists(path):
            os.unlink(path)
        for folder in reversed(made):
            _remove_folders(folder)
    except OSError as error:
        warn(f"{path} could not be put back: {os.strerror(error.errno or 0).lower()}")


def _make_folders(folder: str) -> list[str]:
    """The folders that had to be made."""
    made = []
    for path in (DIRECTORY, folder):
        try:
            os.mkdir(path)
            os.chmod(path, 0o755)
            made.append(path)
            if path == DIRECTORY:
                os.close(os.open(_MARK, os.O_WRONLY | os.O_CREAT, 0o644))
        except FileExistsError:
            continue
    return made


def _remove_folders(folder: str) -> None:
    """Remove a folder of ours unless somebody put something into it, and DIRECTORY likewise if wg-up made it."""
    try:
        if folder != DIRECTORY:
            os.rmdir(folder)
        if os.listdir(DIRECTORY) == [os.path.basename(_MARK)]:
            os.unlink(_MARK)
            os.rmdir(DIRECTORY)
    except OSError:
        pass  # still in use, or gone already
