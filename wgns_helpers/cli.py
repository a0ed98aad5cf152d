"""Command lines of the five programs: arguments, exit codes, and the last message."""

from __future__ import annotations

import gc
import os
import sys

from . import __version__, signals
from .errors import ERROR, Failure, UsageError, say, shown, system_error
from .netns import checked_link, checked_name

# How many names each program takes, a command counting as some, its options, with = if they take a value, and its names
_PROGRAMS = {
    "netns-up": (1, 1, "", "one NAME"),
    "netns-down": (1, 1, "", "one NAME"),
    "wg-up": (0, 1, "--netns= --config= --private-key= --resolve-timeout= --wait-handshake= --dry-run", "one NAME"),
    "wg-down": (0, 1, "--netns=", "one NAME"),
    "wgns": (0, 1 << 30, "", ""),
    "wgns status": (0, 1, "--json", "one NAME"),
    "wgns check": (0, 1, "--unit= --pid= --json", "one NAME"),
    "wgns confine": (2, 1 << 30, "--allow= --print", "TUNNEL and UNIT"),
    "wgns release": (1, 1 << 30, "--restart", "UNIT"),
    "wgns publish": (2, 3, "", "TUNNEL and PORT"),
    "wgns reach": (3, 3, "", "TUNNEL, PORT and HOST:PORT"),
    "wgns dropin": (1, 1, "--unit= --allow=", "one NAME"),  # the former name of confine --print
    "wgns exec": (2, 1 << 30, "--user= --allow=", "NAME and COMMAND"),
    "wgns refresh": (0, 1, "", "one NAME"),
    "wgns forward": (1, 1, "--gateway= --exec=", "one NAME"),
}


def main(program: str) -> None:
    """Run one of the programs and end the process. No traceback unless WGNS_DEBUG=1."""
    signals.default()
    gc.set_threshold(100_000)  # the default searches a large configuration again and again
    code = 0
    try:
        while os.open(os.devnull, os.O_RDWR) < 3:  # else a socket could take the place of a closed stderr
            pass
        arguments = sys.argv[1:]
        if program == "wgns" and arguments and f"wgns {arguments[0]}" in _PROGRAMS:
            program = f"wgns {arguments.pop(0)}"
        names, options = _parse(program, arguments)
        if "--help" in options:
            _print(_usage(program) + _usage("") * (program != "wgns status"))
        elif "--version" in options:
            _print(f"{__version__}\n")
        elif program.startswith("netns"):
            from . import naming

            (naming.up if program == "netns-up" else naming.down)(checked_name(names[0]))
        elif program.startswith("wgns"):
            _wgns(program, names, options)
        else:
            _wg(program, names[0] if names else "wg", options)
    except Exception as error:
        if os.environ.get("WGNS_DEBUG") == "1":
            raise
        hint = "a fault of the program; WGNS_DEBUG=1 shows where"
        failure = error if isinstance(error, Failure) else Failure(f"internal error: {type(error).__name__}", hint)
        if isinstance(error, OSError):
            failure = system_error(str(error.filename or "system call"), error)
        say(str(failure), failure.hint, ERROR)
        code = failure.code
        signals.release()  # a signal that has undone the work ends the process here; one that came too late does not
    os._exit(code)  # without the interpreter's tidying up: 2 ms


