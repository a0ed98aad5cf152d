"""Runs a command with what the drop-in takes away from a service, but for what is named: `restricted.py LESS COMMAND…`.

LESS is a list of words with commas between them: "caps", "nnp", "filter", or one of its system calls, are left out.
"""

import ctypes
import errno
import os
import sys

PR_SET_NO_NEW_PRIVS = 38
CAPABILITIES = "bpf,dac_read_search,mknod,net_admin,perfmon,sys_admin,sys_boot,sys_module,sys_ptrace,sys_rawio"


def main(less: str, *command: str) -> None:
    """Restrict this process, and become the command."""
    if "filter" not in less.split(","):
        library = ctypes.CDLL("libseccomp.so.2")
        library.seccomp_init.restype = ctypes.c_void_p
        context = ctypes.c_void_p(library.seccomp_init(0x7FFF0000))  # SCMP_ACT_ALLOW
        library.seccomp_attr_set(context, 3, 0)  # SCMP_FLTATR_CTL_NNP
        for name in (b"add_key", b"keyctl", b"request_key"):
            if name.decode() not in less.split(","):
                number = library.seccomp_syscall_resolve_name(name)
                library.seccomp_rule_add_array(context, 0x00050000 | errno.EPERM, number, 0, None)
        assert not library.seccomp_load(context)
    if "nnp" not in less.split(","):
        assert not ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if "caps" not in less.split(","):
        dropped = ",".join(f"-{name}" for name in CAPABILITIES.split(","))
        command = ("setpriv", "--inh-caps=-all", f"--bounding-set={dropped}", *command)
    os.execvp(command[0], command)


main(*sys.argv[1:])
