"""Which kubeconfigs of the user have an entry of a cluster, so that `destroy` can take it out."""

import json
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ai_how.errors import StateError
from ai_how.state.files import read_file, replaced_atomically
from ai_how.state.paths import ClusterPaths


@dataclass(frozen=True, slots=True)
class Merged:
    """The files, and the CA by which an entry is known to be of this cluster, as base64."""

    ca: str
    files: tuple[Path, ...]


def read_merged(paths: ClusterPaths) -> Merged | None:
    """What was noted; None if nothing was, or the note is damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        told = json.loads(read_file(paths.kubeconfigs))
        return Merged(str(told["ca"]), tuple(Path(one) for one in told["files"]))
    return None


def note_merged(paths: ClusterPaths, file: Path, ca: str) -> None:
    """Note that a file gets an entry of the cluster."""
    known = read_merged(paths)
    _write(paths, Merged(ca, tuple(dict.fromkeys((*(known.files if known else ()), file)))))


def note_unmerged(paths: ClusterPaths, file: Path) -> None:
    """Note that a file has no entry of the cluster any more."""
    if (known := read_merged(paths)) and file in known.files:
        _write(paths, Merged(known.ca, tuple(one for one in known.files if one != file)))


def unmerge_all(cluster: str, merged: Merged, warn: Callable[[str], None]) -> None:
    """Take the entries of a cluster that is gone out of the files that have them.

    An entry of that name with another CA stays: it is of another cluster. `warn` gets what could
    not be changed, with the command that does it later.
    """
    from ai_how.cloud.kubeconfig import unmerge  # noqa: PLC0415  its YAML takes a moment to load

    for file in merged.files:
        try:
            unmerge(file, cluster, ca=merged.ca)
        except StateError as error:
            remedy = f"ai-how cloud kubeconfig --unmerge --cluster {shlex.quote(cluster)}"
            warn(
                f"{error.brief}; it still has an entry of {cluster}. To remove it: "
                f"KUBECONFIG={shlex.quote(str(file))} {remedy}"
            )


def _write(paths: ClusterPaths, merged: Merged) -> None:
    told = {"ca": merged.ca, "files": [str(one) for one in merged.files]}
    with replaced_atomically(paths.kubeconfigs) as draft:
        draft.write_text(json.dumps(told))
