"""A Prometheus of Debian's, in a directory of its own, which scrapes what `hpc metrics` serves."""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ai_how.process import get_tool, start_daemon
from ai_how.waiting import Deadline, wait_until
from real_cluster import Cluster
from sockets import free_port

READY_S = 60.0
ASK_S = 30.0


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **query: str) -> dict:
        asked = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(asked, timeout=ASK_S) as answer:  # noqa: S310
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def query(self, expression: str) -> list[dict]:
        """The samples of an instant query; a string or scalar is one."""
        told = self.ask("query", query=expression)
        return told["result"] if told["resultType"] in {"vector", "matrix"} else [told["result"]]

    def value(self, expression: str) -> float:
        (sample,) = self.query(expression)
        return float(sample["value"][1])

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=ASK_S) as answer:  # noqa: S310
                return answer.status == 200
        except OSError:
            return False

    def wait_for(self, what: str, seen: Callable[[], bool], *, within_s: float) -> None:
        wait_until(seen, Deadline.after(within_s), what, interval_s=1.0)


@contextmanager
def prometheus(directory: Path, config: str) -> Iterator[Prometheus]:
    """While the block runs. `directory` has its log after it."""
    directory.mkdir(exist_ok=True)
    (directory / "prometheus.yml").write_text(config)
    port = free_port()
    started = start_daemon(
        [
            get_tool("prometheus", package="prometheus"),
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
        log=directory / "prometheus.log",
    )
    try:
        made = Prometheus(port)
        made.wait_for("Prometheus", made.is_ready, within_s=READY_S)
        yield made
    finally:
        started.terminate()
        started.wait()


@contextmanager
def served(cluster: Cluster, directory: Path, *words: str) -> Iterator[str]:
    """The metrics of the cluster, served on a free port: their URL."""
    log = directory / "served.log"
    log.unlink(missing_ok=True)
    argv = [*cluster.argv, "-c", str(cluster.file), "--json", "hpc", "metrics", "--serve", "0"]
    started = start_daemon([*argv, *words], log=log, env=cluster.env)
    try:
        deadline = Deadline.after(ASK_S * 4)
        while not (text := log.read_text()).strip().endswith("}"):
            assert started.poll() is None, text
            assert not deadline.has_passed, text
            time.sleep(0.1)
        yield json.loads(text)["url"]
    finally:
        started.terminate()
        started.wait()
