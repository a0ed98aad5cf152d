"""Times our programs beside other ways of doing the same, as whole processes; prints every sample as JSON.

Needs root. report.py makes tables of it. Everything happens in tests/sandbox: in namespaces made for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from spawn import COMMANDS, PARTS
from works import CYCLE, ENDPOINT, V4, V6, WORK, Course, Step, Tunnel, Works, install, public_key

NEEDED = {"dash": "dash", "ip": "iproute2", "wg": "wireguard-tools", "unshare": "util-linux", "mount": "mount"}
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"
SETTLE = 0.15  # seconds between courses: the kernel frees a namespace later, holding locks that the next one needs
PATIENCE = 300  # seconds for one step
NAMED = "/run/netns/wg"

# By work and who: for each round milliseconds by the clock and of processors, and the largest peak of memory in KiB
Samples = dict[str, dict[str, list[tuple[float, float, int]]]]


def main() -> None:
    """Enter the sandbox, measure, print."""
    parser = argparse.ArgumentParser(description="Times the programs beside others, and prints JSON. Needs root.")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="measured rounds (default: 15)")
    arguments = parser.parse_args()
    if not Path("/run/wgns-sandbox").exists():
        enter_sandbox()
    WORK.mkdir()
    kind = next((kind for kind in ("wireguard", "ifb", "dummy") if can_make(kind)), "")
    if not kind:
        sys.exit("bench: the kernel makes no link of the kinds wireguard, ifb and dummy")
    os.environ.clear()
    os.environ.update({"PATH": PATH, "STANDIN_KIND": kind})  # and no PYTHON variables
    works = Works(kind, install(kind))
    samples = Bench(works).measure(max(arguments.rounds, 1))
    json.dump({"machine": machine(), "kind": kind, "rounds": arguments.rounds, "samples": samples}, sys.stdout)


def enter_sandbox() -> NoReturn:
    """Run this program again where it can change namespaces, /run and /etc."""
    missing = [program for program in NEEDED if not shutil.which(program, path=PATH)]
    if missing:
        packages = " ".join(NEEDED[program] for program in missing)
        sys.exit(f"bench: {', '.join(missing)} missing: apt-get install -y {packages}")
    if os.geteuid():
        sys.exit("bench: it makes namespaces, mounts and links: run it as root")
    if not all(map(importlib.util.find_spec, ("wgconfig", "pyroute2"))):
        sys.exit("bench: this Python lacks wgconfig or pyroute2: start it as .venv/bin/python bench/run.py")
    os.environ["PATH"] = PATH
    sandbox = Path(__file__).resolve().parent.parent / "tests" / "sandbox"
    os.execv(sandbox, [str(sandbox), sys.executable, __file__, *sys.argv[1:]])


def printed(*command: str) -> str:
    """Return what a command prints, which has to succeed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        sys.exit(f"bench: {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def can_make(kind: str) -> bool:
    """Whether the kernel has this kind of link."""
    command = ["ip", "link", "add", "probe", "type", kind]
    made = subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE)
    return not made.returncode and not printed("ip", "link", "del", "probe")


