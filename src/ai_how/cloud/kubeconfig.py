"""The kubeconfig of a cluster for its user, and its place in a file that the user has already."""

import os
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from ai_how.cloud.pki import AdminKeys
from ai_how.cloud.texts import Manifest, render
from ai_how.errors import DeadlineError, StateError
from ai_how.state.files import NEW_FILE, replaced_atomically
from ai_how.state.paths import ensure_parents
from ai_how.waiting import Deadline, wait_until

_LISTS = ("clusters", "users", "contexts")
_LOCK_S = 5.0


def entry_name(cluster: str) -> str:
    """The name of the cluster, its user and its context in a kubeconfig."""
    return f"ai-how-{cluster}"


def render_user_config(cluster: str, server: str, admin: AdminKeys) -> str:
    """A kubeconfig with all that it takes, for `server` as the user reaches it."""
    return render(_user_config(cluster, server, admin))


def _user_config(cluster: str, server: str, admin: AdminKeys) -> Manifest:
    name = entry_name(cluster)
    place = {"server": server, "certificate-authority-data": _encoded(admin.ca)}
    user = {
        "client-certificate-data": _encoded(admin.certificate),
        "client-key-data": _encoded(admin.key),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": place}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def default_path(environment: Mapping[str, str], home: Path) -> Path:
    """The file that `kubectl` reads first: the first of $KUBECONFIG, or ~/.kube/config."""
    named = (one for one in environment.get("KUBECONFIG", "").split(os.pathsep) if one)
    return Path(next(named, home / ".kube" / "config"))


def merge(path: Path, cluster: str, server: str, admin: AdminKeys) -> None:
    """Add the cluster to a kubeconfig, or renew what it has of it; all else is kept.

    The context becomes the current one if there was none. The file is private afterwards. Raises
    StateError, and changes nothing, if it is no kubeconfig, if `kubectl` holds its lock, or if a
    comment would be lost.
    """
    ours = _user_config(cluster, server, admin)

    def add(config: MutableMapping[str, Any]) -> None:
        for key in _LISTS:
            entries = config.setdefault(key, [])
            at = next((i for i, one in enumerate(entries) if _is_named(one, cluster)), None)
            if at is None:
                entries.append(ours[key][0])
            else:
                entries[at] = ours[key][0]
        if not config.get("current-context"):
            config["current-context"] = entry_name(cluster)

    _change(path, add, cluster)


def unmerge(path: Path, cluster: str) -> None:
    """Remove the cluster from a kubeconfig; all else is kept, and a missing file is none.

    Without it there may be no current context. Raises StateError as `merge` does.
    """

    def remove(config: MutableMapping[str, Any]) -> None:
        for key in _LISTS:
            entries = config.get(key) or []
            for one in [one for one in entries if _is_named(one, cluster)]:
                entries.remove(one)
        if config.get("current-context") == entry_name(cluster):
            config["current-context"] = ""

    if path.exists():
        _change(path, remove, cluster)


def _encoded(content: bytes) -> str:
    return b64encode(content).decode()


def _is_named(entry: object, cluster: str) -> bool:
    return isinstance(entry, Mapping) and entry.get("name") == entry_name(cluster)


def _change(path: Path, change: Callable[[MutableMapping[str, Any]], None], cluster: str) -> None:
    # A link stays one, such as that into a directory of dotfiles.
    path = path.resolve()
    ensure_parents(path)
    with _locked(path):
        former = path.read_text() if path.exists() else ""
        yaml, config = _parse(path, former)
        change(config)
        buffer = StringIO()
        yaml.dump(config, buffer)
        text = buffer.getvalue()
        _refuse_losses(path, former, text, cluster)
        if text != former:
            with replaced_atomically(path) as draft:
                draft.write_text(text)


def _parse(path: Path, text: str) -> tuple[YAML, MutableMapping[str, Any]]:
    """The file, and what writes it as it was: order, comments and quotes."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    if not text.strip():
        return yaml, {"apiVersion": "v1", "kind": "Config"}
    try:
        _, indent, offset = load_yaml_guess_indent(text)
        config = yaml.load(text)
    except (YAMLError, ValueError) as error:
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise _unfit(path, f"it cannot be read: {problem}") from error
    if offset is not None:
        yaml.indent(mapping=2, sequence=indent, offset=offset)
    if not isinstance(config, MutableMapping):
        raise _unfit(path, "it has no fields")
    for key in _LISTS:
        if config.get(key, []) is None:
            config[key] = []
        if not isinstance(config.get(key, []), list):
            raise _unfit(path, f"{key} is not a list")
    return yaml, config


def _refuse_losses(path: Path, former: str, text: str, cluster: str) -> None:
    """Raises StateError if a foreign value or a line with a comment is not there any more."""
    if _foreign(former, cluster) != _foreign(text, cluster):
        raise _unfit(path, "it would change in other places as well")
    marked = (Counter(_comments(one)) for one in (former, text))
    if lost := next(marked) - next(marked):
        raise _unfit(path, f"a comment would be lost: {next(iter(lost))}")


def _foreign(text: str, cluster: str) -> Mapping[str, Any]:
    """What is not ours in a kubeconfig, as plain values."""
    config = dict(YAML(typ="safe", pure=True).load(text) or {})
    for key in _LISTS:
        config[key] = [one for one in config.get(key) or [] if not _is_named(one, cluster)]
    if config.get("current-context") in {None, "", entry_name(cluster)}:
        config["current-context"] = ""
    config.setdefault("apiVersion", "v1")
    config.setdefault("kind", "Config")
    return config


def _comments(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if "#" in line]


def _unfit(path: Path, reason: str) -> StateError:
    return StateError(
        f"{path} is left as it is: {reason}",
        hint="use a file of its own: export KUBECONFIG=FILE",
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock that `kubectl config` takes: client-go, tools/clientcmd/loader.go."""
    lock = path.with_name(f"{path.name}.lock")

    def take() -> bool:
        try:
            os.close(os.open(lock, NEW_FILE, 0o600))
        except FileExistsError:
            return False
        return True

    try:
        wait_until(take, Deadline.after(_LOCK_S), "the lock of a kubeconfig")
    except DeadlineError as error:
        raise StateError(
            f"{path} is locked by another program",
            hint=f"if none runs that changes it: rm {shlex.quote(str(lock))}",
        ) from error
    except OSError as error:
        raise StateError(
            f"{path} cannot be changed: {error.strerror}",
            hint=f"ls -ld {shlex.quote(str(path.parent))}",
        ) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
