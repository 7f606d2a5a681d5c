"""Isolates itself and becomes the program that comes on stdin. `sandbox.py` runs it; standard library only.

Two processes: the launcher enters the namespaces and waits; its child, process 1 of the new process namespace, builds the root,
gives up everything and executes the interpreter. When process 1 ends, the kernel ends all that it started. What cannot be set
up is written to `status_fd` and nothing is run; the file closes without a word when the program starts.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import sys
from types import FrameType
from typing import Any

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUTS = 0x00020000, 0x08000000, 0x04000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_NOBODY = 65533
"""An unprivileged id that nothing else runs as, so that the limit on processes counts the program's own."""
_PROGRAM = "/program.py"
_ENVIRONMENT = {"HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """The program's exit code, 128 + N if signal N ended it."""
    settings = json.loads(sys.argv[1])
    status_fd: int = settings["status_fd"]
    program = sys.stdin.buffer.read()
    try:
        _checked("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        _enter_namespaces()
        child = os.fork()
    except OSError as error:
        os.write(status_fd, str(error).encode())
        return 1
    if child == 0:
        try:
            _become(program, settings)
        except BaseException as error:  # whatever it is, the program has not run
            os.write(status_fd, str(error).encode() or repr(error).encode())
        os._exit(1)

    def stop(number: int, frame: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, stop)
    os.close(status_fd)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _enter_namespaces() -> None:
    """Root needs no user namespace, and leaves its id later; anyone else is given one in which to mount."""
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
    uid, gid = os.geteuid(), os.getegid()
    _checked("unshare", _libc.unshare(flags if uid == 0 else flags | _CLONE_NEWUSER))
    if uid != 0:
        for name, text in (
            ("uid_map", f"{_NOBODY} {uid} 1"),
            ("setgroups", "deny"),
            ("gid_map", f"{_NOBODY} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _become(program: bytes, settings: dict[str, Any]) -> None:
    """Does not return: the process executes the interpreter on `program`."""
    libraries = _library_folders()
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    interpreter = sys.executable
    _enter_root(program, settings["root"], [os.path.dirname(os.__file__), *libraries, interpreter], settings["scratch_bytes"])
    _limit(settings)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)  # from root to anyone else: all capabilities are gone
    _checked("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    os.chdir("/tmp")
    os.set_inheritable(settings["status_fd"], False)
    environment = _ENVIRONMENT | {"LD_LIBRARY_PATH": ":".join(libraries)}
    os.execve(interpreter, [interpreter, "-s", "-S", "-P", "-B", _PROGRAM], environment)


def _library_folders() -> list[str]:
    """Where the libraries lie that an interpreter has mapped, and the loader's own fixed place."""
    with open("/proc/self/maps") as maps:
        mapped = {line.split()[-1] for line in maps if ".so" in line}
    folders = {os.path.dirname(path) for path in mapped}
    return sorted(folders | {os.path.realpath("/lib64")} if os.path.isdir("/lib64") else folders)


def _enter_root(program: bytes, root: str, visible: list[str], scratch_bytes: int) -> None:
    """An empty root, mounted over the folder `root`, with the folders and files `visible` of the host, read-only."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=4m")
    for path in visible:
        inside = root + path
        if os.path.exists(inside):
            continue  # within a folder that is there already
        if os.path.isdir(path):
            os.makedirs(inside)
        else:
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            open(inside, "w").close()
        _mount(path, inside, None, _MS_BIND)
        _mount("none", inside, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    for link in filter(os.path.islink, ("/lib", "/lib64")):  # the loader's path goes through them
        os.symlink(os.readlink(link), root + link)
    with open(root + _PROGRAM, "wb") as file:
        file.write(program)
    for name in ("/tmp", "/old"):
        os.makedirs(root + name, exist_ok=True)
    _mount("tmpfs", root + "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, f"mode=777,size={scratch_bytes}")
    os.chdir(root)
    _checked("pivot_root", _libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"old"))
    os.chdir("/")
    _checked("umount2", _libc.umount2(b"/old", _MNT_DETACH))
    os.rmdir("/old")
    _mount("none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _limit(settings: dict[str, Any]) -> None:
    cpu_s = math.ceil(settings["time_s"])
    for kind, limit in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, settings["memory_bytes"]),
        (resource.RLIMIT_FSIZE, settings["file_bytes"]),
        (resource.RLIMIT_NPROC, settings["max_processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(f"mount {target}", result)


def _checked(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main())
