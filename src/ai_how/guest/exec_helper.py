"""The helper of `exec`: runs in the guest, starts the program and carries its bytes.

The agent starts it with the guest's Python (3.6 or later, nothing but built-in modules, since each
import takes long under emulation) and hands it this file, and a call of `main`, on standard input.

- From the client: frames in the FIFO `control`, which the agent can write without blocking.
- To the client: frames, in files of `SEGMENT` bytes that are called 0, 1, 2, …: the agent reads
  regular files without blocking. A file that was read goes; at most `WINDOW` bytes lie unread.
- A program that ends before the client attached is told on standard output, without any file.

A frame is a letter, the length of its payload in four bytes, and the payload. Nothing that the
client sends twice has an effect twice: data has its offset. Without a frame for `lease_s` seconds
the client is taken for dead: all processes of the program are ended, and the files removed.
"""

import _signal as signals  # type: ignore[import-not-found]  # signal itself imports enum
import fcntl
import posix as os  # most of os, which has this at once and much more in a fifth of a second
import select
import sys
import time

from ai_how.guest.exec_parts import PIECE, Spool, Tree, read_now, remove_file, write_file

GRACE_S = 2.0
KILLED_S = 5.0
DRAIN_S = 1.0
FULL_S = 0.2
PIPE_BYTES = 1 << 20
SET_PIPE_SIZE, GET_PIPE_SIZE = 1031, 1032  # F_SETPIPE_SZ and F_GETPIPE_SZ of Linux
READABLE = 0x541B  # FIONREAD of Linux
NO_FORMAT = 8  # ENOEXEC
NOT_EXECUTABLE, NOT_FOUND = 126, 127


