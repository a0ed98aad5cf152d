"""netns-up, wg-up, wg-down, netns-down: this project beside other ways to do the same work (make bench).

All of it happens in tests/sandbox: the machine stays as it was. Each step is measured as a whole process. Where the
kernel has no WireGuard, another kind of link stands in for it.
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
from statistics import median
from typing import Any, NamedTuple, NoReturn

from contenders import BASELINE, ENDPOINT, PEER, STEPS, V4, V6, WORK, Contender, contenders, floors, install

NEEDED = {"dash": "dash", "ip": "iproute2", "wg": "wireguard-tools", "unshare": "util-linux", "mount": "mount"}
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"
SETTLE = 0.15  # seconds between cycles: the kernel frees a namespace later, holding locks that the next cycle needs
PATIENCE = 60  # seconds for one process
NAMED = "/run/netns/wg"
STAND_IN = """`wg set` is started and fails;
ours asks for the netlink family in vain, encodes the messages and throws them away. wg-quick is left out."""


class Sample(NamedTuple):
    """Milliseconds of one process: by the clock, and of processors (user and system, its children's included)."""

    wall: float
    cpu: float


Results = dict[str, dict[str, list[Sample]]]  # by name and step; the step "cycle" is the sum of the four


def main() -> None:
    """Enter the sandbox, measure, print."""
    parser = argparse.ArgumentParser(description="Measures the cycle netns-up, wg-up, wg-down, netns-down. Needs root.")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="measured rounds (default: 15)")
    parser.add_argument("--json", metavar="FILE", help="write every sample to FILE as well")
    arguments = parser.parse_args()
    if not Path("/run/wgns-sandbox").exists():
        enter_sandbox()
    signal.signal(signal.SIGALRM, give_up)
    with Path(arguments.json or os.devnull).open("w", encoding="utf-8") as samples:
        WORK.mkdir()
        kind = next((kind for kind in ("wireguard", "ifb", "dummy") if can_make(kind)), "")
        if not kind:
            sys.exit("bench: the kernel makes no link of the kinds wireguard, ifb and dummy")
        os.environ.clear()
        os.environ.update({"PATH": PATH, "STANDIN_KIND": kind})  # and no PYTHON variables
        python = install(kind)
        cycles, starts = measure(contenders(kind, python), floors(python), max(arguments.rounds, 1), kind)
        sys.stdout.write(report(kind, cycles, starts))
        json.dump({"machine": machine(), "kind": kind, "cycles": cycles, "starts": starts}, samples, indent=1)


def enter_sandbox() -> NoReturn:
    """Run this program again where it can change namespaces, /run and /etc."""
    missing = [program for program in NEEDED if not shutil.which(program, path=PATH)]
    if missing:
        packages = " ".join(NEEDED[program] for program in missing)
        sys.exit(f"bench: {', '.join(missing)} missing: apt-get install -y {packages}")
    if os.geteuid():
        sys.exit("bench: it makes namespaces, mounts and links: run it as root")
    if not all(map(importlib.util.find_spec, ("wgconfig", "pyroute2"))):
        sys.exit("bench: this Python lacks wgconfig or pyroute2: start it as .venv/bin/python bench/cycle.py")
    os.environ["PATH"] = PATH
    sandbox = Path(__file__).resolve().parent.parent / "tests" / "sandbox"
    os.execv(sandbox, [str(sandbox), sys.executable, __file__, *sys.argv[1:]])


def give_up(_number: int, _frame: object) -> None:
    """End a run that hangs, and with it the sandbox."""
    sys.exit(f"bench: a command has run for {PATIENCE} s")


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


def measure(who: list[Contender], starts: dict[str, list[str]], rounds: int, kind: str) -> tuple[Results, Results]:
    """Everybody once in each round, in an order that changes; the first round is checked in full and not counted."""
    cycles: Results = {contender.name: {step: [] for step in (*STEPS, "cycle")} for contender in who}
    started: Results = {name: {"start": []} for name in starts}
    turns: list[Contender | str] = [*who, *starts]
    shuffle = random.Random(1).shuffle  # noqa: S311 - nothing secret
    links = printed("ip", "-j", "link", "show")
    for number in range(rounds + 1):
        shuffle(turns)
        for turn in turns:
            time.sleep(SETTLE)
            if isinstance(turn, str):
                taken, samples = {"start": run(starts[turn])}, started[turn]
            else:
                taken, samples = cycle(turn, kind, check=not number), cycles[turn.name]
                if os.path.lexists(NAMED) or printed("ip", "-j", "link", "show") != links:
                    sys.exit(f"bench: {turn.name} leaves something behind")
            for step, sample in taken.items() if number else ():
                samples[step].append(sample)
    return cycles, started


def cycle(contender: Contender, kind: str, *, check: bool) -> dict[str, Sample]:
    """Run the four steps; what they took, and their sum."""
    taken = {}
    for step in STEPS:
        taken[step] = run(contender.commands[step], contender.wg_down_code if step == "wg-down" else 0)
        if check and step == "wg-up":
            check_up(contender.name, kind)
        if check and step == "wg-down" and any(link["ifname"] == "wg" for link in inside("link", "show")):
            sys.exit(f"bench: {contender.name}: the link is still there after wg-down")
    taken["cycle"] = Sample(*map(sum, zip(*taken.values(), strict=True)))
    return taken


