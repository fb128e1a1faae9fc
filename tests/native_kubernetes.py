"""A real control plane without a VM: etcd, API server, controllers and scheduler as processes.

They run with the very commands, files and keys that a node gets, in network and PID namespaces of
their own: nothing outside can be reached or reaches them, and all end with the first of them.
"""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ai_how.cloud.components import BIN, ETCD, daemons, entries
from ai_how.cloud.facts import KubeFacts, KubeNode
from ai_how.cloud.pki import read_keys
from ai_how.process import Completed, run, start_daemon
from ai_how.waiting import Deadline, wait_until
from debian_programs import debian_program
from kube_facts import ensure_pki

if TYPE_CHECKING:
    from subprocess import Popen  # noqa: TID251

READY_S = 120.0
ASK_S = 60.0
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
BINARIES = _CACHE / "ai-how-tests/kubernetes/current/kubernetes/server/bin"
# Where a node has files that this machine has, too, or must not get.
_MOVED = (
    *("/etc/kubernetes", "/var/lib/etcd", "/var/lib/kubelet", "/var/log/kubernetes"),
    *("/etc/resolv.conf", "/run/kube-dns", "/run/kube-names"),
)
AS_ROOT = () if os.geteuid() == 0 else ("--user", "--map-root-user")


def skip_without_binaries() -> None:
    """Skips the calling test on a machine without the real Kubernetes."""
    if not (BINARIES / "kube-apiserver").exists():
        pytest.skip(f"no Kubernetes in {BINARIES}: tests/data/build-kubernetes.sh builds it")


def etcd() -> Path:
    return debian_program("etcd-server", "usr/bin/etcd")


def etcdctl() -> Path:
    return debian_program("etcd-client", "usr/bin/etcdctl")


