"""What a program can do in the sandbox, and that nothing runs where the system does not allow one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optimizer.evaluation.sandbox import SandboxLimits, SandboxResult, SandboxUnavailable, run_sandboxed

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    try:
        run_sandboxed("")
    except SandboxUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


def run(program: str, **limits: float) -> SandboxResult:
    return run_sandboxed(program, SandboxLimits(**limits))  # type: ignore[arg-type]


def test_a_program_runs_and_its_result_comes_back() -> None:
    result = run("import json, math, re, collections, hashlib\nprint(json.dumps([math.pi, 'ü']))\nraise SystemExit(3)")
    assert (result.ending, result.exit_code) == ("exited", 3)
    assert result.output == b'[3.141592653589793, "\\u00fc"]\n'


def test_errors_are_shown() -> None:
    result = run("assert 1 + 1 == 3, 'wrong'")
    assert result.exit_code == 1 and b"AssertionError: wrong" in result.output


def test_no_network() -> None:
    result = run(
        "import socket\n"
        "for family, address in ((socket.AF_INET, ('127.0.0.1', 22)), (socket.AF_INET, ('1.1.1.1', 53))):\n"
        "    s = socket.socket(family); s.settimeout(2)\n"
        "    try: s.connect(address)\n"
        "    except OSError as error: print(error.errno)\n"
        "print(socket.if_nameindex())\n"
    )
    assert result.output.decode().splitlines()[:2] == ["101", "101"], "the network is unreachable, the host's own too"
    assert b"eth" not in result.output


def test_the_hosts_files_are_not_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    result = run(
        "import os\n"
        f"for path in {[str(secret), '/etc/passwd', '/proc/1/environ', '/home', '/root/.ssh', '/dev/sda', '/sys']!r}:\n"
        "    print(os.path.exists(path))\n"
        "print(sorted(os.listdir('/')), os.listdir('/tmp'))\n"
    )
    lines = result.output.decode().splitlines()
    assert lines[:7] == ["False"] * 7
    assert "'program.py'" in lines[7] and "'proc'" not in lines[7] and "'etc'" not in lines[7] and lines[7].endswith("[]")


def test_nothing_of_the_host_can_be_written(tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = run(
        "import os\n"
        f"for path in ('/x', os.__file__, '/program.py', {str(tmp_path / 'x')!r}):\n"
        "    try: open(path, 'w'); print('written', path)\n"
        "    except OSError as error: print('refused')\n"
        "open('/tmp/x', 'w').write('its own'); print(open('/tmp/x').read())\n"
    )
    assert result.output.decode().splitlines() == ["refused"] * 4 + ["its own"]
    assert sorted(tmp_path.iterdir()) == before


def test_it_has_no_rights_and_no_files_and_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_TEST_SECRET", "secret")
    result = run(
        "import ctypes, os\n"
        "c = ctypes.CDLL(None, use_errno=True)\n"
        "mounted = c.mount(b'none', b'/tmp', b'tmpfs', 0, b'')\n"
        "print(os.getuid() != 0, mounted, os.getpid(), 'SANDBOX_TEST_SECRET' in os.environ)\n"
        "import resource\n"
        "opened = []\n"
        "for fd in range(3, 64):\n"
        "    try: os.fstat(fd); opened.append(fd)\n"
        "    except OSError: pass\n"
        "print(len(opened) <= 1)\n"  # the program's own file
        "try: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
        "except ValueError: print('refused')\n"
    )
    assert result.output.decode().splitlines() == ["True -1 1 False", "True", "refused"]


def test_time_is_bounded_whether_it_computes_or_sleeps() -> None:
    for program in ("while True: pass", "import time\ntime.sleep(1000)"):
        assert run(program, time_s=0.6).ending == "timed out"


def test_memory_is_bounded() -> None:
    result = run("x = bytearray(1 << 30)", memory_bytes=256 << 20)
    assert result.exit_code != 0 and b"MemoryError" in result.output


def test_a_fork_bomb_is_bounded_and_ends_with_its_program() -> None:
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    assert run(bomb, time_s=0.6).ending == "timed out"
    count = "import os, signal\nn = 0\ntry:\n    while os.fork(): n += 1\n    signal.pause()\nexcept OSError: print(n)\n"
    assert int(run(count, time_s=2.0).output or b"0") < SandboxLimits().max_processes
    alive = subprocess.run(["ps", "axo", "args"], capture_output=True, text=True).stdout
    assert "/program.py" not in alive


def test_output_is_bounded() -> None:
    result = run("while True: print('x' * 1000)", output_bytes=5000)
    assert result.ending == "too much output" and len(result.output) == 5000


def test_files_are_bounded() -> None:
    result = run("open('/tmp/x', 'wb').write(b'x' * (2 << 20))")
    assert b"File too large" in result.output


def test_without_the_right_to_isolate_nothing_runs(tmp_path: Path) -> None:
    """A process whose bounding set lacks CAP_SYS_ADMIN (as root), or may make no user namespace, is refused by the kernel."""
    if os.geteuid() != 0:
        pytest.skip("only root can give the right up for the test")
    program = (
        "import ctypes, os, sys\n"
        "if len(sys.argv) == 1:\n"
        "    assert ctypes.CDLL(None).prctl(24, 21, 0, 0, 0) == 0\n"  # PR_CAPBSET_DROP, CAP_SYS_ADMIN
        "    os.execv(sys.executable, [sys.executable, __file__, 'dropped'])\n"
        "from optimizer.evaluation.sandbox import run_sandboxed\n"
        f"run_sandboxed(\"open({str(tmp_path / 'ran')!r}, 'w')\")\n"
    )
    script = tmp_path / "refused.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "SandboxUnavailable: running generated code needs Linux namespaces" in done.stderr
    assert "unshare: Operation not permitted" in done.stderr and "CAP_SYS_ADMIN" in done.stderr
    assert not (tmp_path / "ran").exists()
