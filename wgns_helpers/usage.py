"""What the five programs take on their command lines, and how they say it."""

from __future__ import annotations

from .errors import UsageError, shown

_NAME = "NAME: at most 255 letters, digits and _ - . @ + : (a slash is read as a dash, so that %I of a unit works)"
_CODES = """exit codes: 0 done, 1 the system refused, 2 usage, 69 something is missing, 75 try again, 77 not permitted,
78 configuration
"""
USAGE = {
    "netns-up": f"""usage: netns-up NAME
Calls the network namespace that it runs in NAME (/run/netns/NAME); in the host's namespace it makes a new one.
{_NAME}
{_CODES}""",
    "netns-down": f"""usage: netns-down NAME
Takes the name of a network namespace away.
{_NAME}
{_CODES}""",
    "wg-up": f"""usage: wg-up [NAME] [--netns NAMESPACE] [--config FILE|-] [--private-key FILE] [--dry-run]
             [--resolve-timeout SECONDS] [--wait-handshake SECONDS]
Makes the WireGuard interface NAME (default: wg) inside the network namespace of that name, as a wg-quick(8) file says;
one that is there is changed where it differs, and its sessions go on.
  --netns NAMESPACE          another network namespace than NAME
  --config FILE              another file than /etc/wireguard/NAME.conf; - is standard input
  --private-key FILE         the private key, instead of the one that the configuration names
  --resolve-timeout SECONDS  how long a name that does not resolve is tried again (default: 0, it is tried once)
  --wait-handshake SECONDS   how long a handshake is waited for; without one all is undone (default: 0, not at all)
  --dry-run                  check the configuration and print what would be done; changes nothing, and needs no root
                             where there is no tunnel yet
{_CODES}""",
    "wg-down": f"""usage: wg-down [NAME] [--netns NAMESPACE]
Removes the WireGuard interface NAME (default: wg) from the network namespace of that name, and wg-up's files.
  --netns NAMESPACE   another network namespace than NAME
{_CODES}""",
    "wgns": f"""usage: wgns status|check|dropin|exec|refresh …
Looks at tunnels and at what is confined to them, and confines more; each has its own --help.
  wgns status [NAME]               what a tunnel is right now, or all of them
  wgns check [NAME]                proves that a process is confined to the tunnel NAME
  wgns dropin NAME [--unit UNIT]   prints the drop-in that confines a unit
  wgns exec NAME COMMAND…          runs a command with the isolation of a confined service
  wgns refresh [NAME]              looks up again where peers are that do not answer
{_CODES}""",
    "wgns status": """usage: wgns status [NAME] [--json]
Shows the tunnel NAME: namespace, who is inside, interface, peers, and what differs from its configuration; without
NAME one line for each tunnel.
  --json   the same as JSON, which README.md describes
exit codes: 0 as it should be, 1 a peer is stale or never had a handshake, the interface is down or something differs,
69 there is no such tunnel, 77 that cannot be seen without root; 2 usage
A peer without PersistentKeepalive and default route may be idle: that it is stale is shown, and is 0.
""",
    "wgns refresh": f"""usage: wgns refresh [NAME]
For all tunnels or NAME: where a peer has had no handshake for three minutes and its endpoint is a host name, looks that
up and sets the endpoint to its address, or to the next one if it is at one of them. Changes nothing else.
{_CODES}""",
    "wgns check": f"""usage: wgns check [NAME] [--unit UNIT | --pid PID] [--json]
Proves that this process is confined to the tunnel NAME (default: the one whose namespace it is in), one line for each
point: yes, NO, or ? for what cannot be seen.
  --unit UNIT   judge the main process of a unit instead; takes root
  --pid PID     judge another process instead; takes root
  --json        the points as JSON
{_CODES}""",
    "wgns dropin": f"""usage: wgns dropin NAME [--unit UNIT] [--allow PATH]…
Prints the drop-in that confines a unit to the tunnel NAME.
  --unit UNIT    the service or socket that it is for, which is looked at
  --allow PATH   what of /run the service may see besides what every service needs; can be given again
{_CODES}""",
    "wgns exec": f"""usage: wgns exec NAME [--user USER] [--] COMMAND [ARGUMENT]…
Runs a command with the isolation of a service that is confined to the tunnel NAME, as the user who called sudo.
  --user USER    as another user: a name or a number
{_CODES.rstrip()}; of the command otherwise, 126 and 127 if it cannot be run
""",
}
SECONDS = ("--resolve-timeout", "--wait-handshake")
# The options of each program, and whether they take a value
_OPTIONS = {
    "wg-up": {"--netns": True, "--config": True, "--private-key": True, "--dry-run": False}
    | dict.fromkeys(SECONDS, True),
    "wg-down": {"--netns": True},
    "wgns status": {"--json": False},
    "wgns check": {"--unit": True, "--pid": True, "--json": False},
    "wgns dropin": {"--unit": True, "--allow": True},
    "wgns exec": {"--user": True},
}
_AGAIN = "--allow"  # can be given more than once
# How many names each program takes; a command is some too
_NAMES = dict.fromkeys(("wgns", "wg-up", "wg-down", "wgns status", "wgns check", "wgns refresh"), (0, 1))
_NAMES["wgns exec"] = (2, 1 << 30)


def parse(program: str, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The names and the options in `arguments`; argparse would take as long as all the rest of netns-up."""
    known = _OPTIONS.get(program, {})
    names: list[str] = []
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        option, equals, value = argument.partition("=")
        if argument == "--" or (program == "wgns exec" and names and not argument.startswith("-")):  # a command
            names += rest if argument == "--" else [argument, *rest]
            break
        if argument in ("--help", "-h", "--version"):
            return [], {"--help" if argument == "-h" else argument: ""}
        if not argument.startswith("-"):
            names.append(argument)
        elif option not in known:
            raise UsageError(f"unknown option {shown(option)}", "--help lists the options")
        elif option in given and option != _AGAIN:
            raise UsageError(f"{option} is given twice")
        elif not known[option] and equals:
            raise UsageError(f"{option} takes no value")
        else:
            value = value if equals or not known[option] else "".join(rest[:1])
            given[option] = f"{given[option]}\n{value}" if option in given else value
            rest = rest[1:] if known[option] and not equals else rest
    empty = [option for option, value in given.items() if known[option] and not value]
    if empty:
        raise UsageError(f"{empty[0]} needs a value")
    least, most = _NAMES.get(program, (1, 1))
    if not least <= len(names) <= most:
        wanted = "NAME and COMMAND are" if least > 1 else "one NAME is"
        raise UsageError(f"{wanted} wanted, {len(names)} given", "--help shows the usage")
    return names, given