class NativeKubernetes:
    """The components of one control plane, and what its administrator asks it."""

    def __init__(self, root: Path, facts: KubeFacts, node: KubeNode, outer: int) -> None:
        self.root = root
        self.facts = facts
        self.node = node
        self.pki = root.parent / "host-pki"
        self._outer = outer
        self._started: dict[str, Popen[bytes]] = {}

    def path(self, path: str) -> Path:
        """Where a file of the node is here."""
        return self.root / path.lstrip("/")

    def enter(self, *argv: str | Path) -> list[str]:
        """The command that runs another one beside the components."""
        user = ("--user",) if AS_ROOT else ()
        outer = ("nsenter", "--target", str(self._outer), *user, "--net", "--pid", "--mount")
        pid = self.path("pid").read_text().strip()
        return [*outer, "nsenter", "--target", pid, "--net", *map(str, argv)]

    def ask(self, *argv: str | Path, check: bool = True, stdin: str | None = None) -> Completed:
        command = self.enter(*argv)
        return run(command, check=check, timeout_s=ASK_S, stdin=stdin)

    def kubectl(self, *words: str, conf: str = "admin", stdin: str | None = None) -> str:
        """What kubectl prints by one of the node's kubeconfigs."""
        return self._kubectl(conf, *words, stdin=stdin).stdout

    def try_kubectl(self, *words: str, conf: str = "admin") -> str:
        """The same, and if it fails what it says."""
        done = self._kubectl(conf, *words, check=False)
        return done.stdout or done.stderr

    def _kubectl(
        self, conf: str, *words: str, check: bool = True, stdin: str | None = None
    ) -> Completed:
        config = self.path(f"/etc/kubernetes/{conf}.conf")
        options = (f"--kubeconfig={config}", f"--cache-dir={self.root / 'kubectl'}")
        return self.ask(BINARIES / "kubectl", *options, *words, check=check, stdin=stdin)

    def etcdctl(self, *words: str) -> str:
        """By the keys of the API server."""
        pki = self.path("/etc/kubernetes/pki")
        options = (
            "--endpoints=https://127.0.0.1:2379",
            f"--cacert={pki}/etcd/ca.crt",
            f"--cert={pki}/apiserver-etcd-client.crt",
            f"--key={pki}/apiserver-etcd-client.key",
        )
        return self.ask("env", "ETCDCTL_API=3", etcdctl(), *options, *words).stdout

    def write_files(self) -> None:
        """All files of the node, below `root`."""
        ensure_pki(self.pki, self.facts)
        keys = read_keys(self.pki, self.facts, self.node)
        for entry in entries(self.facts, self.node, keys):
            path = self.path(entry.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = entry.content
            path.write_bytes(self._moved(content).encode() if isinstance(content, str) else content)
            path.chmod(entry.mode)

    def start(self, name: str) -> None:
        """A component, by the command of its unit."""
        program, *words = self.command_of(name)
        own = etcd() if program == ETCD else program.replace(BIN, str(BINARIES))
        self.run_beside(name, own, *words)

    def command_of(self, name: str) -> list[str]:
        """The command of a component's unit, with the paths that its files have here."""
        daemon = next(one for one in daemons(self.facts, self.node) if one.name == name)
        return [*map(self._moved, daemon.command)]

    def run_beside(self, name: str, *argv: str | Path) -> None:
        """A program beside the components, until `kill` or the end of all."""
        self._started[name] = start_daemon(self.enter(*argv), log=self.root / f"{name}.log")

    def kill(self, name: str) -> None:
        """End a component at once."""
        self.end(self._started.pop(name))

    def end(self, started: "Popen[bytes]") -> None:
        """End what `enter` started: a child of the nsenter that entered the PID namespace."""
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        for pid in children:
            os.kill(int(pid), signal.SIGKILL)
        started.wait(ASK_S)

    def wait(self) -> None:
        """For the end of all components, after that of the namespace."""
        for one in self._started.values():
            one.wait(ASK_S)

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(errors="replace")

    def is_ready(self) -> bool:
        return self.try_kubectl("get", "--raw=/readyz") == "ok"

    def await_ready(self) -> None:
        """Until the API server is; if it does not become so, the error has the end of its log."""
        try:
            wait_until(self.is_ready, Deadline.after(READY_S), "the API server", interval_s=0.5)
        except BaseException as error:
            error.add_note(self.log("kube-apiserver")[-4000:])
            raise

    def listening(self) -> set[str]:
        """Addresses and ports that take connections."""
        lines = self.ask("ss", "--listening", "--tcp", "--numeric", "--no-header").stdout
        return {line.split()[3] for line in lines.splitlines()}

    def _moved(self, text: str) -> str:
        return re.sub("|".join(map(re.escape, _MOVED)), lambda one: f"{self.root}{one[0]}", text)


@contextmanager
def native_control_planes(root: Path, facts: KubeFacts) -> Iterator[list[NativeKubernetes]]:
    """All control planes with their files, in a network of their own; nothing runs yet.

    Everything that was started in them ends with the block.
    """
    nodes = facts.control_planes
    for node in nodes:
        (root / node.name).mkdir()
    setup = "".join(
        [_BRIDGE, *(_NODE.format(root=root / one.name, address=one.address) for one in nodes)]
    )
    spaces = ("--net", "--pid", "--mount-proc", "--fork", "--kill-child")
    command = ["unshare", *AS_ROOT, *spaces, "sh", "-ec", f"{setup}exec sleep infinity"]
    outside, made = start_daemon(command, log=root / "namespace.log"), []
    try:
        outer = _first_inside(outside.pid)
        made += [NativeKubernetes(root / one.name, facts, one, outer) for one in nodes]
        for kube in made:
            kube.write_files()
        yield made
    finally:
        # unshare ends, and with it (--kill-child) the first process inside, and so all others.
        outside.kill()
        outside.wait()
        for kube in made:
            kube.wait()


_BRIDGE = "ip link set lo up; ip link add br0 type bridge; ip link set br0 up; number=0\n"
_NODE = """
unshare --net sleep infinity &
until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
number=$((number + 1))
ip link add port$number type veth peer name eth0 netns $!
ip link set port$number master br0 up
nsenter --target $! --net sh -ec 'ip link set lo up
  ip address add {address}/24 dev eth0
  ip link set eth0 up'
echo $! > {root}/pid
"""


@contextmanager
def native_kubernetes(root: Path, facts: KubeFacts) -> Iterator[NativeKubernetes]:
    """etcd, the API server and what depends on it, ready, on the only control plane."""
    with native_control_planes(root, facts) as (kube,):
        kube.start("ai-how-etcd")
        wait_until(lambda: "127.0.0.1:2379" in kube.listening(), Deadline.after(READY_S), "etcd")
        kube.start("kube-apiserver")
        kube.await_ready()
        kube.start("kube-controller-manager")
        kube.start("kube-scheduler")
        yield kube


def _first_inside(outside: int) -> int:
    """The pid of the process that set up the network, as we see it, once it has done so."""

    def look() -> int | None:
        children = Path(f"/proc/{outside}/task/{outside}/children").read_text().split()
        if not children:
            return None
        program = Path(f"/proc/{children[0]}/comm").read_text().strip()
        return int(children[0]) if program == "sleep" else None

    return wait_until(look, Deadline.after(ASK_S), "the namespace", interval_s=0.02)
