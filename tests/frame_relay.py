"""In the place of ssh: runs the command line here, and does something at a frame of `hpc run`.

`python frame_relay.py LOG POINT ACTION LINE`: LOG gets a line for each frame, its direction and its
letter (`>q` goes to the guest). Before it passes the frame number POINT in that list on, it sends
its parent the signal ACTION, ends as a lost connection does (`cut`), or runs ACTION in a shell.
"""

import os
import select
import signal
import subprocess  # noqa: TID251  a program of its own, without our modules
import sys
from pathlib import Path

HEAD_BYTES = 5


class Stream:
    """One direction."""

    def __init__(self, source: int, target: int, mark: str) -> None:
        self.source, self.target, self.mark = source, target, mark
        self.kept = b""

    def frames(self) -> list[bytes] | None:
        """What has come; None at the end."""
        part = os.read(self.source, 1 << 16)
        if not part:
            return None
        self.kept += part
        found = []
        while len(self.kept) >= HEAD_BYTES:
            size = HEAD_BYTES + int.from_bytes(self.kept[1:HEAD_BYTES], "big")
            if len(self.kept) < size:
                break
            found.append(self.kept[:size])
            self.kept = self.kept[size:]
        return found


def act(action: str, child: "subprocess.Popen[bytes]") -> None:
    if action == "cut":
        child.stdin.close()
        os._exit(255)
    if action in signal.Signals.__members__:
        os.kill(os.getppid(), signal.Signals[action])
    else:
        subprocess.run(["sh", "-c", action], check=True, stdin=subprocess.DEVNULL)  # noqa: S603


def main() -> int:
    log, point, action, line = sys.argv[1:]
    child = subprocess.Popen(  # noqa: S603
        ["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    up = Stream(0, child.stdin.fileno(), ">")
    down = Stream(child.stdout.fileno(), 1, "<")
    open_streams, count = {up.source: up, down.source: down}, 0
    while down.source in open_streams:
        for number in select.select(list(open_streams), [], [])[0]:
            stream = open_streams[number]
            frames = stream.frames()
            if frames is None:
                del open_streams[number]
                if stream is up:
                    child.stdin.close()
                continue
            for frame in frames:
                with Path(log).open("a") as file:
                    file.write(f"{stream.mark}{chr(frame[0])}\n")
                if count == int(point):
                    act(action, child)
                count += 1
                try:
                    os.write(stream.target, frame)
                except BrokenPipeError:
                    open_streams.pop(number, None)
                    break
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
