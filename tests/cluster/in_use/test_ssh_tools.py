"""Programs that speak ssh, with the printed configuration in a ~/.ssh/config that has its own mind.

And our own verbs, whatever that file, the agent and the keys of the user are.
"""

import base64
import os
import shlex
import socket
import subprocess  # noqa: TID251  what listens is spoken to while it runs
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ai_how.process import Completed, run
from ai_how.waiting import Deadline, wait_until
from real_cluster import ASK_S, Cluster
from sockets import free_port

pytestmark = [pytest.mark.slurm, pytest.mark.long]

NODE = "compute-01"
# What people have for all hosts. Each of it would break a login to a node.
OWN = """
Host *
  User root
  Port 2222
  IdentityFile ~/.ssh/id_of_elsewhere
  IdentitiesOnly no
  ForwardAgent yes
  StrictHostKeyChecking yes
  UserKnownHostsFile ~/.ssh/known_hosts_of_elsewhere
  ControlMaster auto
  ControlPath {directory}/cm-%r@%h:%p
  ControlPersist yes
  ProxyJump bastion.invalid
  LogLevel QUIET
  SendEnv *
  RemoteCommand sleep 987654
  RequestTTY force
  PermitLocalCommand yes
  LocalCommand touch {directory}/local-command
"""
SOFTWARE = ("paramiko", "asyncssh")
WITH_PARAMIKO = """\
import sys
import paramiko

config = paramiko.SSHConfig.from_path(sys.argv[1]).lookup(sys.argv[2])
with paramiko.SSHClient() as client:
    client.load_host_keys(config["userknownhostsfile"])
    client.connect(
        config["hostkeyalias"],
        username=config["user"],
        key_filename=config["identityfile"][0],
        sock=paramiko.ProxyCommand(config["proxycommand"]),
        allow_agent=False,
        look_for_keys=False,
    )
    print(client.exec_command("hostname")[1].read().decode(), end="")
"""
WITH_ASYNCSSH = """\
import asyncio, sys
import asyncssh

async def main():
    async with asyncssh.connect(sys.argv[2], config=[sys.argv[1]]) as connection:
        print((await connection.run("hostname", check=True)).stdout, end="")

asyncio.run(main())
"""
# As Remote-SSH of VS Code: a script on the standard input of bash, which starts a server that
# listens on the loopback of the node, and is reached through the SOCKS server of `ssh -D`.
INSTALL = """\
mkdir -p ~/.vscode-like && cd ~/.vscode-like && echo served > file
python3 -m http.server --bind 127.0.0.1 {port} >log 2>&1 </dev/null &
until python3 -c 'import socket; socket.create_connection(("127.0.0.1", {port}))' 2>/dev/null; do
  sleep 1
done
trap 'kill %1; rm -r ~/.vscode-like' EXIT
echo "$(uname -m) listening=={port}=="
read -r over
"""
SERVED = 8124
SOCKS_OK = b"\x05\x00"
HARDWARE = "sk-ssh-ed25519@openssh.com"


@pytest.fixture
def own(used: Cluster, tmp_path: Path) -> Path:
    """A user's ~/.ssh/config, whose first line includes that of the cluster."""
    (tmp_path / "cluster").write_text(used.call("hpc", "ssh-config"))
    path = tmp_path / "config"
    path.write_text(f"Include {tmp_path}/cluster\n{OWN.format(directory=tmp_path)}")
    return path


@pytest.fixture
def clean(used: Cluster) -> Iterator[Cluster]:
    yield used
    # Only there is root allowed to: the other nodes have the home by NFS.
    used.execute("controller", "rm -rf /home/hpc/by-* /home/hpc/.vscode-like")


