"""ssh to the nodes: with the cluster's own keys, and strict host key checking."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ai_how.process import Argument, dying_with_us, get_tool, run
from ai_how.state.files import replaced_atomically
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, ensure_private_directory

# A guest whose VM is gone closes no connection; two minutes, as one on a busy host may not answer.
_ALIVE = ("ServerAliveInterval 15", "ServerAliveCountMax 8")


def ensure_key(path: Path, comment: str) -> str:
    """Ensure an ed25519 key pair without a passphrase at `path`; return the public key's line.

    The private key is 0600 in a private directory; each node gets its own host key. A complete key
    is never replaced: a lost public key is derived from it.
    """
    ensure_private_directory(path.parent)
    public = path.with_name(f"{path.name}.pub")
    if path.exists() and _is_whole(public):
        return public.read_text().strip()
    keygen = get_tool("ssh-keygen", package="openssh-client")
    if not path.exists() or not _restore(public, path, keygen, comment):
        for stale in (path, public):
            stale.unlink(missing_ok=True)
        words: list[Argument] = ["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path]
        run(dying_with_us([keygen, *words]))
    return public.read_text().strip()


def _is_whole(public: Path) -> bool:
    """Whether a public key is complete: ssh-keygen writes it last."""
    try:
        return public.read_text().endswith("\n")
    except FileNotFoundError:
        return False


def _restore(public: Path, private: Path, keygen: Path, comment: str) -> bool:
    """Derive the public key of a private key, unless that key is incomplete."""
    asked = run([keygen, "-y", "-P", "", "-f", private], check=False)
    if asked.returncode != 0:
        return False
    kind, key = asked.stdout.split()[:2]
    with replaced_atomically(public) as draft:
        draft.write_text(f"{kind} {key} {comment}\n")
    return True


def ensure_munge_key(path: Path) -> bytes:
    """Ensure 1024 random bytes at `path`, 0600; return them."""
    ensure_private_directory(path.parent)
    if not path.exists():
        with replaced_atomically(path) as draft:
            draft.write_bytes(os.urandom(1024))
    return path.read_bytes()


def read_user_keys(home: Path) -> tuple[str, ...]:
    """The public keys of the user who runs us: ~/.ssh/*.pub."""
    keys = []
    for path in sorted((home / ".ssh").glob("*.pub")):
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        keys += [line.strip() for line in lines if line.startswith(("ssh-", "ecdsa-", "sk-"))]
    return tuple(keys)


def render_known_hosts(host_keys: Mapping[str, str]) -> str:
    """The nodes' host keys, under the aliases of our ssh configuration."""
    lines = []
    for alias, line in host_keys.items():
        kind, key = line.split()[:2]
        lines.append(f"{alias} {kind} {key}")
    return "\n".join(lines) + "\n"


def render_ssh_config(state: ClusterState, paths: ClusterPaths, proxy: Sequence[str]) -> str:
    """A configuration for ssh(1): `Host <node>` and `Host <cluster>-<node>` for each node.

    `proxy` is a command that connects to `%h %p`; empty where nodes can be reached directly.
    """
    blocks = []
    for node in state.nodes:
        login = Login(str(node.ip), state.user, paths.ssh_key, paths.known_hosts)
        names = f"{node.domain_name} {node.name}"
        blocks.append(_block(names, login, proxy, alias=node.domain_name, more=_ALIVE))
    return "\n".join(blocks)


@dataclass(frozen=True, slots=True)
class Login:
    """A login by ssh: the address, the account, its private key, and the keys of known hosts."""

    address: str
    user: str
    key: Path
    known_hosts: Path


def render_first_login(name: str, login: Login, proxy: Sequence[str]) -> str:
    """A configuration for ssh(1) to a guest whose host key is not known yet.

    The key that it first shows is written to `known_hosts`, and no other one is accepted then.
    """
    more = ("ConnectTimeout 15", *_ALIVE)
    return _block(name, login, proxy, alias=name, checking="accept-new", more=more)


def _block(
    names: str,
    login: Login,
    proxy: Sequence[str],
    *,
    alias: str,
    checking: str = "yes",
    more: Sequence[str] = (),
) -> str:
    lines = [
        f"Host {names}",
        f"  HostName {login.address}",
        f"  User {login.user}",
        f"  HostKeyAlias {alias}",
        f"  IdentityFile {_argument(login.key)}",
        "  IdentitiesOnly yes",
        f"  UserKnownHostsFile {_argument(login.known_hosts)}",
        "  GlobalKnownHostsFile /dev/null",
        f"  StrictHostKeyChecking {checking}",
        "  UpdateHostKeys no",
        "  PasswordAuthentication no",
        "  PreferredAuthentications publickey",
        "  LogLevel ERROR",
        # What follows is as by default: a ~/.ssh/config that includes this may say otherwise for
        # all hosts. A socket of ControlPath has the address, which two clusters may share.
        "  Port 22",
        "  CanonicalizeHostname no",
        "  ControlPath none",
        "  RemoteCommand none",
        "  RequestTTY auto",
        *(f"  {line}" for line in more),
    ]
    if proxy:
        words = " ".join(_quoted(word) for word in proxy)
        lines.append(f"  ProxyCommand {words} %h %p")
    else:
        lines.append("  ProxyJump none")
    return "\n".join(lines) + "\n"


# The key is a file. An agent is asked all the same, before that; one that hangs would never answer.
_NO_AGENT = ("-o", "IdentityAgent=none")


def _about_agent(options: Sequence[str]) -> tuple[str, ...]:
    """No agent is asked, unless options may pass it on, or name one."""
    may_want = any(
        "agent" in word.lower() or (word.startswith("-") and "A" in word) for word in options
    )
    return () if may_want else _NO_AGENT


def _argument(path: Path) -> str:
    """A path as one argument in ssh_config(5); `%` is ssh's own escape."""
    safe = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{safe}"'


def _quoted(word: str) -> str:
    """A word for the shell that ssh hands a ProxyCommand to; `%` is ssh's own escape."""
    safe = word.replace("%", "%%")
    return "'" + safe.replace("'", "'\\''") + "'" if not safe.isalnum() else safe


def scp_argv(
    paths: ClusterPaths, places: Sequence[str], *, options: Sequence[str] = ()
) -> list[str]:
    """The command that copies the first places into the last, whole directories too.

    A place of a node is HOST:PATH. Its path is not read by a shell: the protocol is that of sftp.
    """
    scp = str(get_tool("scp", package="openssh-client"))
    return [scp, "-s", "-r", "-F", str(paths.ssh_config), *_NO_AGENT, *options, "--", *places]


def rsync_argv(paths: ClusterPaths, words: Sequence[str]) -> list[str]:
    """The command of rsync with these words, in which nodes are hosts."""
    rsync = str(get_tool("rsync", package="rsync"))
    ssh = str(get_tool("ssh", package="openssh-client"))
    shell = " ".join(_for_rsync(word) for word in (ssh, "-F", str(paths.ssh_config), *_NO_AGENT))
    return [rsync, "-e", shell, *words]


def _for_rsync(word: str) -> str:
    """A word of the remote shell in rsync(1)'s notation, where a quote in quotes is doubled."""
    return "'" + word.replace("'", "''") + "'"


def ssh_argv(
    paths: ClusterPaths, host: str, command: Sequence[str], *, options: Sequence[str] = ()
) -> list[str]:
    """The command that logs in to a node, or runs a command there.

    ssh joins its words with spaces for a shell: several words are quoted, so that they arrive
    unchanged. One word is a command line for that shell.
    """
    ssh = str(get_tool("ssh", package="openssh-client"))
    line = [shlex.join(command)] if len(command) > 1 else command
    agent = _about_agent(options)
    return [ssh, "-F", str(paths.ssh_config), *agent, *options, "--", host, *line]