class Bench:
    """All the works, done by everybody, measured by a spawn.py."""

    def __init__(self, works: Works) -> None:
        self._works = works
        self._log = WORK / "log"
        spawn = [sys.executable, "-IS", str(Path(__file__).with_name("spawn.py")), str(self._log)]
        self._spawn = subprocess.Popen(spawn, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answers = iter(self._spawn.stdout or ())

    def measure(self, rounds: int) -> Samples:
        """Everybody once in each round, in an order that changes; the first round is checked and not counted."""
        courses = list(self._works.courses)
        done = [(step.work, course.who) for course in courses for step in course.steps if step.work]
        done[len(CYCLE) : len(CYCLE)] = [("cycle", who) for work, who in done if work == CYCLE[0]]
        samples: Samples = {work: {who: [] for which, who in done if which == work} for work, _ in done}
        shuffle = random.Random(1).shuffle  # noqa: S311 - nothing secret
        links = printed("ip", "-j", "link", "show")
        signal.signal(signal.SIGALRM, self._give_up)
        for number in range(rounds + 1):
            for course in courses:
                time.sleep(SETTLE)
                taken = self._run(course, check=not number)
                if os.path.lexists(NAMED) or printed("ip", "-j", "link", "show") != links:
                    sys.exit(f"bench: {course.who} leaves something behind")
                for work, sample in taken.items() if number else ():
                    samples[work][course.who].append(sample)
            shuffle(courses)
        return samples

    def _run(self, course: Course, *, check: bool) -> dict[str, tuple[float, float, int]]:
        """What each of the works in a course took; of the four programs the sum too."""
        taken = {}
        for step in course.steps:
            sample = self._time(course, step)
            if step.work:
                taken[step.work] = sample
            if check and step.tunnel:
                check_up(course.who, self._works.kind, step.tunnel)
        if "netns-down" in taken:
            walls, cpus, peaks = zip(*(taken[step] for step in CYCLE), strict=True)
            taken["cycle"] = (sum(walls), sum(cpus), max(peaks))
        return taken

    def _time(self, course: Course, step: Step) -> tuple[float, float, int]:
        signal.alarm(PATIENCE)
        print(COMMANDS.join(map(PARTS.join, step.commands)), file=self._spawn.stdin, flush=True)
        wall, cpu, peak, *codes = next(self._answers).split()
        signal.alarm(0)
        if codes != [str(step.code)]:
            said = self._log.read_text(encoding="utf-8", errors="replace")
            sys.exit(f"bench: {course.who}: {step.commands[0]}: status {codes} and not {step.code}: {said}")
        return float(wall), float(cpu), int(peak)

    def _give_up(self, _number: int, _frame: object) -> None:
        """End a run that hangs, and with it the sandbox."""
        sys.exit(f"bench: a command has run for {PATIENCE} s")


def inside(*command: str) -> list[dict[str, Any]]:
    """Return what ip(8) sees in the namespace."""
    found: list[dict[str, Any]] = json.loads(printed("ip", "-n", "wg", "-j", "-d", *command))
    return found


def check_up(who: str, kind: str, tunnel: Tunnel) -> None:
    """End the benchmark unless the tunnel is there: to measure a command that fails would be worthless."""
    (link,) = inside("address", "show", "dev", "wg")
    seen: dict[str, object] = {
        "kind": link["linkinfo"]["info_kind"],
        "up": "UP" in link["flags"],
        "addresses": {(a["local"], a["prefixlen"]) for a in link["addr_info"] if a["scope"] == "global"},
    }
    wanted: dict[str, object] = {"kind": kind, "up": True, "addresses": {(V4, 32), (V6, 128)}}
    if tunnel.routed:
        routes = {route["dst"] for family in ("-4", "-6") for route in inside(family, "route", "show", "dev", "wg")}
        found = tunnel.networks(tunnel.peers - 1)
        missing = {network.partition("/")[0] for network in found} - {route.partition("/")[0] for route in routes}
        seen["missing routes"] = missing - {"0.0.0.0", "::"} if "default" in routes else missing  # noqa: S104
        wanted["missing routes"] = set()
    if kind == "wireguard":
        dump = printed("ip", "netns", "exec", "wg", "wg", "show", "wg", "dump").splitlines()
        peers = [line.split("\t") for line in dump[1:]]
        seen["peers"] = {(peer[0], peer[2], peer[7]): set(peer[3].split(",")) for peer in peers}
        numbers = range(tunnel.peers)
        keepalive = {tunnel.peers - 1: str(tunnel.keepalive or "off")}
        wanted["peers"] = {(public_key(n), ENDPOINT, keepalive.get(n, "off")): set(tunnel.networks(n)) for n in numbers}
    if seen != wanted:
        sys.exit(f"bench: {who}: after wg-up there is {str(seen)[:500]}, and not {str(wanted)[:500]}")


def machine() -> str:
    """Name what the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    model = next(names, platform.machine())
    iproute2 = printed("ip", "-V").split(", ")[1].strip()
    wireguard = printed("wg", "--version").partition(" - ")[0].strip()
    python = f"Python {platform.python_version()}"
    return f"Linux {platform.release()}; {model}, {os.cpu_count()} processors; {python}; {iproute2}; {wireguard}"


if __name__ == "__main__":
    main()
