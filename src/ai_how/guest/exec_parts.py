"""What the helper of `exec` is made of: its files for the client, and the processes of a program.

Runs in the guest, before the text of `exec_helper`, with Python 3.6 or later.
"""

import _signal as signals  # type: ignore[import-not-found]  # signal itself imports enum
import posix as os  # most of os, which has this at once and much more in a fifth of a second

SEGMENT = 1 << 20
WINDOW = 4 << 20
PIECE = 1 << 16
EARLY = 1 << 18


class Spool:
    """The frames for the client: in memory until it attaches, then in files."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.pending = bytearray()
        self.is_attached = False
        self.written = self.read = 0
        self.file = -1

    def has_room(self) -> bool:
        """Whether the program may write more."""
        if not self.is_attached:
            return len(self.pending) < EARLY
        return not self.pending and self.written - self.read < WINDOW

    def put(self, kind: bytes, payload: bytes) -> None:
        self.pending += kind + len(payload).to_bytes(4, "big") + payload
        self.flush()

    def flush(self) -> None:
        """Write what is pending; what a full file system refuses stays pending."""
        while self.is_attached and self.pending:
            try:
                if self.file < 0:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                    self.file = os.open(self.path_of(self.written // SEGMENT), flags, 0o600)
                room = SEGMENT - self.written % SEGMENT
                count = os.write(self.file, self.pending[:room])
            except OSError:
                return
            del self.pending[:count]
            self.written += count
            if self.written % SEGMENT == 0:
                os.close(self.file)
                self.file = -1

    def acknowledge(self, total: int) -> None:
        """Remove the files that the client has read."""
        total = min(total, self.written)
        for number in range(self.read // SEGMENT, total // SEGMENT):
            remove_file(self.path_of(number))
        self.read = max(self.read, total)

    def path_of(self, number: int) -> str:
        return "%s/%d" % (self.directory, number)


class Tree:
    """All processes of the program: those of its cgroup, and descendants that left it."""

    def __init__(self, token: str) -> None:
        self.parent, self.group = own_group(), ""
        if self.parent:
            self.group = self.parent + "/ai-how-exec-" + token
            try:
                os.mkdir(self.group, 0o755)
            except OSError:
                self.group = ""
        self.first = 0

    def enter(self) -> None:
        """Called by the new process, before it becomes the program."""
        if self.group:
            write_file(self.group + "/cgroup.procs", b"0")

    def processes(self) -> "set[int]":
        parents = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                # The name of the program, in brackets, may have spaces and brackets.
                state, parent = (
                    read_text("/proc/%s/stat" % name).rpartition(")")[2].split() + [""] * 2
                )[:2]
                if parent and state not in "ZX":
                    parents[int(name)] = int(parent)
        found = {pid for pid in self._in_group() if pid in parents}
        found |= {self.first} & set(parents)
        while True:
            more = {
                pid for pid, parent in parents.items() if parent in found or parent == self.first
            }
            if more <= found:
                return found - {os.getpid()}
            found |= more

    def send(self, number: int) -> None:
        """Send a signal to every process."""
        for pid in self.processes():
            try:
                os.kill(pid, number)
                os.kill(pid, signals.SIGCONT)
            except OSError:
                pass

    def kill(self) -> bool:
        """Kill every process; whether none is left."""
        left = self.processes()
        if left and self.group:
            write_file(self.group + "/cgroup.kill", b"1")  # also what is forked meanwhile
        for pid in left:
            try:
                os.kill(pid, signals.SIGKILL)
            except OSError:
                pass
        return not left

    def release(self) -> None:
        """Remove the cgroup; processes that go on move to that of the agent."""
        for pid in self._in_group():
            write_file(self.parent + "/cgroup.procs", b"%d" % pid)
        for directory in reversed(self._groups()):
            try:
                os.rmdir(directory)
            except OSError:
                pass

    def _in_group(self) -> "list[int]":
        return [
            int(pid) for one in self._groups() for pid in read_text(one + "/cgroup.procs").split()
        ]

    def _groups(self) -> "list[str]":
        """The cgroup and those below it, each after the one that it is in."""
        found = [self.group] if self.group else []
        for place in found:
            try:
                with os.scandir(place) as entries:
                    found += [one.path for one in entries if one.is_dir(follow_symlinks=False)]
            except OSError:
                pass
        return found


def read_now(one: int) -> "bytes | None":
    """What is there: b"" at the end, None if nothing is there yet."""
    try:
        return os.read(one, PIECE)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def read_text(path: str) -> str:
    """A file of the kernel's; empty if it is not there."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        pieces = []
        data = os.read(file, PIECE)
        while data:
            pieces.append(data)
            data = os.read(file, PIECE)
        return b"".join(pieces).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(file)


def write_file(path: str, data: bytes) -> None:
    """Write a file of the kernel's, if it is there and takes it."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(file, data)
    except OSError:
        pass
    finally:
        os.close(file)


def remove_file(path: str) -> None:
    """Remove a file. The agent may still have it open: its memory is given back first."""
    try:
        if not path.endswith("/control"):
            os.truncate(path, 0)
        os.unlink(path)
    except OSError:
        pass


def own_group() -> str:
    """The directory of this process's cgroup; empty if there is none to see."""
    for line in read_text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        places = {
            "": ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
            "name=systemd": ("/sys/fs/cgroup/systemd",),
        }
        for place in places.get(controllers, ()):
            found = place + path.rstrip("/")
            if os.access(found + "/cgroup.procs", os.F_OK):
                return found
    return ""
