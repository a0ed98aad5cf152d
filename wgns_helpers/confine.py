"""`wgns confine` and `wgns release`: the drop-in of a unit, and the link by which the unit starts with its tunnel.

What a unit needs is read from its own files: systemctl show would mix in the drop-in that it has already.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from glob import glob
from itertools import chain

from . import config, errors, signals
from .check import SOCKETS, own_name
from .errors import ERROR, ConfigError, Failure, MissingError, PermissionRefusedError, UsageError, say, shown, warn
from .units import BINDS, SYSTEM, Unit, is_running, properties, read, systemctl

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # of the check, in confined-service.conf
_MARK = "# Written by wgns confine"
_SETTLE = 1.0  # seconds for which a daemon that has started has to stay up


def text(name: str, kind: str = "service") -> str:
    """The settings for a `kind` of unit (service or socket), confined to the tunnel `name`."""
    template = read(os.path.join(os.path.dirname(__file__), f"confined-{kind}.conf"))
    return template.replace("wg@NAME", f"wg@{escaped(name)}").replace("NAME", name)


def escaped(name: str) -> str:
    """The name in a unit's; no other character of a link's name has to be escaped (systemd-escape(1))."""
    return name.replace("+", r"\x2b")


def tunnel_unit(name: str) -> str:
    """The unit of a tunnel: wg.service has the one called wg where that is enabled or active."""
    if name == "wg" and (glob(f"{SYSTEM}/*.wants/wg.service") or not systemctl("is-active", "wg.service")):
        return "wg.service"
    return f"wg@{escaped(name)}.service"


def drop_in(name: str, unit: Unit, allowed: list[str]) -> str:
    """What confines `unit` to the tunnel `name` and lets it see `allowed` of /run, and what it could see before.

    Raises `Failure`.
    """
    head = f"{_MARK} {name} {unit.name}; wgns release {unit.name} removes it.\n"
    settings = text(name, unit.kind).replace(f"wg@{escaped(name)}.service", tunnel_unit(name))
    if unit.kind == "socket":
        return head + settings
    _refuse_or_warn(name, unit)
    program = shutil.which("wgns", path=_PATH)
    if not program:
        program = os.path.abspath(sys.argv[0])
        warn(f"{program} is in none of {_PATH}: can the unit's user execute it?", "install it for all users")
    settings = settings.replace(" wgns check", f" {program} check")
    before = _without_sockets(unit)
    allowed = [checked_path(path) for path in dict.fromkeys([*_allowed(unit), *allowed])]
    after = [f"BindPaths={path}" for path in allowed] + _of_run(name, unit, allowed)
    if unit.each("NoExecPaths"):
        python = os.path.realpath(sys.executable)
        after.append(f"ExecPaths=/usr/bin/env {program} {python} -/usr/lib -/lib -/lib64")
    resets = "\n".join(["[Service]", *before, "", ""]) if before else ""
    return head + resets + settings + "".join(f"{line}\n" for line in after)


def _without_sockets(unit: Unit) -> list[str]:
    """The settings that leave out of the unit's binds what would bring sockets of /run back by which the host answers.

    systemd would mount /run itself in place of our TemporaryFileSystem=/run, and /:/host would show it below /host.
    """
    binds = [(key, bind) for key in BINDS for bind in unit.each(key)]
    refused = [bind for _, bind in binds if _socket_in(unit.place(bind))]
    if not refused:
        return []
    warn(f"{unit.name}: a bind of {' '.join(refused)} is left out: the host would look up names by its sockets")
    kept = [f"{key}={bind}" for key, bind in binds if bind not in refused]
    return [f"# Without {' '.join(refused)}, which shows sockets of the host", f"{BINDS[0]}=", *kept]


def _of_run(name: str, unit: Unit, allowed: list[str]) -> list[str]:
    """The settings for what the unit itself needs of /run; `Failure` for a folder that others have, too."""
    own = f"/run/{unit.prefix}"
    visible = [*allowed, *(f"/run/{folder}" for folder in unit.each("RuntimeDirectory"))]
    paths = [path for key in ("ReadWritePaths", "ReadOnlyPaths") for path in unit.each(key)]
    needed = [unit.place(path) for path in paths if not path.startswith("-")]
    # systemd looks for this file in the host
    pid_folder = os.path.dirname(os.path.join("/run", unit.place(unit.one("PIDFile") or "/")))
    needed += [pid_folder] + [own] * os.path.isdir(own)  # tmpfiles.d(5) may make the folder
    lines = ["PIDFile="] if pid_folder == "/run" else []
    for path in needed:
        if not path.startswith("/run/") or any(f"{path}/".startswith(f"{folder}/") for folder in visible):
            continue
        if not f"{path}/".startswith(f"{own}/") or _socket_in(own):
            hint = " --allow ".join([f"wgns confine {name} {unit.name}", *allowed, path])
            raise Failure(f"{unit.name} needs {path}, and the host's /run is hidden from it", hint)
        lines.append(f"BindPaths=-{own}")
        visible.append(own)
    return lines


def _socket_in(path: str) -> str:
    """The socket by which the host would look up names and that `path` shows; empty for none."""
    return next((s for s in SOCKETS if s.startswith("/run/") and f"{s}/".startswith(f"{path.rstrip('/')}/")), "")


def checked_path(path: str) -> str:
    """`path` if a service may see it: below /run, without a socket by which it would get out. Raises `UsageError`."""
    path = path.rstrip("/")
    if not path.startswith("/run/") or ".." in path or any(c.isspace() or c in ':\\"%' for c in path):
        raise UsageError(f"--allow {shown(path)}: expected a path below /run", "all else is as the unit has it")
    risk = f"{_socket_in(path)} is there, by which the host would look up names" if _socket_in(path) else ""
    if re.fullmatch(
        r"/run/(user(/\d+(/(bus|systemd)(/.*)?)?)?|systemd/.*|docker.sock|(podman|containerd)(/.*)?)", path
    ):
        risk = risk or "by systemd, a user's bus or containers, programs start in the host"
    if risk:
        raise UsageError(f"--allow {shown(path)}: {risk}", "name a single socket that the service needs")
    if os.path.isdir("/run/systemd/system") and not os.path.exists(path):  # an image has no /run yet
        raise MissingError(f"--allow {shown(path)}: there is no such file or folder", "start first what makes it")
    return path


def _refuse_or_warn(tunnel: str, unit: Unit) -> None:
    """Refuse what cannot work, and name what the drop-in cannot hold."""
    name = unit.name
    if (unit.one("Type") or ("dbus" if unit.one("BusName") else "")) == "dbus":
        problem = f"{name} is on the system bus (Type=dbus), which is hidden and would answer from the host's network"
        raise Failure(problem, "a drop-in with another Type= and without BusName=, if it can do without the bus")
    engine = r"\W*(\S*/)?((podman|docker|nerdctl)(-compose)?|dockerd|containerd)"
    if re.fullmatch(engine, (unit.one("ExecStart").split() or [""])[0]):
        way = f"Network=ns:/run/netns/{tunnel} in its .container file, or podman run --network=ns:/run/netns/{tunnel}"
        raise Failure(f"{name} runs containers, whose bridges would come into the tunnel's namespace", way)
    root = unit.place(unit.one("RootDirectory") or "/")
    binds = [unit.place(bind) for key in BINDS for bind in unit.each(key)]
    lacking = unit.one("RootImage") or not os.path.exists(f"{root}/usr/bin/env")
    if lacking and "/usr" not in binds:
        problem = f"{name} has another root, which needs /usr/bin/env, wgns and its Python for the check"
        if root != "/" and os.path.isdir(root):
            raise Failure(problem, "BindReadOnlyPaths=/usr /lib /lib64 in the unit")
        warn(problem, "BindReadOnlyPaths=/usr /lib /lib64 in the unit")
    if unit.one("KillMode") in ("process", "none"):
        left = f"KillMode={unit.one('KillMode')} lets processes go on when the tunnel stops"
        warn(f"{name}: {left}", "a drop-in with KillMode=control-group")
    if unit.one("PAMName"):
        warn(f"{name}: PAMName={unit.one('PAMName')} lets processes of its session go on when the tunnel stops")
    if privileged := "=, ".join(unit.privileged()):
        warn(f"{name}: + in {privileged}= runs commands with all privileges, by which they can leave")
    if not unit.yes("DynamicUser") and unit.one("User") in ("", "root", "0"):
        problem = f"{name} starts as root, which can change files that the host acts on and control processes of users"
        warn(problem, "User= or DynamicUser=, unless it changes the user itself")


def confine(name: str, names: list[str], allowed: list[str]) -> None:
    """Confine units to the tunnel `name`, restart those that run, and prove that they are confined.

    Until systemd has begun to restart them, a failure or a signal leaves everything as it was. After that the units
    stay confined, whatever happens: a service that does not start is down, and not on the open network.
    Raises `Failure`.
    """
    units, tunnel = _units(names, name), tunnel_unit(name)
    _check_pairs(units, name, *(f"--allow {path}" for path in allowed))
    changes: dict[str, str] = {}
    for unit in units:
        # The drop-in first: whenever this ends, no link starts a unit that is not confined
        changes[unit.path] = drop_in(name, unit, allowed)
        changes |= dict.fromkeys(_links(unit), "")
        link = f"{SYSTEM}/wg-confined@{escaped(name)}.service.wants/{unit.name}"
        changes |= {link: f"-> {unit.files[0]}"} if _starts_with_tunnel(unit) else {}
    changes = {path: content for path, content in changes.items() if on_disk(path) != content}
    failed = [unit for unit in units if unit.state.get("ActiveState") == "failed" and confined_to(unit.name)]
    moved = [unit for unit in units if unit.path in changes or unit in failed or _place(unit) not in (name, None)]
    running = [unit for unit in moved if (unit.runs or unit in failed) and not unit.template]
    running += [one for unit in units for one in unit.instances() if _place(one) != name and not confined_to(one.name)]
    apply(changes, running)
    for unit in units:
        later = " from its next start on" if (unit not in running and not unit.runs) or unit.template else ""
        starts = f"starts with {tunnel}" if _starts_with_tunnel(unit) else "is started as before"
        now = f"systemctl start {unit.name}" if later and unit.state and _starts_with_tunnel(unit) else ""
        is_now = "is already" if unit.path not in changes else "is"
        say(f"{unit.name} {is_now} confined to {shown(name)}{later}, and {starts}", now)
    _prove(name, running)
    if not glob(f"{SYSTEM}/*.wants/{tunnel}"):
        warn(f"{tunnel} is not enabled: at boot, only an enabled service starts it", f"systemctl enable --now {tunnel}")


def release(names: list[str], *, restart: bool) -> None:
    """Remove what `confine` has written; with `restart`, restart it on the open network. Raises `Failure`.

    That is what runs, and what runs whenever its tunnel does: it may be down because it could not start confined.
    """
    units = _units(names, required=False)
    _check_pairs(units, "", *["--restart"] * restart)
    written = {unit.name: [*_links(unit), unit.path] if os.path.exists(unit.path) else [] for unit in units}
    for unit in units:  # a former release may have left it running in the tunnel
        if unit.runs and unit.state["NetworkNamespacePath"] + unit.state["PrivateNetwork"] == "no" and _place(unit):
            written[unit.name].append(unit.path)
    again = [unit for unit in units if restart and unit.state and (unit.runs or _links(unit)) and written[unit.name]]
    instances = [one for unit in units if written[unit.name] for one in unit.instances() if not confined_to(one.name)]
    again += instances if restart else []
    apply(dict.fromkeys(chain(*written.values()), ""), again)
    for unit in units:
        template = f"{unit.prefix}@.{unit.kind}"
        if unit.instance and confined_to(template):
            say(f"{unit.name} is confined as an instance of {template}", f"wgns release {template}")
        elif written[unit.name]:
            running = unit.runs or (unit.template and not restart)
            now = f"systemctl restart {unit.name.replace('@.', '@*.')}" if running and unit not in again else ""
            say(f"{unit.name} uses the host's open network from its next start on", now)
        else:
            say(f"{unit.name} is not confined")
    if again:
        systemctl("start", *(unit.name for unit in again), check=True)
        say(f"restarted: {', '.join(unit.name for unit in again)}")


def printed(name: str, names: list[str], allowed: list[str]) -> str:
    """The drop-ins that `confine` would write, with the commands in comments. Raises `Failure`."""
    lines = ""
    for unit in _units(names, name):
        link = [f"systemctl add-wants 'wg-confined@{escaped(name)}.service' '{unit.name}'"] * _starts_with_tunnel(unit)
        restart = [f"systemctl restart '{unit.name}'"] * (not unit.template)  # it runs on where it is until then
        commands = "; ".join(["systemctl daemon-reload", *link, *restart])
        lines += f"# Save as {unit.path}, then:\n# {commands}\n{drop_in(name, unit, allowed)}"
    return lines


def _units(names: list[str], name: str = "TUNNEL", *, required: bool = True) -> list[Unit]:
    if os.path.exists("/etc/NIXOS"):
        option = f'systemd.services.{names[0].partition(".")[0]}.wireguardTunnel = "{name}";'
        raise PermissionRefusedError("the configuration of NixOS writes its units", option)
    units = {unit.name: unit for unit in (Unit(each, required=required) for each in names)}
    for unit in units.values():
        if re.match(r"((netns|wg|wg-confined)@|wg\.|wgns-)", unit.name):
            raise UsageError(f"{unit.name} is a unit of the tunnels themselves", "name a service to be confined")
        if (former := read(unit.path)) and _MARK not in former:
            raise Failure(f"{unit.path} was not written by wgns confine: left as it is", "remove or rename it")
    return list(units.values())


def check_tunnel(name: str) -> None:
    """Refuse a tunnel that nobody has configured. Raises `ConfigError`."""
    path = config.path_of(name)
    if not os.path.exists(path) and systemctl("is-active", tunnel_unit(name)):
        near = errors.did_you_mean(name, [os.path.basename(each)[:-5] for each in glob(config.path_of("*"))])
        raise ConfigError(f"there is no tunnel {shown(name)}: no {path}", f"{near}install -m 600 PROVIDER.conf {path}")


def _check_pairs(units: list[Unit], name: str, *options: str) -> None:
    """Refuse to confine to the tunnel `name`, or to release (""), a socket without its service or the reverse."""
    chosen = [unit.name for unit in units]
    for unit in units:
        if unit.kind == "socket":
            others = [unit.one("Service") or f"{unit.stem}{'@' * unit.yes('Accept')}.service"]
        else:
            others = [each for each in unit.triggers if each.endswith(".socket")]
        missing = [each for each in others if each not in chosen and confined_to(each) != name]
        if missing:
            command = f"wgns confine {name}" if name else "wgns release"
            problem = f"{unit.name} belongs together with {', '.join(missing)}, which would stay in another network"
            raise Failure(problem, f"{command} {' '.join(dict.fromkeys([*chosen, *missing, *options]))}")
    if name and options and not any(unit.kind == "service" for unit in units):
        raise UsageError("--allow is for services: a socket unit sees no files")


def confined_to(unit: str) -> str:
    """The tunnel that a unit is confined to by `confine`; empty for none."""
    lines = read(f"{SYSTEM}/{unit}.d/wireguard.conf").splitlines()
    return next((line.removeprefix(_MARK).split()[0] for line in lines if line.startswith(_MARK)), "")


def _allowed(unit: Unit) -> list[str]:
    """What an earlier `confine` has let the unit see by --allow."""
    return re.findall(r"^BindPaths=(/.*)", read(unit.path).partition("\nDevicePolicy=")[2], re.MULTILINE)


def _starts_with_tunnel(unit: Unit) -> bool:
    """Whether the tunnel starts the unit: not a template, not what ends by itself, nor what something else starts."""
    return not (unit.template or unit.ends or unit.triggers)


def _links(unit: Unit) -> list[str]:
    """The links by which tunnels start the unit."""
    tunnels = ("wg-confined@*", "wg@*", "wg")
    return [path for each in tunnels for path in glob(f"{SYSTEM}/{each}.service.wants/{unit.name}")]


def _prove(name: str, units: list[Unit]) -> None:
    """Wait until units that are being restarted are up, and check each. Raises `Failure` after the last."""
    if not units:
        return
    systemctl("start", *(unit.name for unit in units))  # joins the restart
    time.sleep(_SETTLE)
    failing = tunnel_unit(name) if systemctl("is-active", tunnel_unit(name)) else ""
    faults = []
    for unit in units:
        seen = f"journalctl -eu {failing or unit.name} has its messages"
        if fault := _fault(name, unit):
            faults.append((fault, f"{seen}; wgns release --restart {unit.name} takes it back to the open network"))
    for fault, hint in faults[:-1]:
        say(fault, hint, ERROR)
    if faults:
        raise Failure(*faults[-1])


def _fault(name: str, unit: Unit) -> str:
    """Why a unit that was restarted does not run confined; empty if it does."""
    state = properties(unit.name)
    up = state["ActiveState"] != "activating" and is_running(state) and state.get("NRestarts", "0") == "0"
    if not up and not (unit.ends and state["ActiveState"] == "inactive"):
        return f"{unit.name} is confined, but does not stay up: {state['ActiveState']}"
    if state.get("MainPID", "0") != "0":
        argv = [sys.executable, os.path.abspath(sys.argv[0]), "check", name, "--unit", unit.name]
        check = subprocess.run(argv, capture_output=True, text=True, check=False)
        if check.returncode:
            return check.stderr.partition(": ")[2].partition("\n")[0]
    say(f"{unit.name} runs confined")
    return ""


def _place(unit: Unit) -> str | None:
    """The named network namespace of a unit's main process; empty for one without a name, None without a process."""
    process = unit.state.get("MainPID", "0")
    with suppress(OSError, Failure):
        return None if process == "0" else own_name(process)
    return ""


