"""A guest agent on this machine: QEMU's commands for programs and files, done for real."""

import base64
import os
import subprocess  # noqa: TID251  a program is asked about while it runs
import threading
from collections.abc import Mapping
from typing import IO, Any
from uuid import UUID

from ai_how.errors import GuestError

MODES = {"r": os.O_RDONLY, "r+": os.O_RDWR}


class LocalAgent:
    """The channel to an agent of which this machine is the guest; one command at a time."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        """`env` is what its programs have as environment; None for ours."""
        self.env = env
        self.asked: list[str] = []
        self.programs: dict[int, tuple[subprocess.Popen[bytes], list[bytes]]] = {}
        self.files: dict[int, int] = {}
        self._next = 1000
        self._lock = threading.Lock()

    def agent_command(self, uuid: UUID, command: Mapping[str, Any], timeout_s: float) -> object:
        with self._lock:
            name = str(command["execute"])
            self.asked.append(name)
            method = getattr(self, name.replace("-", "_"))
            try:
                return method(**{k.replace("-", "_"): v for k, v in command["arguments"].items()})
            except (OSError, KeyError) as error:
                raise GuestError("the guest's agent refused the command", str(error)) from error

    def forget_files(self) -> None:
        """What a new agent knows of the files of the one before: nothing."""
        with self._lock:
            for number in self.files.values():
                os.close(number)
            self.files.clear()

    def end(self) -> None:
        self.forget_files()
        for program, _ in self.programs.values():
            program.kill()
            program.wait()

    def guest_exec(
        self, path: str, arg: list[str], capture_output: bool, input_data: str
    ) -> object:
        program = subprocess.Popen(  # noqa: S603
            [path, *arg],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=self.env,
        )
        told = [b"", b""]

        def keep(number: int, stream: IO[bytes] | None) -> None:
            assert stream
            with stream:
                told[number] = stream.read()

        def feed() -> None:
            assert program.stdin
            program.stdin.write(base64.b64decode(input_data))
            program.stdin.close()

        for target, args in ((feed, ()), (keep, (0, program.stdout)), (keep, (1, program.stderr))):
            threading.Thread(target=target, args=args, daemon=True).start()
        self.programs[program.pid] = (program, told)
        return {"pid": program.pid}

    def guest_exec_status(self, pid: int) -> object:
        program, told = self.programs[pid]
        if program.poll() is None or not (program.stdout.closed and program.stderr.closed):
            return {"exited": False}
        out, err = (base64.b64encode(one).decode() for one in told)
        return {"exited": True, "exitcode": program.returncode, "out-data": out, "err-data": err}

    def guest_file_open(self, path: str, mode: str) -> object:
        self._next += 1
        self.files[self._next] = os.open(path, MODES[mode] | os.O_NONBLOCK)
        return self._next

    def guest_file_read(self, handle: int, count: int) -> object:
        data = os.read(self.files[handle], count)
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": not data}

    def guest_file_write(self, handle: int, buf_b64: str) -> object:
        data = base64.b64decode(buf_b64)
        count = os.write(self.files[handle], data)
        assert count == len(data), "the agent loses what does not fit"
        return {"count": count, "eof": False}

    def guest_file_flush(self, handle: int) -> object:
        _ = self.files[handle]
        return {}

    def guest_file_seek(self, handle: int, offset: int, whence: str) -> object:
        assert whence == "set"
        return {"position": os.lseek(self.files[handle], offset, os.SEEK_SET), "eof": False}

    def guest_file_close(self, handle: int) -> object:
        os.close(self.files.pop(handle))
        return {}
