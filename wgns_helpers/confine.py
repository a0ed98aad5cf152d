"""What names mean in a namespace: /etc/netns/NAME/resolv.conf and nsswitch.conf, where ip-netns(8) looks for them.

The first line of what is written here says whose it is, with a digest of the rest: a file that somebody else wrote or
changed is never touched. Files are written in place, so that bind mounts of them stay valid.
"""

from __future__ import annotations

import errno
import os
import stat
from _blake2 import blake2s  # hashlib would load OpenSSL: 3 ms

from .errors import system_error, warn
from .lock import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Tunnel

DIRECTORY = "/etc/netns"
FILES = ("nsswitch.conf", "resolv.conf")
_MARK = ".made-by-wg-up"  # in DIRECTORY when wg-up made that; `ip netns exec` looks only into its subfolders
_WITH_FOLDER = b"; with its folder"
_SIZE_LIMIT = 1 << 16  # bytes; a larger file is not ours


def write(namespace: str, link: str, tunnel: Tunnel, *, dry: bool = False) -> list[str]:
    """Write both files, by which the tunnel's name servers are asked or nobody. What was done, in words.

    An empty file, which a crash can leave, is taken over. Raises `Failure`, and then all is as before. With `dry`
    nothing is done, only said.
    """
    folder = f"{DIRECTORY}/{namespace}"
    if dry:
        _, changed = _compare(folder, link, tunnel)
    else:
        with _lock():
            former, changed = _compare(folder, link, tunnel)
            _sweep(folder)
            try:
                _create(folder, {name: content for name, content in changed.items() if former[name] is None})
                for name, content in changed.items():
                    if former[name] is not None:
                        _overwrite(f"{folder}/{name}", content, len(former[name] or b""))
            except OSError as error:
                _put_back(folder, former, changed)
                raise system_error(folder, error) from None
    servers = f"name servers {', '.join(tunnel.dns)}" if tunnel.dns else "no name server"
    search = f", search {' '.join(tunnel.search)}" if tunnel.dns and tunnel.search else ""
    words = {"nsswitch.conf": "host names by /etc/hosts and DNS", "resolv.conf": servers + search}
    return [f"{folder}/{name}: {words[name]}" for name in changed]


def _compare(folder: str, link: str, tunnel: Tunnel) -> tuple[dict[str, bytes | None], dict[str, bytes]]:
    """What the files hold, and what those that differ are to hold; a file that is not ours stays, with a warning."""
    former = {name: read(f"{folder}/{name}") for name in FILES}
    foreign = [name for name, content in former.items() if content and not is_ours(content, link)]
    for name in foreign:
        hint = "the tunnel's DNS servers are not in use" if name == "resolv.conf" else "the host may be asked for names"
        warn(f"{folder}/{name} was not written by wg-up {link}: left as it is", hint)
    flag = _WITH_FOLDER if not os.path.isdir(folder) or any(map(_has_folder, former.values())) else b""
    bodies = {"nsswitch.conf": _nsswitch(), "resolv.conf": _resolv_conf(tunnel)}
    wanted = {name: _mark(link, body) + flag + b"\n" + body for name, body in bodies.items() if name not in foreign}
    return former, {name: content for name, content in wanted.items() if content != former[name]}


def _lock() -> Lock:
    """The lock of DIRECTORY, which the programs of all namespaces share; no namespace has this name."""
    return Lock("-netns", what=DIRECTORY)


def remove(namespace: str, link: str) -> None:
    """Remove the files that wg-up wrote for `link`, and the folders that it made. Raises `Failure`, as `write` does."""
    folder = f"{DIRECTORY}/{namespace}"
    if not any(os.path.lexists(place) for place in (DIRECTORY, _aside(DIRECTORY))):
        return
    with _lock():
        found = {name: content for name in FILES if (content := read(f"{folder}/{name}")) is not None}
        ours = {name: content for name, content in found.items() if is_ours(content, link)}
        for name in found.keys() - ours.keys():
            warn(f"{folder}/{name} was not written by wg-up {link}: left as it is")
        try:
            _remove(folder, ours)
        except OSError as error:
            _put_back(folder, ours, {})
            raise system_error(folder, error) from None


def _put_back(folder: str, former: dict[str, bytes | None] | dict[str, bytes], written: dict[str, bytes]) -> None:
    """After an error: the files are to be what they were, and not what was `written`."""
    for name, content in former.items():
        path = f"{folder}/{name}"
        try:
            now = read(path)
            if content is None:
                _remove(folder, {name: now} if now is not None and now == written.get(name) else {})
            elif now is None:
                _sweep(folder)
                _create(folder, {name: content})
            elif now != content:
                _overwrite(path, content, _SIZE_LIMIT)
        except OSError as error:
            warn(f"{path} could not be put back: {os.strerror(error.errno or 0).lower()}")