def test_scp_rsync_and_sftp_of_the_host_reach_a_node(clean: Cluster, own: Path) -> None:
    source = own.with_name("a file")
    source.write_text("content")
    run(["scp", "-F", own, source, f"{NODE}:by-scp"], timeout_s=ASK_S)
    run(["rsync", "-e", f"ssh -F {own}", source, f"hpc-{NODE}:by-rsync"], timeout_s=ASK_S)
    run(["sftp", "-F", own, "-b", "-", NODE], stdin=f'put "{source}" by-sftp\n', timeout_s=ASK_S)
    assert clean.ssh("controller", "cat by-scp by-rsync by-sftp") == "content" * 3
    asked = run(["ssh", "-F", own, NODE, "hostname"], timeout_s=ASK_S)
    assert asked.stdout == f"{NODE}\n"
    assert not [one for one in own.parent.iterdir() if one.name.startswith("cm-")]


def test_sshfs_mounts_the_home(clean: Cluster, own: Path, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    run(["sshfs", "-F", own, f"{NODE}:", mount], timeout_s=ASK_S)
    try:
        (mount / "by-sshfs").write_text("content")
        assert (mount / "by-sshfs").read_text() == "content"
    finally:
        run(["fusermount3", "-u", "-z", mount])
    assert clean.ssh(NODE, "cat by-sshfs") == "content"


def test_ssh_libraries_of_python_check_the_host_key_and_log_in(own: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", tmp_path / "libraries"]
    run([*pip, *SOFTWARE], timeout_s=600)
    cluster = own.with_name("cluster")
    for name, text in (("paramiko", WITH_PARAMIKO), ("asyncssh", WITH_ASYNCSSH)):
        program = tmp_path / f"with_{name}.py"
        program.write_text(text)
        argv = [sys.executable, program, cluster, NODE]
        done = run(argv, env={"PYTHONPATH": str(tmp_path / "libraries")}, timeout_s=ASK_S)
        assert done.stdout == f"{NODE}\n", name


def asked_through(socks: int, port: int) -> bytes:
    """What a server on the loopback of the node answers, through SOCKS 5."""
    with socket.create_connection(("127.0.0.1", socks), timeout=ASK_S) as line:
        line.sendall(b"\x05\x01\x00")
        assert line.recv(2) == SOCKS_OK
        line.sendall(b"\x05\x01\x00\x01" + socket.inet_aton("127.0.0.1") + port.to_bytes(2))
        assert line.recv(10)[:2] == SOCKS_OK
        line.sendall(b"GET /file HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: line.recv(4096), b""))


def test_what_vs_code_does_by_ssh_works(clean: Cluster, own: Path) -> None:
    """Its server itself is not tried: it is a download of Microsoft's."""
    del clean
    socks = free_port()
    argv = ["ssh", "-v", "-T", "-D", str(socks), "-o", "ConnectTimeout=15", "-F", str(own)]
    with subprocess.Popen(  # noqa: S603
        [*argv, NODE, "bash"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as ssh:
        try:
            assert ssh.stdin is not None
            assert ssh.stdout is not None
            ssh.stdin.write(INSTALL.format(port=SERVED))
            ssh.stdin.flush()
            assert ssh.stdout.readline() == f"x86_64 listening=={SERVED}==\n"
            answer = asked_through(socks, SERVED)
            assert answer.endswith(b"served\n"), answer
            ssh.stdin.write("over\n")
            ssh.stdin.close()
            assert ssh.wait(ASK_S) == 0
        finally:
            ssh.kill()


@contextmanager
def agent_with_keys(directory: Path, count: int) -> Iterator[Path]:
    """The socket of an ssh-agent that has more keys than a server lets a login try."""
    path = directory / "agent"
    with subprocess.Popen(  # noqa: S603
        ["ssh-agent", "-D", "-a", str(path)],
        stdout=subprocess.DEVNULL,
    ) as agent:
        try:
            wait_until(path.exists, Deadline.after(ASK_S), "the agent")
            for number in range(count):
                key = directory / f"key-{number}"
                run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
                run(["ssh-add", "-q", key], env={"SSH_AUTH_SOCK": str(path)})
            yield path
        finally:
            agent.terminate()


@contextmanager
def agent_that_hangs(directory: Path) -> Iterator[Path]:
    path = directory / "hangs"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(16)
        yield path


def call(used: Cluster, agent: Path, *words: str, cwd: Path | None = None) -> Completed:
    """The program of a user with this agent."""
    argv = [*used.argv, "-c", str(used.file), *words]
    return run(argv, env={"SSH_AUTH_SOCK": str(agent)}, check=False, timeout_s=ASK_S, cwd=cwd)


def test_no_agent_disturbs_our_verbs_and_one_is_passed_on_if_asked(
    clean: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    source = tmp_path / "work" / "file"
    source.write_text("content")
    with agent_with_keys(tmp_path, 10) as full, agent_that_hangs(tmp_path) as hung:
        for agent in (full, hung, tmp_path / "nowhere"):
            verbs = (
                ("ssh", NODE, "hostname"),
                ("cp", "-q", str(source), f"{NODE}:by-cp"),
                ("rsync", str(source), f"{NODE}:by-rsync"),
                ("exec", NODE, "--", "hostname"),
            )
            for verb in verbs:
                done = call(clean, agent, "hpc", *verb)
                assert done.returncode == 0, (agent, verb, done.stderr)
            done = call(clean, agent, "hpc", "run", "--", "cat", "file", cwd=tmp_path / "work")
            assert (done.returncode, done.stdout) == (0, "content"), (agent, done.stderr)
        passed_on = call(clean, full, "hpc", "ssh", "-A", NODE, "ssh-add -l")
        assert passed_on.stdout.count("ED25519") == 10
        alone = call(clean, full, "hpc", "ssh", NODE, "ssh-add -l")
        assert "ED25519" not in alone.stdout
    clean.execute("controller", "rm -rf /home/hpc/run")


@pytest.mark.skipif(os.geteuid() != 0, reason="another ~/.ssh needs a mount namespace")
def test_our_verbs_read_no_configuration_of_the_user(clean: Cluster, tmp_path: Path) -> None:
    theirs, home = tmp_path / "dot-ssh", Path("~root").expanduser()
    theirs.mkdir(mode=0o700)
    (theirs / "config").write_text(OWN.format(directory=tmp_path))
    (theirs / "config").chmod(0o600)
    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
    (tmp_path / "file").write_text("content")
    inside = shlex.join(["mount", "--bind", str(theirs), str(home / ".ssh")])
    enter = ["unshare", "--mount", "sh", "-c", f'{inside} && exec "$@"', "sh"]
    spoilt = run([*enter, "ssh", "-G", "anywhere"]).stdout
    assert "remotecommand sleep 987654\n" in spoilt, "ssh itself reads it"
    for verb in (
        ("ssh", NODE, "hostname"),
        ("cp", "-q", str(tmp_path / "file"), f"{NODE}:by-cp"),
        ("rsync", str(tmp_path / "file"), f"{NODE}:by-rsync"),
        ("exec", NODE, "--", "hostname"),
    ):
        argv = [*enter, *clean.argv, "-c", str(clean.file), "hpc", *verb]
        run(argv, timeout_s=ASK_S)
    with suppress(OSError):
        (home / ".ssh").rmdir()  # only if this test made it
    assert not (tmp_path / "local-command").exists()


def test_the_public_part_of_a_hardware_key_may_log_in(used: Cluster) -> None:
    """The touch is not tried: there is no such key here."""
    words = [HARDWARE.encode(), bytes(32), b"ssh:"]
    blob = b"".join(len(word).to_bytes(4) + word for word in words)
    key = f"{HARDWARE} {base64.b64encode(blob).decode()} me@token"
    text = used.file.read_text()
    try:
        used.file.write_text(
            text + textwrap.indent(f"access: {{ssh_public_keys: [{key}]}}\n", "    ")
        )
        used.start()
        for node in ("controller", NODE):
            assert key in used.execute(node, "cat /etc/ssh/authorized_keys.d/hpc").splitlines()
        accepted = used.execute(NODE, "sshd -T | grep -i ^pubkeyacceptedalgorithms")
        assert HARDWARE in accepted.strip().replace(" ", ",").split(",")
    finally:
        used.file.write_text(text)
        used.start()
    assert HARDWARE not in used.execute(NODE, "cat /etc/ssh/authorized_keys.d/hpc")