class Helper:
    """One program, from its start until the client has all of it."""

    def __init__(
        self,
        base: str,
        token: str,
        argv: "list[bytes]",
        stdin: bytes,
        is_whole: bool,
        lease_s: float,
    ) -> None:
        self.argv, self.lease_s = argv, lease_s
        self.directory = "%s/ai-how-exec-%s" % (base, token)
        os.mkdir(self.directory, 0o700)
        os.mkfifo(self.directory + "/control", 0o600)
        self.control = os.open(
            self.directory + "/control", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        )
        try:
            fcntl.fcntl(self.control, SET_PIPE_SIZE, PIPE_BYTES)
        except OSError:
            pass
        self.spool, self.tree = Spool(self.directory), Tree(token)
        self.received = bytearray()
        self.input, self.input_total, self.input_ends = bytearray(stdin), len(stdin), is_whole
        self.consumed = 0
        self.status = -1
        self.is_told = self.is_over = False
        self.heard = time.monotonic()
        self.kill_at = self.lost_at = self.drained_at = 0.0
        self.outputs = {}  # type: dict[int, bytes]
        self.owed = {}  # type: dict[int, int]
        self.stdin = -1

    def start(self) -> None:
        wake, self.waking = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self.waking, False)
        self.wake = wake
        signals.set_wakeup_fd(self.waking)
        signals.signal(signals.SIGCHLD, lambda *_: None)
        signals.signal(signals.SIGTERM, self.give_up)
        write_file("/proc/self/oom_score_adj", b"-1000")
        theirs_in, self.stdin = os.pipe()
        out, theirs_out = os.pipe()
        err, theirs_err = os.pipe()
        self.tree.first = os.fork()
        if self.tree.first == 0:
            try:
                self.become(theirs_in, theirs_out, theirs_err)
            finally:
                os._exit(NOT_FOUND)
        for one in (theirs_in, theirs_out, theirs_err):
            os.close(one)
        for one in (self.stdin, out, err):
            os.set_blocking(one, False)
        self.outputs = {out: b"O", err: b"E"}
        self.spool.put(b"W", fcntl.fcntl(self.control, GET_PIPE_SIZE).to_bytes(8, "big"))

    def become(self, *standard: int) -> None:
        """Become the program, in a session and cgroup of its own."""
        signals.set_wakeup_fd(-1)
        for number in range(1, 32):
            if number not in (signals.SIGKILL, signals.SIGSTOP):
                signals.signal(number, signals.SIG_DFL)
        write_file("/proc/self/oom_score_adj", b"0")
        self.tree.enter()
        os.setsid()
        for number, one in enumerate(standard):
            os.dup2(one, number)
        environment = dict(os.environ)
        environment[b"HOME"] = b"/root"
        name = self.argv[0]
        paths = environment.get(
            b"PATH", b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        )
        said, code = "", NOT_FOUND
        for path in (
            [name] if b"/" in name else [place + b"/" + name for place in paths.split(b":")]
        ):
            try:
                os.execve(path, self.argv, environment)
            except FileNotFoundError as error:
                said = said or str(error.strerror)
            except NotADirectoryError as error:
                said = said or str(error.strerror)
            except OSError as error:
                if (
                    error.errno == NO_FORMAT
                ):  # ENOEXEC: a script without #!, which a shell would run
                    os.execve(b"/bin/sh", [b"/bin/sh", path] + self.argv[1:], environment)
                said, code = str(error.strerror), NOT_EXECUTABLE
        os.write(2, b"%s: %s\n" % (name, said.encode()))
        os._exit(code)

    def give_up(self, *_: object) -> None:
        """End as if the client were dead: the agent, and so this guest, ends."""
        self.heard = -self.lease_s

    def serve(self) -> None:
        """Carry bytes until the client has everything, or is taken for dead."""
        while not self.is_over:
            self.wait()
            now = time.monotonic()
            if now - self.heard > self.lease_s and not self.lost_at:
                self.lost_at = now + KILLED_S
            if self.lost_at and (self.tree.kill() or now > self.lost_at):
                break
            self.reap(now)
            self.spool.flush()
            if self.kill_at and now >= self.kill_at and not self.is_told:
                self.tree.kill()
            if (
                self.status >= 0
                and not self.is_told
                and self.is_drained(now)
                and self.is_ended(now)
            ):
                self.tell()
        if self.status < 0 and not self.lost_at:
            self.tree.kill()
        self.tree.release()
        self.remove()

    def wait(self) -> None:
        """Wait for bytes or a signal, and carry what is there."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.wake, select.POLLIN)
        if self.spool.has_room():
            for one in self.outputs:
                poll.register(one, select.POLLIN)
        if self.stdin >= 0 and (self.input or self.input_ends):
            poll.register(self.stdin, select.POLLOUT)
        is_hurried = self.kill_at or self.drained_at or self.lost_at or self.status >= 0
        pause_s = 0.05 if is_hurried and not self.is_told else self.lease_s / 10
        if self.spool.pending and self.spool.is_attached:
            pause_s = min(pause_s, FULL_S)
        for one, _ in poll.poll(int(pause_s * 1000) + 1):
            if one == self.control:
                self.hear()
            elif one == self.wake:
                read_now(self.wake)
            elif one == self.stdin:
                self.feed()
            elif one in self.outputs:
                self.carry(one)

    def carry(self, one: int) -> None:
        data = read_now(one)
        if data:
            self.owed[one] = self.owed.get(one, 0) - len(data)
            self.spool.put(self.outputs[one], data)
        elif data is not None:
            self.close_output(one)

    def close_output(self, one: int) -> None:
        os.close(one)
        del self.outputs[one]

    def feed(self) -> None:
        """Write to the program's standard input what it takes."""
        try:
            while self.input:
                count = os.write(self.stdin, self.input[:PIECE])
                del self.input[:count]
                self.consumed += count
        except BlockingIOError:
            pass
        except OSError:  # it has closed its standard input
            self.consumed, self.input = self.input_total, bytearray()
            self.close_stdin()
            self.spool.put(b"S", b"")
            return
        self.spool.put(b"C", self.consumed.to_bytes(8, "big"))
        if self.input_ends and not self.input:
            self.close_stdin()

    def close_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def hear(self) -> None:
        """Take the frames of the client."""
        data = read_now(self.control)
        while data:
            self.received += data
            data = read_now(self.control)
        while len(self.received) >= 5:
            length = int.from_bytes(self.received[1:5], "big")
            if len(self.received) < 5 + length:
                return
            kind, payload = self.received[:1], bytes(self.received[5 : 5 + length])
            del self.received[: 5 + length]
            self.heard = max(self.heard, time.monotonic()) if self.heard >= 0 else self.heard
            self.obey(bytes(kind), payload)

    def obey(self, kind: bytes, payload: bytes) -> None:
        if kind == b"H":
            self.spool.is_attached = True
        elif kind == b"D":
            offset = int.from_bytes(payload[:8], "big")
            if offset == self.input_total and not self.input_ends:
                self.input_total += len(payload) - 8
                if self.stdin >= 0:
                    self.input += payload[8:]
        elif kind == b"F":
            self.input_ends = True
        elif kind == b"A":
            self.spool.acknowledge(int.from_bytes(payload, "big"))
        elif kind == b"K" and not self.kill_at:
            self.kill_at = time.monotonic() + GRACE_S
            self.tree.send(payload[0])
        elif kind == b"N":
            for one in [one for one, letter in self.outputs.items() if letter == payload]:
                self.close_output(one)
        elif kind == b"Q":
            self.is_over = True

    def reap(self, now: float) -> None:
        if self.status < 0:
            pid, status = os.waitpid(self.tree.first, os.WNOHANG)
            if pid:
                signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
                self.status = 128 + signal if signal else os.WEXITSTATUS(status)
                self.drained_at = now + DRAIN_S
                for one in self.outputs:
                    size = fcntl.ioctl(one, READABLE, b"\0" * 4)
                    self.owed[one] = int.from_bytes(size, sys.byteorder)

    def is_drained(self, now: float) -> bool:
        """Whether what the program wrote is read. Processes that go on may hold its output open."""
        if any(self.owed.get(one, 0) > 0 for one in self.outputs):
            return False
        return not self.outputs or now >= self.drained_at

    def is_ended(self, now: float) -> bool:
        """Whether the processes that the client wants ended are."""
        if not self.kill_at:
            return True
        if now < self.kill_at:
            return not self.tree.processes()
        return not self.tree.processes() or now > self.kill_at + KILLED_S

    def tell(self) -> None:
        """Tell the end; a client that has not attached finds it on standard output."""
        self.is_told = True
        self.spool.put(b"X", bytes([self.status]))
        self.hear()
        if not self.spool.is_attached:
            self.is_over = True
            left = bytes(self.spool.pending)
            while left:
                left = left[os.write(1, left) :]

    def remove(self) -> None:
        for name in os.listdir(self.directory):
            remove_file(self.directory + "/" + name)
        os.rmdir(self.directory)


def main(
    base: str, token: str, argv: "list[bytes]", stdin: bytes, is_whole: bool, lease_s: float
) -> None:
    helper = Helper(base, token, argv, stdin, is_whole, lease_s)
    helper.start()
    helper.serve()
    sys.stdout.flush()