def on_disk(path: str) -> str:
    """What a path has: text, a symlink as "-> TARGET", or nothing."""
    return f"-> {os.readlink(path)}" if os.path.islink(path) else read(path)


def apply(changes: dict[str, str], units: list[Unit], *, wait: bool = False) -> None:
    """Give paths other content (see `on_disk`) and have systemd read it and begin to restart units, or `wait` for it.

    After a failure, all is as it was.
    """
    if not changes and not units:
        return
    former = {path: on_disk(path) for path in changes}
    # A socket does not start beside its running service
    names = sorted((unit.name for unit in units), key=lambda name: not name.endswith(".socket"))
    os.umask(0o022)
    signals.hold()
    try:
        for path, content in changes.items():
            _put(path, content)
            signals.check()
        # Not restart, which leaves a unit where it is if the tunnel fails; its ExecStop= is still the former
        if any(unit.state for unit in units):  # a new one cannot be stopped
            systemctl("stop", *names, check=True)
        systemctl("daemon-reload", check=True)
        if names:
            systemctl("reset-failed", *names)  # what was started too often would not start
            systemctl("start", *["--no-block"] * (not wait), *names, check=True)
    except BaseException:
        for path, content in reversed(former.items()):
            try:
                _put(path, content)
            except OSError as error:
                warn(f"{path} could not be put back: {os.strerror(error.errno or 0).lower()}")
        systemctl("daemon-reload")
        if names:
            systemctl("reset-failed", *names)  # systemd would go on showing a unit that is gone
            systemctl("start", "--no-block", *names)
        raise
    signals.release()


def _put(path: str, content: str) -> None:
    """Give a path other content in one step: half a drop-in would not confine."""
    folder, new = os.path.dirname(path), f"{path}.new"  # which systemd does not read
    with suppress(FileNotFoundError):
        os.unlink(new)
    if not content:
        with suppress(FileNotFoundError):
            os.unlink(path)
        if folder != SYSTEM:
            with suppress(OSError):  # something else is in it
                os.rmdir(folder)
        return
    os.makedirs(folder, exist_ok=True)
    if content.startswith("-> "):
        os.symlink(content.removeprefix("-> "), new)
    else:
        with open(new, "w", encoding="utf-8") as file:
            file.write(content)
    os.rename(new, path)
