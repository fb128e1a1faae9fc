"""The state file: read completely and checked, or refused; written atomically, ten backups."""

import hashlib
import json
import shlex
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from ai_how import __version__
from ai_how.errors import StateError
from ai_how.state.files import fsync_directory, read_file, replaced_atomically
from ai_how.state.models import HPC, SCHEMA_VERSION, ClusterState
from ai_how.state.paths import ClusterPaths, ensure_private_directory

KEPT_BACKUPS = 10

OLDEST_SCHEMA = 1

# Among the backups: the state file that a restored backup replaced.
DAMAGED = "damaged.json"

# A thousand nodes need half a megabyte; a larger file is not ours.
LARGEST_BYTES = 16 * 1024 * 1024


class DamagedError(ValueError):
    """A damaged state file; the text says how."""


def read_state(paths: ClusterPaths) -> ClusterState | None:
    """The state; None if there is none.

    Raises StateError for a file that is damaged or belongs to another cluster: it is not changed,
    and the hint names the newest intact backup.
    """
    try:
        state = _read(paths.state)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        raise StateError(
            f"{paths.state} is damaged", details=str(error), hint=_way_back(paths)
        ) from error
    # A state copied from another cluster would make us change, or destroy, that cluster.
    if state.name != paths.name:
        raise StateError(
            f"{paths.state} belongs to another cluster",
            details=f"It is the state of {state.name}, not of {paths.name}.",
            hint=_way_back(paths),
        )
    return state


def write_state(paths: ClusterPaths, state: ClusterState) -> ClusterState:
    """Replace the state by `state`; return it with its new serial.

    `state` must be based on the state on disk, which becomes the newest backup. Raises StateError
    if it is not, or if the disk fails.
    """
    current = read_state(paths)
    if current is not None:
        ensure_lineage(current, state.lineage)
        if current.serial != state.serial:
            raise StateError(
                f"{paths.state} was changed after it was read",
                details=f"its serial is {current.serial}; this run read {state.serial}",
            )
    return _write(paths, state)


def restore_state(paths: ClusterPaths, serial: int, *, kind: str = HPC) -> ClusterState:
    """Remember again what backup `serial` held; a damaged state is kept beside the backups.

    Raises StateError where there is no sound backup of that serial, or it is of another kind.
    """
    backup = paths.backups / f"{serial}.json"
    try:
        state = _read(backup)
    except FileNotFoundError as error:
        raise StateError(
            f"cluster {paths.name} has no backup {serial}",
            details=f"it has: {', '.join(map(str, backup_serials(paths))) or 'none'}",
        ) from error
    except DamagedError as error:
        raise StateError(f"{backup} is damaged", details=str(error)) from error
    if state.kind != kind:
        raise StateError(f"{backup} is of a cluster of the kind {state.kind}, not {kind}")
    with suppress(FileNotFoundError, DamagedError):
        ensure_lineage(_read(paths.state), state.lineage)
    # A later start may have told the nodes something else, or made some of them anew.
    return _write(paths, state.model_copy(update={"config_digest": "", "provisioned": None}))