def _resolv_conf(tunnel: Tunnel) -> bytes:
    lines = [f"nameserver {server}\n" for server in tunnel.dns]
    lines += [f"search {' '.join(tunnel.search)}\n"] if tunnel.search and lines else []
    nobody = "# The configuration has no DNS=: nobody is asked, unless a name server runs in the namespace itself.\n"
    return "".join(lines or [nobody]).encode()


def _nsswitch() -> bytes:
    """The host's nsswitch.conf(5) but for host names, which none of the host's daemons is to be asked for."""
    try:
        with open("/etc/nsswitch.conf", "rb") as file:
            host = [line for line in file.read(_SIZE_LIMIT).splitlines() if b":" in line.partition(b"#")[0]]
    except OSError:
        host = []
    kept = [line for line in host if line.partition(b":")[0].strip() != b"hosts"]
    return b"".join(line + b"\n" for line in [b"hosts: files dns", *kept])


def _mark(link: str, body: bytes) -> bytes:
    digest = blake2s(body, digest_size=16).hexdigest()
    return f"# written by wg-up {link}, removed by wg-down {link}; {digest}".encode()


def _has_folder(content: bytes | None) -> bool:
    return (content or b"").partition(b"\n")[0].endswith(_WITH_FOLDER)


def is_ours(content: bytes, link: str) -> bool:
    """Whether a file with this content is as wg-up wrote it for `link`."""
    first, _, body = content.partition(b"\n")
    return first.removesuffix(_WITH_FOLDER) == _mark(link, body.rstrip(b"\n") + b"\n")  # see _overwrite


def read(path: str) -> bytes | None:
    """The file's content, None where there is none; what is no regular file has one that is not ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):  # a symlink, a file for a folder, a socket
            return b"?"
        raise system_error(path, error) from None
    try:
        return os.read(descriptor, _SIZE_LIMIT) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"?"
    finally:
        os.close(descriptor)


def _overwrite(path: str, content: bytes, former_size: int) -> None:
    """Write in place, in one piece and with blank lines over what is longer: killed at any point, the file is valid."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        size = min(former_size, os.fstat(descriptor).st_size)
        if not size:
            os.fchmod(descriptor, 0o644)
        if os.write(descriptor, content.ljust(size, b"\n")) < len(content):
            raise OSError(errno.ENOSPC, "")
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def _aside(path: str) -> str:
    """Where what is to become `path`, or was, stands meanwhile: a name of ours, cleared away by the next run."""
    folder, name = os.path.split(path)
    return f"{folder}/.{name}.wg-up"


def _create(folder: str, files: dict[str, bytes]) -> None:
    """Make files and the folders that are missing; all appear as a whole, by link(2), or rename(2) of the folder."""
    top = next((place for place in (DIRECTORY, folder) if not os.path.isdir(place)), "")
    if not files:
        return
    for place in [place for place in (DIRECTORY, folder) if top and place.startswith(top)]:
        made = _aside(top) + place.removeprefix(top)
        os.mkdir(made)
        os.chmod(made, 0o755)  # noqa: S103  (whatever the umask is: services of any user read there)
    if top == DIRECTORY:
        os.close(os.open(f"{_aside(top)}/{_MARK}", os.O_WRONLY | os.O_CREAT, 0o644))
    for name, content in files.items():
        path = f"{folder}/{name}"
        new = _aside(top) + path.removeprefix(top) if top else _aside(path)
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        _overwrite(new, content, 0)
        if not top:
            os.link(new, path)  # not over what somebody else made meanwhile
            os.unlink(new)
    if top:
        os.rename(_aside(top), top)


def _remove(folder: str, files: dict[str, bytes]) -> None:
    """Take away these files, their folder unless it has more in it, and DIRECTORY, each if wg-up made it."""
    alone = any(map(_has_folder, files.values())) and files.keys() == set(os.listdir(folder))
    for place in [folder] if alone else [f"{folder}/{name}" for name in files]:
        os.rename(place, _aside(place))
    _sweep(folder)
    if os.path.isdir(DIRECTORY) and os.listdir(DIRECTORY) == [_MARK]:
        os.rename(DIRECTORY, _aside(DIRECTORY))
        _sweep(folder)


def _sweep(folder: str) -> None:
    """Delete what stands aside, of this run or of one that was killed; OSError if there is more than wg-up makes."""
    for place in (*(f"{folder}/{name}" for name in FILES), folder, DIRECTORY):
        aside = _aside(place)
        for path, _, files in () if os.path.islink(aside) else os.walk(aside, topdown=False):
            for name in {_MARK, *FILES}.intersection(files):
                os.unlink(f"{path}/{name}")
            os.rmdir(path)
        if os.path.lexists(aside):
            os.unlink(aside)