def _parse(program: str, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The names and the options in `arguments`; argparse would take as long as all the rest of netns-up."""
    least, most, options, expected = _PROGRAMS[program]
    known = options.split()
    names: list[str] = []
    given: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument == "--" or (program == "wgns exec" and names and not argument.startswith("-")):  # a command
            names += rest if argument == "--" else [argument, *rest]
            break
        if argument in ("--help", "-h", "--version"):
            return [], {"--help" if argument == "-h" else argument: ""}
        whole = f"{argument}={next(rest, '')}" if f"{argument}=" in known else argument
        option, equals, value = whole.partition("=")
        if not argument.startswith("-"):
            names.append(argument)
        elif equals and option in known:
            raise UsageError(f"{option} takes no value")
        elif option + equals not in known:
            raise UsageError(f"unknown option {shown(option)}", "--help lists the options")
        elif equals and not value:
            raise UsageError(f"{option} needs a value")
        elif option in given and option != "--allow":
            raise UsageError(f"{option} is given twice")
        else:
            given[option] = f"{given[option]}\n{value}" if option in given else value
    if not least <= len(names) <= most:
        raise UsageError(f"expected {expected}, {len(names)} given", "--help shows the usage")
    return names, given


def _usage(program: str) -> str:
    """What --help prints for a program; for the name "", the exit codes of all."""
    with open(os.path.join(os.path.dirname(__file__), "usage.txt"), encoding="utf-8") as file:
        return file.read().partition(f"== {program}\n")[2].partition("== ")[0]


def _print(text: str) -> None:
    with open(1, "w", encoding="utf-8", closefd=False) as output:  # sys.stdout is None where it was closed
        output.write(text)


def _wg(program: str, name: str, options: dict[str, str]) -> None:
    path = name if "/" in name and name.endswith(".conf") else ""  # as wg-quick(8) takes it
    link = checked_link(checked_name(os.path.basename(path)[:-5] if path else name))
    namespace = checked_name(options["--netns"]) if "--netns" in options else link
    if program == "wg-down":
        from . import wg_down

        wg_down.down(link, namespace)
        return
    from . import config, resolve, wg_up

    file = options.get("--config", path or config.path_of(link))
    private_key = options.get("--private-key", "")
    if "--dry-run" in options:
        steps = wg_up.plan(link, namespace, config.load(file, private_key))
        _print("".join(f"{step}\n" for step in steps))
    else:
        resolving, shaking = _seconds(options, "--resolve-timeout"), _seconds(options, "--wait-handshake")
        wg_up.up(link, namespace, lambda: resolve.ready(config.load(file, private_key), resolving), shaking)


def _seconds(options: dict[str, str], option: str) -> int:
    value = options.get(option, "0")
    if not (value.isdecimal() and value.isascii() and len(value) < 5 and int(value) <= 3600):
        raise UsageError(f"{option} {shown(value)}: expected a number of seconds from 0 to 3600")
    return int(value)


def _wgns(program: str, names: list[str], options: dict[str, str]) -> None:
    if program == "wgns":
        verbs = "confine, release, publish, reach, forward, status, check, exec or refresh"
        raise UsageError(f"expected {verbs}", "wgns --help explains them")
    if program == "wgns release":
        from . import confine, doors

        if units := doors.release(names):
            confine.release(units, restart="--restart" in options)
        return
    name = checked_link(checked_name(names[0])) if names else ""
    if program in ("wgns confine", "wgns dropin"):
        _confine(program, name, names[1:], options)
    elif program in ("wgns publish", "wgns reach"):
        from . import doors

        (doors.publish if program == "wgns publish" else doors.reach)(name, *names[1:])
    elif program == "wgns exec":
        from .exec import execute

        execute(name, options.get("--user", ""), names[1:], options.get("--allow", "").splitlines())
    elif program == "wgns refresh":
        from . import refresh

        refresh.refresh(name)
    elif program == "wgns forward":
        from . import forward

        forward.forward(name, options.get("--gateway", ""), options.get("--exec", ""))
    elif program == "wgns status":
        _status(name, options)
    else:
        _check(name, options)


def _confine(program: str, name: str, units: list[str], options: dict[str, str]) -> None:
    from . import confine

    allowed = options.get("--allow", "").splitlines()
    if program == "wgns dropin":
        _print(confine.printed(name, options.get("--unit", "").split(), allowed) or confine.text(name))
        return
    confine.check_tunnel(name)
    if "--print" in options:
        _print(confine.printed(name, units, allowed))
    else:
        confine.confine(name, units, allowed)


def _status(name: str, options: dict[str, str]) -> None:
    import json

    from . import report, status

    tunnels = status.look(name)
    if "--json" in options:
        _print(json.dumps({"tunnels": tunnels}, indent=2) + "\n")
    else:
        _print(report.text(tunnels[0]) if name else report.table(tunnels))
    status.verdict(tunnels)


def _check(name: str, options: dict[str, str]) -> None:
    from . import check

    if "--json" in options:
        import json  # before this process moves to a root directory that may lack it
    process = options.get("--pid", "self")
    if "--unit" in options:
        from . import units

        if "--pid" in options:
            raise UsageError("--unit and --pid: expected one of the two")
        process = units.main_process(options["--unit"])
    elif process != "self" and not (process.isascii() and process.isdecimal()):
        raise UsageError(f"--pid {shown(process)}: expected a number")
    name = name or check.own_name(process)
    points = check.points(name, process)
    refuted = [f"{point}: {text}" for point, holds, text in points if holds is False]
    if "--json" in options:
        rows = [{"point": point, "holds": holds, "text": text} for point, holds, text in points]
        _print(json.dumps({"name": name, "confined": not refuted, "points": rows}, indent=2) + "\n")
    else:
        words = {True: "yes", False: "NO ", None: "?  "}
        _print("".join(f"{words[holds]} {point}: {text}\n" for point, holds, text in points))
    if refuted:
        hint = "--unit UNIT or --pid PID judges another process; wgns status shows the tunnel" * (process == "self")
        raise Failure(f'not confined to "{name}": {refuted[0]}', hint)
