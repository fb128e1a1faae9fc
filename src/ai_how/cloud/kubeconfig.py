"""The kubeconfig of a cluster for its user, and its place in a file that the user has already."""

import json
import os
import shlex
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ai_how.cloud.pki import AdminKeys
from ai_how.cloud.texts import Manifest, render
from ai_how.cloud.yaml_edits import put_entry, put_value, remove_entry
from ai_how.errors import DeadlineError, StateError
from ai_how.state.files import NEW_FILE, read_file, replaced_atomically
from ai_how.state.paths import ensure_parents
from ai_how.waiting import Deadline, wait_until

_LISTS = ("clusters", "contexts", "users")
_CURRENT = "current-context"
_CA = "certificate-authority-data"
_NEW = "apiVersion: v1\nkind: Config\n"
_LOCK_S = 5.0


def entry_name(cluster: str) -> str:
    """The name of the cluster, its user and its context in a kubeconfig."""
    return f"ai-how-{cluster}"


def render_user_config(cluster: str, server: str, admin: AdminKeys) -> str:
    """A kubeconfig with all that it takes, for `server` as the user reaches it."""
    return render(_user_config(cluster, server, admin))


def _user_config(cluster: str, server: str, admin: AdminKeys) -> Manifest:
    name = entry_name(cluster)
    place = {"server": server, _CA: encoded(admin.ca)}
    user = {
        "client-certificate-data": encoded(admin.certificate),
        "client-key-data": encoded(admin.key),
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
    """Add the cluster to a kubeconfig, or renew what it has of it; no other byte is changed.

    The context becomes the current one if there was none. The file is private afterwards. Raises
    StateError, and changes nothing, if it is no kubeconfig, is written in an unusual way, or if
    another program holds its lock.
    """
    ours = _user_config(cluster, server, admin)

    def add(text: str) -> str:
        text = text if text.strip() else _NEW
        for key in _LISTS:
            text = put_entry(text, key, _lines(ours[key][0]), _is_of(cluster))
        if not (_read(text).get(_CURRENT)):
            text = put_value(text, _CURRENT, entry_name(cluster))
        return text

    _change(path, add, cluster)


def unmerge(path: Path, cluster: str, *, ca: str | None = None) -> None:
    """Remove the cluster from a kubeconfig; no other byte is changed, and a missing file is none.

    With `ca`, as base64, only if its entry has this CA. Afterwards there may be no current context.
    Raises StateError as `merge` does.
    """

    def remove(text: str) -> str:
        if ca is not None and _ca_of(text, cluster) != ca:
            return text
        for key in _LISTS:
            text = remove_entry(text, key, _is_of(cluster))
        if _read(text).get(_CURRENT) == entry_name(cluster):
            text = put_value(text, _CURRENT, '""')
        return text

    try:
        is_there = path.exists()
    except OSError as error:
        raise _unfit(path, error.strerror) from error
    if is_there:
        _change(path, remove, cluster)


def encoded(content: bytes) -> str:
    return b64encode(content).decode()


def _is_of(cluster: str) -> Callable[[str], bool]:
    return lambda name: name == entry_name(cluster)


def _lines(entry: Mapping[str, Any]) -> list[str]:
    """An entry as YAML: a name, and a mapping of strings."""
    lines = [f"name: {entry['name']}"]
    for key, value in entry.items():
        if isinstance(value, Mapping):
            lines.append(f"{key}:")
            lines += [f"  {field}: {json.dumps(text)}" for field, text in value.items()]
    return lines


def _change(path: Path, change: Callable[[str], str], cluster: str) -> None:
    # A link stays one, such as that into a directory of dotfiles.
    path = path.resolve()
    ensure_parents(path)
    with _locked(path):
        try:
            former = read_file(path).decode() if path.exists() else ""
            text = change(former)
            is_kept = _foreign(former, cluster) == _foreign(text, cluster)
        except OSError as error:
            raise _unfit(path, error.strerror) from error
        except (YAMLError, ValueError) as error:
            raise _unfit(path, str(error).splitlines()[0]) from error
        if not is_kept:
            raise _unfit(path, "it is written in an unusual way")
        if text != former:
            with replaced_atomically(path) as draft:
                draft.write_bytes(text.encode())


def _read(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe", pure=True).load(text) or {})


def _foreign(text: str, cluster: str) -> Mapping[str, Any]:
    """What is not ours in a kubeconfig, as plain values."""
    config = {"apiVersion": "v1", "kind": "Config", _CURRENT: ""} | _read(text)
    for key in _LISTS:
        entries = config.get(key) or []
        config[key] = [one for one in entries if not _is_ours(one, cluster)]
    if config[_CURRENT] in {None, entry_name(cluster)}:
        config[_CURRENT] = ""
    return config


def _is_ours(entry: object, cluster: str) -> bool:
    return isinstance(entry, Mapping) and entry.get("name") == entry_name(cluster)


def _ca_of(text: str, cluster: str) -> object:
    """The CA of our entry, or None."""
    for one in _read(text).get("clusters") or []:
        if _is_ours(one, cluster) and isinstance(place := one.get("cluster"), Mapping):
            return place.get(_CA)
    return None


def _unfit(path: Path, reason: str | None) -> StateError:
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