def run(command: list[str], code: int = 0) -> Sample:
    """Run a command, which has to end with `code`."""
    with (WORK / "log").open("w+b") as log:
        to_log = [(os.POSIX_SPAWN_DUP2, log.fileno(), number) for number in (1, 2)]
        signal.alarm(PATIENCE)
        start = time.perf_counter()
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=to_log)
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - start
        signal.alarm(0)
        if os.waitstatus_to_exitcode(status) != code:
            log.seek(0)
            said = log.read().decode(errors="replace")
            sys.exit(f"bench: {' '.join(command)}: status {os.waitstatus_to_exitcode(status)} and not {code}: {said}")
    return Sample(wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000)


def inside(*command: str) -> list[dict[str, Any]]:
    """Return what ip(8) sees in the namespace."""
    found: list[dict[str, Any]] = json.loads(printed("ip", "-n", "wg", "-j", "-d", *command))
    return found


def check_up(name: str, kind: str) -> None:
    """End the benchmark unless the tunnel is there: to measure a command that fails would be worthless."""
    (link,) = inside("address", "show", "dev", "wg")
    seen = {
        "kind": link["linkinfo"]["info_kind"],
        "up": "UP" in link["flags"],
        "addresses": {(a["local"], a["prefixlen"]) for a in link["addr_info"] if a["scope"] == "global"},
        "routes": [[route["dev"] for route in inside(family, "route", "show", "default")] for family in ("-4", "-6")],
    }
    wanted = {"kind": kind, "up": True, "addresses": {(V4, 32), (V6, 128)}, "routes": [["wg"], ["wg"]]}
    if kind == "wireguard":
        peer = printed("ip", "netns", "exec", "wg", "wg", "show", "wg", "dump").splitlines()[1].split("\t")
        seen["peer"] = (peer[0], peer[2], set(peer[3].split(",")))
        wanted["peer"] = (PEER, ENDPOINT, {"0.0.0.0/0", "::/0"})
    if seen != wanted:
        sys.exit(f"bench: {name}: after wg-up there is {seen}, and not {wanted}")


def machine() -> str:
    """Name what the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    iproute2 = printed("ip", "-V").split(", ")[1].strip()
    wireguard = printed("wg", "--version").partition(" - ")[0].strip()
    python = f"Python {platform.python_version()}"
    return f"Linux {platform.release()}; {model}, {os.cpu_count()} processors; {python}; {iproute2}; {wireguard}"


def report(kind: str, cycles: Results, starts: Results) -> str:
    """Three tables in Markdown."""
    columns = (*STEPS, "cycle")
    base = {step: wall(cycles[BASELINE][step]) for step in columns}
    times, ratios, start_times = [], [], []
    for name, samples in cycles.items():
        medians = [wall(samples[step]) for step in columns]
        times.append([name, *map(milliseconds, medians), *rest(samples["cycle"]), f"{medians[-1] / base['cycle']:.2f}"])
        ratios.append([name, *(f"{wall(samples[step]) / base[step]:.2f}" for step in columns)])
    for name, samples in starts.items():
        start_times.append([name, milliseconds(wall(samples["start"])), *rest(samples["start"])])
    if kind == "wireguard":
        mode = "The kernel has WireGuard: the tunnels are real."
    else:
        mode = f"The kernel has no WireGuard: in every row a link of kind {kind} stands in for the tunnel. {STAND_IN}"
    return "\n".join(
        (
            *(f"{machine()}", "", mode, ""),
            *(f"Milliseconds by the clock, median of {len(cycles[BASELINE]['cycle'])} rounds:", ""),
            *table([["", *columns, "min", "max", "CPU", f"to {BASELINE}"], *times]),
            *("", f"The same, as multiples of the {BASELINE}:", ""),
            *table([["", *columns], *ratios]),
            *("", "Starting something that does nothing (`unshare -n` is part of each netns-up but wg-quick's):", ""),
            *table([["", "median", "min", "max", "CPU"], *start_times]),
            "",
        )
    )


def wall(samples: list[Sample]) -> float:
    """Take the median by the clock, in milliseconds."""
    return median(sample.wall for sample in samples)


def rest(samples: list[Sample]) -> list[str]:
    """Give the shortest and the longest time by the clock, and the median of the processors'."""
    walls = [sample.wall for sample in samples]
    return [*map(milliseconds, (min(walls), max(walls), median(sample.cpu for sample in samples)))]


def milliseconds(value: float) -> str:
    """Round to what can be told apart."""
    return f"{value:.1f}"


def table(rows: list[list[str]]) -> list[str]:
    """Lay out rows in Markdown, the first of them the head."""
    rows = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return [f"| {' | '.join(cells)} |" for cells in rows]


if __name__ == "__main__":
    main()
