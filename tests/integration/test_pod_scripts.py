"""The scripts that nodes and Pods run, in a network of their own with nothing but their tools."""

import json
import runpy
import stat

import pytest

from ai_how.cloud import guest
from ai_how.cloud.manifests import CHECK_IMAGE, ready_manifests
from ai_how.cloud.settings import render_pod_routes
from ai_how.cloud.volumes import PER_NODE, render_directories
from ai_how.process import run
from debian_programs import debian_program
from kube_facts import make_facts
from native_kubernetes import AS_ROOT

RUN_S = 60.0
AS_ROOT_COMMAND = ["unshare", *AS_ROOT] if AS_ROOT else []
SPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
FACTS = make_facts()
SERVER = "127.0.0.53"
NAME = "on-worker-1.ai-how-check.svc.cluster.local"


def inside(script: str) -> str:
    """What a script prints, with all that it starts ended after it."""
    return run(["unshare", *AS_ROOT, *SPACES, "sh", "-ec", script], timeout_s=RUN_S).stdout


def check_script(busybox, directory) -> str:
    """That of cp-1, which asks worker-1; its files are in a directory instead of /tmp."""
    manifests = json.loads(ready_manifests(FACTS, ["cp-1", "worker-1"]))["items"]
    pod = next(one for one in manifests if one["kind"] == "Pod")
    script = pod["spec"]["containers"][0]["command"][-1].replace("/bin/busybox", str(busybox))
    (directory / "check").write_text(script.replace("/tmp/", f"{directory}/"))
    return f"{busybox} sh {directory}/check"


@pytest.fixture(scope="module")
def busybox():
    return debian_program("busybox-static", "bin/busybox")


def test_a_pod_of_the_check_is_ready_once_the_other_answers_and_has_a_name(busybox, tmp_path):
    said = inside(f"""
        cd {tmp_path}
        ip link set lo up
        echo nameserver {SERVER} > resolv.conf
        mount --bind resolv.conf /etc/resolv.conf
        export ON_WORKER_1_SERVICE_HOST=127.0.0.9
        {check_script(busybox, tmp_path)} > log 2>&1 &
        ask() {{ {busybox} wget -q -O - "http://127.0.0.1:8080/$1" 2>&1 || :; }}
        until [ "$(ask)" = cp-1 ]; do sleep 0.1; done
        until grep -m 1 'of worker-1 does not answer' log; do sleep 0.1; done
        ask ok
        mkdir other
        echo somebody > other/index.html
        {busybox} httpd -p 127.0.0.9:80 -h other
        sleep 2.5
        ask ok
        echo worker-1 > other/index.html
        until grep -m 1 'does not know' log; do sleep 0.1; done
        ask ok
        serve() {{
          dnsmasq --no-daemon --conf-file=/dev/null --no-hosts --no-resolv --bind-interfaces \
            --listen-address={SERVER} --address=/{NAME}/$1 2> /dev/null &
        }}
        serve 127.0.0.99
        sleep 2.5
        ask ok
        kill $!
        wait $! || :
        serve 127.0.0.9
        until [ -z "$(ask ok)" ]; do sleep 0.1; done
        echo ready
    """)
    refused = "wget: server returned error: HTTP/1.1 404 Not Found"
    waited = "the Service of worker-1 does not answer"
    unknown = f"the DNS server of the cluster does not know {NAME}"
    assert said.splitlines() == [waited, refused, refused, unknown, refused, refused, "ready"]


def test_a_pod_that_knows_no_service_ends_to_be_started_again(busybox, tmp_path):
    said = inside(f"""
        ip link set lo up
        {check_script(busybox, tmp_path)} || echo "ended with $?"
    """)
    assert said == "no address of a Service is known\nended with 1\n"


def test_routes_and_rules_are_the_same_after_each_run_and_old_ones_go(tmp_path):
    script = render_pod_routes(FACTS, FACTS.nodes[0])
    # Modules are the whole system's, and this setting is there only with one of them.
    script = script.replace("/proc/sys/net/bridge/bridge-nf-call-iptables", "/dev/null")
    script = script.replace("modprobe -a", ": modprobe -a")
    (tmp_path / "routes").write_text(script)
    said = inside(f"""
        ip link add eth0 type veth peer name other
        ip link set eth0 up
        ip link set other up
        ip address add 192.168.130.11/24 dev eth0
        ip route add 10.244.9.0/24 via 192.168.130.19 proto 84
        ip route add 10.99.0.0/24 via 192.168.130.19
        for time in 1 2; do
          sh {tmp_path}/routes
          ip -o route show proto 84
          iptables-save -t nat | grep '^-A'
          echo
        done
        ip route show 10.99.0.0/24
        cat /proc/sys/net/ipv4/ip_forward
    """)
    first, second, rest = said.split("\n\n")
    assert first == second
    assert [line.strip() for line in first.splitlines()] == [
        "10.244.2.0/24 via 192.168.130.12 dev eth0",
        "10.244.3.0/24 via 192.168.130.13 dev eth0",
        "-A POSTROUTING -s 10.244.0.0/16 -j AI-HOW-PODS",
        "-A AI-HOW-PODS -d 10.244.0.0/16 -j RETURN",
        "-A AI-HOW-PODS -d 192.168.130.1/32 -j MASQUERADE",
        "-A AI-HOW-PODS -d 192.168.130.0/24 -j RETURN",
        "-A AI-HOW-PODS -j MASQUERADE",
    ]
    assert rest.splitlines() == ["10.99.0.0/24 via 192.168.130.19 dev eth0 ", "1"]


def test_the_directories_of_volumes_are_made_once_and_emptied_whole(busybox, tmp_path):
    facts = make_facts(storage_class="local")
    root = tmp_path / "volumes"
    script = render_directories(facts, facts.get_node("worker-1"))
    script = script.replace("/var/lib/ai-how/volumes", str(root))
    (tmp_path / "make").write_text(script)
    command = [*AS_ROOT_COMMAND, str(busybox), "sh", "-e", str(tmp_path / "make")]
    run(command)
    first = root / "01"
    assert len(list(root.iterdir())) == PER_NODE
    assert [stat.S_IMODE(one.stat().st_mode) for one in (root, first)] == [0o700, 0o777]
    first.chmod(0o2770)
    (first / ".hidden").mkdir()
    (first / ".hidden" / "file").write_text("x")
    for name in ("plain", "..two", "-rf"):
        (first / name).write_text("x")
    (tmp_path / "outside").write_text("y")
    (first / "link").symlink_to(tmp_path)
    run(command)
    assert stat.S_IMODE(first.stat().st_mode) == 0o2770
    (tmp_path / "kube.py").write_bytes(guest.program())
    empty = runpy.run_path(str(tmp_path / "kube.py"))["EMPTY"].replace("/volume", str(first))
    run([*AS_ROOT_COMMAND, str(busybox), "sh", "-c", empty])
    assert list(first.iterdir()) == []
    assert stat.S_IMODE(first.stat().st_mode) == 0o777
    assert (tmp_path / "outside").read_text() == "y"


def test_the_pod_that_empties_a_volume_has_the_image_that_nodes_have(tmp_path):
    (tmp_path / "kube.py").write_bytes(guest.program())
    assert runpy.run_path(str(tmp_path / "kube.py"))["CHECK_IMAGE"] == CHECK_IMAGE
