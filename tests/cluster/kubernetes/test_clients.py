"""Programs that nobody here wrote, on this host, with the kubeconfig that is made for them."""

import json
import os
import subprocess  # noqa: TID251  a program is left to run
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ai_how.process import Completed, run
from ai_how.waiting import Deadline, wait_until
from debian_programs import debian_program
from real_kubernetes import PLANE, WORKER, KubernetesCluster, deployment
from sockets import free_port

pytestmark = pytest.mark.slurm

DATA = Path(__file__).parents[2] / "data" / "kubernetes_clients"
CLIENT_S = 1800.0


@pytest.fixture
def kubeconfig(sky: KubernetesCluster) -> Path:
    return Path(json.loads(sky.call("cloud", "kubeconfig", "--json"))["file"])


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the clients."""
    place = tmp_path_factory.mktemp("clients") / "venv"
    run([sys.executable, "-m", "venv", place])
    words = ("-m", "pip", "install", "-q", "-r", DATA / "requirements.txt")
    run([place / "bin/python", *words], timeout_s=CLIENT_S)
    return place / "bin/python"


def test_a_kubectl_of_debian_13_does_its_work_from_here(
    kubeconfig: Path, pods: dict[str, str]
) -> None:
    program = debian_program("kubectl", "usr/bin/kubectl", "trixie")
    told = kubectl(program, kubeconfig, "version", "-o", "json")
    versions = json.loads(told.stdout)
    assert versions["clientVersion"]["minor"] == "32"
    assert versions["serverVersion"]["minor"].startswith("20")
    told = kubectl(program, kubeconfig, "get", "nodes", "-o", "name")
    assert told.stdout.split() == [f"node/{PLANE}", f"node/{WORKER}"]
    words = ("exec", "-i", "on-worker", "--", "sh", "-c", "cat; echo err >&2; exit 3")
    done = kubectl(program, kubeconfig, *words, stdin="typed", check=False)
    assert (done.returncode, done.stdout, "err" in done.stderr) == (3, "typed", True)
    with_port = [program, "--kubeconfig", kubeconfig, "port-forward", "on-plane"]
    port = free_port()
    forward = subprocess.Popen([*with_port, f"{port}:8080"], stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        page = f"http://127.0.0.1:{port}/"
        text = wait_until(lambda: fetched(page), Deadline.after(CLIENT_S), page)
        assert text == "on-plane\n"
    finally:
        forward.kill()
        forward.wait()


@pytest.mark.long
@pytest.mark.parametrize("client", ["by_kubernetes.py", "by_kr8s.py"])
def test_clients_of_pypi_make_a_deployment_and_run_a_command_in_it(
    kubeconfig: Path, python: Path, client: str
) -> None:
    name = client.removesuffix(".py").replace("_", "-")
    script = "echo begun; sleep 100000"
    asked = json.dumps(deployment(name, ["/bin/busybox", "sh", "-c", script]))
    done = run([python, DATA / client, kubeconfig, asked], timeout_s=CLIENT_S)
    assert json.loads(done.stdout) == {"on": WORKER, "log": "begun\n", "said": "hello\n"}


@pytest.mark.long
def test_a_play_with_kubernetes_core_ends_well(kubeconfig: Path, python: Path) -> None:
    env = {
        "K8S_AUTH_KUBECONFIG": str(kubeconfig),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
    }
    done = run([python.parent / "ansible-playbook", DATA / "play.yml"], env=env, timeout_s=CLIENT_S)
    assert "changed=4" in done.stdout
    assert "failed=0" in done.stdout


def kubectl(
    program: Path, kubeconfig: Path, *words: str, stdin: str = "", check: bool = True
) -> Completed:
    argv = [program, "--kubeconfig", kubeconfig, *words]
    return run(argv, stdin=stdin, check=check, timeout_s=CLIENT_S)


def fetched(url: str) -> str | None:
    """The page; None as long as nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  ours
            return answer.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return None
