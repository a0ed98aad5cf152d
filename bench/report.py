"""Makes tables in Markdown of what run.py has printed: report.py FILE."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from works import DASH, OURS, QUICK

BARE = "python3 -c pass"
STAND_IN = (
    "The kernel has no WireGuard: in every row a link of kind {} stands in for the tunnel. `wg set` and `wg setconf` "
    "read what they are given, and then fail; ours asks for the netlink family in vain, encodes the messages and "
    "throws them away. What needs WireGuard itself is left out."
)
Sample = tuple[float, float, int]


def main() -> None:
    """Print the machine, the table of medians with ratios, and the table of everything."""
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    samples: dict[str, dict[str, list[Sample]]] = found["samples"]
    starts = samples.pop("start")
    real = found["kind"] == "wireguard"
    said = "The kernel has WireGuard: the tunnels are real." if real else STAND_IN.format(found["kind"])
    floor = memory(starts[BARE])
    lines = [found["machine"], "", said, ""]
    lines += [f"Milliseconds by the clock, medians of {found['rounds']} interleaved rounds:", ""]
    lines += [*table(medians(samples)), "", "In full, ours as a multiple in the last column:", ""]
    lines += [*table(everything(samples)), "", "Starting what does nothing:", "", *table(floors(starts)), ""]
    peaks = {work: memory(who[OURS]) for work, who in samples.items() if OURS in who}
    listed = ", ".join(f"{work} {peak / floor:.2f}" for work, peak in peaks.items())
    lines += [f"Peak memory of ours, as a multiple of bare Python's {floor / 1024:.1f} MiB: {listed}.", ""]
    sys.stdout.write("\n".join(lines))


def medians(samples: dict[str, dict[str, list[Sample]]]) -> list[list[str]]:
    """A row for each work, a column for everybody, and ours as a multiple of dash's and wg-quick's."""
    everybody = list(dict.fromkeys(who for work in samples.values() for who in (OURS, *sorted(work))))
    against = [who for who in (DASH, QUICK) if who in everybody]
    rows = [["", *everybody, *(f"ours / {who}" for who in against)]]
    for work, who in samples.items():
        ratios = [f"{wall(who[OURS]) / wall(who[other]):.2f}" if other in who else "" for other in against]
        rows.append([work, *(f"{wall(who[name]):.1f}" if name in who else "" for name in everybody), *ratios])
    return rows


def everything(samples: dict[str, dict[str, list[Sample]]]) -> list[list[str]]:
    """A row for each work and everybody, with what is spread."""
    rows = [["", "", "median", "min", "max", "CPU", "MiB", "ours"]]
    for work, everybody in samples.items():
        for who, those in everybody.items():
            rows.append([work, who, *figures(those), f"{wall(everybody[OURS]) / wall(those):.2f}"])
    return rows


def floors(starts: dict[str, list[Sample]]) -> list[list[str]]:
    """A row for each command that does nothing."""
    return [["", "median", "min", "max", "CPU", "MiB"], *([name, *figures(those)] for name, those in starts.items())]


def figures(those: list[Sample]) -> list[str]:
    """The median, the shortest and the longest time by the clock, the processors' median, and memory."""
    walls = [sample[0] for sample in those]
    shown = [median(walls), min(walls), max(walls), median(sample[1] for sample in those), memory(those) / 1024]
    return [f"{value:.1f}" for value in shown]


def wall(those: list[Sample]) -> float:
    """The median by the clock, in milliseconds."""
    return median(sample[0] for sample in those)


def memory(those: list[Sample]) -> float:
    """The median of the peaks of memory, in KiB; not below what the process has that starts all of them."""
    return median(sample[2] for sample in those)


def table(rows: list[list[str]]) -> list[str]:
    """Lay out rows in Markdown, the first of them the head."""
    rows = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return [f"| {' | '.join(cells)} |" for cells in rows]


if __name__ == "__main__":
    main()
