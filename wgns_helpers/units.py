"""Services and sockets: what their files and systemd tell about them."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from glob import glob

from .errors import Failure, MissingError, UsageError, shown

SYSTEM = "/etc/systemd/system"

BINDS = ("BindPaths", "BindReadOnlyPaths")  # one list for systemd: an empty one takes back both

_FOLDERS = (SYSTEM, "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
_USER_FOLDERS = ("/etc/systemd/user", "/usr/lib/systemd/user", "/home/*/.config/systemd/user")
_NAME = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.(service|socket)")  # systemd.unit(5)
_NETWORK = "NetworkNamespacePath,PrivateNetwork"
_STATES = f"Id,LoadState,ActiveState,FragmentPath,DropInPaths,MainPID,NRestarts,TriggeredBy,{_NETWORK}"
_COMMANDS = ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"]


class Unit:
    """A service or socket as its files describe it, without a drop-in that confines it, and its state in systemd."""

    def __init__(self, name: str, *, required: bool = True) -> None:
        """Read it. Raises `UsageError` for another kind of unit, `MissingError` for an unknown one, if `required`."""
        name = name if name.endswith((".service", ".socket")) else f"{name}.service"
        if not _NAME.fullmatch(name):
            raise UsageError(f"{shown(name)} is not the name of a unit", "expected a .service or a .socket")
        try:
            self.state = properties(name)
        except Failure:  # of what is to be released the package may be removed
            if required:
                raise
            self.state = {}
        self.template = "@." in name
        self.name = name if self.template else self.state.get("Id") or name  # not an alias
        self.stem, _, self.kind = self.name.rpartition(".")
        self.prefix, _, self.instance = self.stem.partition("@")
        self.path = f"{SYSTEM}/{self.name}.d/wireguard.conf"
        self.runs = is_running(self.state)
        self._settings: dict[str, list[str]] = {}
        self.files = self._files() if required else []
        for path in self.files:
            self._read(path)
        self.ends = self.one("Type") == "oneshot" and not self.yes("RemainAfterExit")
        self.triggers = self.state.get("TriggeredBy", "").split() if self.state else self._triggers()

    def instances(self) -> list[Unit]:
        """The instances of a template that run, but for those of a connection (Accept=)."""
        if not self.template or not self.state:
            return []
        argv = ["systemctl", "list-units", "--plain", "--no-legend", f"{self.prefix}@*.{self.kind}"]
        listed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()
        found = [Unit(line.split()[0]) for line in listed]
        return [each for each in found if each.runs and not each.triggers]

    def _triggers(self) -> list[str]:
        """What starts a service, as far as files tell."""
        kinds = ("socket", "timer", "path") if self.kind == "service" else ()
        names = [*self.each("Sockets"), *(f"{self.stem}.{kind}" for kind in kinds)]
        return [name for name in names if any(os.path.exists(f"{folder}/{name}") for folder in _FOLDERS)]

    def _files(self) -> list[str]:
        if self.state:
            return [self.state["FragmentPath"], *self.state["DropInPaths"].split()]
        template = f"{self.prefix}@.{self.kind}"
        names = [self.name, template] if "@" in self.stem else [self.name]
        found = [f"{folder}/{name}" for name in names for folder in _FOLDERS if os.path.exists(f"{folder}/{name}")]
        if not found:
            raise MissingError(f"there is no unit {shown(self.name)}", f"in none of {', '.join(_FOLDERS)}")
        return found[:1] + [path for name in names for folder in _FOLDERS for path in glob(f"{folder}/{name}.d/*.conf")]

    def _read(self, path: str) -> None:
        """Take in the settings of one file; an empty one takes back what came before it (systemd.syntax(7))."""
        lines = read(path).replace("\\\n", " ").splitlines()
        if path == self.path or any(line.startswith("NetworkNamespacePath=/run/netns/") for line in lines):
            return
        for line in lines:
            key, equals, value = (part.strip() for part in line.partition("="))
            if equals and not value and key in BINDS:
                self._settings |= {each: [] for each in BINDS}
            elif equals and not key.startswith(("#", ";", "[")):
                self._settings[key] = [*self._settings.get(key, ()), value] if value else []

    def each(self, key: str) -> list[str]:
        """The values of a setting that is a list; blanks separate them."""
        return [word for value in self._settings.get(key, ()) for word in re.findall(r'(?:"[^"]*"|\S)+', value)]

    def one(self, key: str) -> str:
        """The value of a setting that counts, the last one."""
        return (self._settings.get(key) or [""])[-1]

    def yes(self, key: str) -> bool:
        """Whether a boolean setting is on (systemd.syntax(7))."""
        return self.one(key).lower() in ("1", "yes", "y", "true", "t", "on")

    def privileged(self) -> list[str]:
        """The settings whose commands keep all privileges, by a + in front of the path (systemd.service(5))."""
        return [k for k in _COMMANDS if any(re.match(r"[@:!|-]*\+", value) for value in self._settings.get(k, ()))]

    def place(self, value: str) -> str:
        """The path in a setting: without prefixes, with specifiers, and below /run if by /var/run."""
        path = value.strip('"').lstrip("-+:").partition(":")[0]
        for specifier, text in (("%t", "/run"), ("%p", self.prefix), ("%N", self.stem), ("%i", self.instance)):
            path = path.replace(specifier, text)
        path = os.path.normpath(path)
        return path[4:] if f"{path}/".startswith("/var/run/") else path


def read(path: str) -> str:
    """The text of a file, empty where there is none."""
    with suppress(FileNotFoundError, NotADirectoryError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def main_process(unit: str) -> str:
    """The number of the main process of a unit; `Failure` where it has none."""
    number = properties(unit).get("MainPID", "0")
    if number == "0":
        raise Failure(f"{shown(unit)} has no main process", "systemctl status tells whether it runs")
    return number


def systemctl(*arguments: str, check: bool = False) -> int:
    """Have systemd do something; the exit status. With `check`, raises `Failure` unless that is 0.

    Where no systemd runs (an image, a container), there is nothing to do, and nothing is active.
    """
    if not os.path.isdir("/run/systemd/system"):
        return 0 if check else 1
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise Failure(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.returncode


def properties(unit: str) -> dict[str, str]:
    """What systemd knows of a unit; empty where no systemd runs."""
    if not os.path.isdir("/run/systemd/system"):
        return {}
    asked = ["systemctl", "show", f"--property={_STATES}", "--", unit.replace("@.", "@instance.")]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"systemctl show {shown(unit)}: {done.stderr.strip()}")
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if found["LoadState"] == "not-found" and any(glob(f"{folder}/{unit}") for folder in _USER_FOLDERS):
        problem = f"{unit} is a unit of the user manager, which cannot join a namespace"
        raise Failure(problem, "a unit with User= in /etc/systemd/system, or wgns exec")
    if found["LoadState"] == "not-found":
        raise MissingError(f"systemd knows no {shown(unit)}", "systemctl list-unit-files")
    if found["LoadState"] not in ("loaded", "merged"):
        way = "unmask" if found["LoadState"] == "masked" else "status"
        raise Failure(f"{unit} cannot be loaded: {found['LoadState']}", f"systemctl {way} {unit}")
    return found


def is_running(state: dict[str, str]) -> bool:
    """Whether a unit with this state has been started and has not ended."""
    return state.get("ActiveState") in ("active", "activating", "reloading", "refreshing")