def remove_state(paths: ClusterPaths) -> None:
    """Remove the state of the cluster, with its backups; safe to repeat."""
    try:
        # The state goes last: the cluster exists as long as it, and this is repeated.
        for name in (*(f"{serial}.json" for serial in backup_serials(paths)), DAMAGED):
            (paths.backups / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            fsync_directory(paths.backups)
        paths.state.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            fsync_directory(paths.root)
    except OSError as error:
        raise StateError(f"{paths.state} could not be removed: {error.strerror}") from error


def backup_serials(paths: ClusterPaths) -> tuple[int, ...]:
    """The serials of the backups, the oldest first. StateError if they cannot be listed."""
    try:
        entries = list(paths.backups.iterdir())
    except FileNotFoundError:
        return ()
    # A backup that is overlooked could be overwritten, or outlive its cluster.
    except OSError as error:
        raise StateError(
            f"{paths.backups} cannot be read: {error.strerror}",
            hint=f"ls -ld {shlex.quote(str(paths.backups))}",
        ) from error
    found = (entry.stem for entry in entries if entry.suffix == ".json" and entry.stem.isdecimal())
    return tuple(sorted(int(stem) for stem in found))


def ensure_lineage(state: ClusterState, lineage: UUID) -> None:
    """Raises StateError for another cluster's state."""
    if state.lineage != lineage:
        raise StateError(
            f"the state of {state.name} belongs to another cluster",
            details=f"its id is {state.lineage}, not {lineage}",
        )


def render_state(state: ClusterState) -> str:
    """The text of the file: the state, the version that wrote it, and a checksum of both."""
    body = {**state.as_record(), "written_by": __version__}
    return json.dumps({**body, "checksum": _checksum(body)}, indent=2, allow_nan=False) + "\n"


def parse_state(text: bytes) -> ClusterState:
    """Raises DamagedError for a damaged state, StateError for one of a newer ai-how.

    A newer version may add anything, but keeps `schema_version`, `written_by` and `checksum`. The
    state of an older version is accepted: a newer field has a default.
    """
    body = _load(text)
    written_by = body.pop("written_by", None)
    schema_version = body.get("schema_version")
    if isinstance(schema_version, int) and schema_version > SCHEMA_VERSION:
        raise StateError(
            f"the cluster's state was written by ai-how {written_by}, which is newer",
            details=f"its schema is {schema_version}, this version knows {SCHEMA_VERSION}",
            hint=f"use ai-how {written_by} or later",
        )
    try:
        state = ClusterState.model_validate(body)
    except ValidationError as error:
        raise DamagedError(str(error)) from error
    if state.schema_version < OLDEST_SCHEMA:
        raise DamagedError(f"there is no schema {state.schema_version}")
    return state.model_copy(update={"schema_version": SCHEMA_VERSION})


def _load(text: bytes) -> dict[str, Any]:
    """The text that the checksum covers."""
    try:
        body = json.loads(
            text.decode("utf-8"), object_pairs_hook=_without_twins, parse_constant=_refuse_constant
        )
        is_sound = isinstance(body, dict) and body.pop("checksum", None) == _checksum(body)
    except RecursionError as error:
        raise DamagedError("it is nested too deeply") from error
    except ValueError as error:
        raise DamagedError(f"it is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise DamagedError("it is not a JSON object")
    if not is_sound:
        raise DamagedError("its checksum does not match its content")
    return body


def _read(path: Path) -> ClusterState:
    """Raises FileNotFoundError, DamagedError, or StateError if the file system fails."""
    try:
        text = read_file(path, largest=LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateError(
            f"{path} cannot be read: {error.strerror}", hint=f"ls -l {shlex.quote(str(path))}"
        ) from error
    if len(text) > LARGEST_BYTES:
        raise DamagedError(f"it is larger than {LARGEST_BYTES} bytes")
    return parse_state(text)


def _write(paths: ClusterPaths, state: ClusterState) -> ClusterState:
    # The state after the newest backup had the next serial. It may be damaged by now, or
    # overwritten by a copy of a backup. No serial is used for two contents.
    serial = 1 + max((state.serial, *(serial + 1 for serial in backup_serials(paths))))
    written = state.model_copy(update={"serial": serial, "updated_at": datetime.now(UTC)})
    with replaced_atomically(paths.state) as draft:
        draft.write_text(render_state(written), encoding="utf-8")
        _keep_backup(paths)
    return written


def _keep_backup(paths: ClusterPaths) -> None:
    """Link the current state to a second name before its first one is replaced."""
    ensure_private_directory(paths.backups)
    try:
        name = f"{_read(paths.state).serial}.json"
    except FileNotFoundError:
        return
    except DamagedError:
        name = DAMAGED
        (paths.backups / name).unlink(missing_ok=True)
    # It exists if a run died here, and is then the same file.
    with suppress(FileExistsError):
        (paths.backups / name).hardlink_to(paths.state)
    fsync_directory(paths.backups)
    for serial in backup_serials(paths)[:-KEPT_BACKUPS]:
        (paths.backups / f"{serial}.json").unlink(missing_ok=True)


def _way_back(paths: ClusterPaths) -> str:
    """The newest intact backup, and how to restore it."""
    try:
        serials = backup_serials(paths)
    except StateError as error:
        return error.hint or ""
    for serial in reversed(serials):
        backup = paths.backups / f"{serial}.json"
        with suppress(OSError, DamagedError, StateError):
            if _read(backup).name != paths.name:
                continue
            return shlex.join(["install", "-m", "600", str(backup), str(paths.state)])
    move = shlex.join(["mv", str(paths.state), f"{paths.state}.damaged"])
    return f"{move}  # there is no intact backup"


def _checksum(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise ValueError("a key occurs twice")
    return body


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
