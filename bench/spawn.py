"""Starts processes for run.py and measures them, as a small process of its own.

A process counts as its peak memory at least what its parent has, whose memory it shares until it executes something;
and a small parent starts processes sooner. Each line of standard input is a list of commands that run at the same time.
"""

import os
import sys
import time

PARTS, COMMANDS = "\x1f", "\x1e"


def main() -> None:
    """Answer each line with milliseconds by the clock and of processors, the largest peak in KiB, and exit codes."""
    log = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    to_log = [(os.POSIX_SPAWN_DUP2, log, number) for number in (1, 2)]
    for line in sys.stdin:
        commands = [command.split(PARTS) for command in line.rstrip("\n").split(COMMANDS)]
        os.ftruncate(log, 0)
        os.lseek(log, 0, os.SEEK_SET)
        start = time.perf_counter()
        for command in commands:
            os.posix_spawnp(command[0], command, os.environ, file_actions=to_log)
        ended = [os.wait4(-1, 0) for _ in commands]
        wall = time.perf_counter() - start
        cpu = sum(usage.ru_utime + usage.ru_stime for _, _, usage in ended)
        peak = max(usage.ru_maxrss for _, _, usage in ended)
        codes = {os.waitstatus_to_exitcode(status) for _, status, _ in ended}
        print(wall * 1000, cpu * 1000, peak, *codes, flush=True)


if __name__ == "__main__":
    main()
