"""Files of NVIDIA's MIG manager (mig-parted, v1) that a cluster file names: `mig: {file, config}`.

Sources: api/spec/v1 and `nvidia-mig-parted apply --help` of github.com/NVIDIA/mig-parted.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ai_how.spec import yaml_tree
from ai_how.spec.images import path_in
from ai_how.spec.mig_layouts import MigDevicesSpec, MigFileSpec
from ai_how.spec.models import ClusterFile, ComputeNodeSpec
from ai_how.spec.problems import Finding, Loc, error_at, render_path, render_value
from ai_how.spec.structure import describe
from ai_how.spec.view import clusters_of

VERSION, CONFIGS = "v1", "mig-configs"


def read_mig_files(file: ClusterFile, directory: Path | None) -> Iterator[Finding]:
    """Read each file that a node names, and yield what is wrong, by file and entry.

    Relative paths begin in `directory`. The entries are kept in the spec.
    """
    for cluster in clusters_of(file):
        for node in cluster.nodes:
            gpu = node.spec.gpu if isinstance(node.spec, ComputeNodeSpec) else None
            if gpu and isinstance(gpu.mig, MigFileSpec):
                yield from _read(gpu.mig, directory, (*node.loc, "gpu", "mig"))


def _read(asked: MigFileSpec, directory: Path | None, loc: Loc) -> Iterator[Finding]:
    here = (*loc, "file")
    path = path_in(directory or Path(), asked.file)
    if directory is None and not path.is_absolute():
        yield error_at(
            "a relative path begins where the cluster file is; this one is in none", here
        )
        return
    try:
        with path.open("rb") as opened:
            data = opened.read(yaml_tree.MAX_BYTES + 1)
        content = yaml_tree.plain(yaml_tree.read_tree(data.decode("utf-8-sig")))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        yield error_at(f"{path}: {(reason or str(error)).lower()}", here)
        return
    except yaml_tree.YamlRefusedError as error:
        yield error_at(f"{path}:{error.line}: {error.text}", here)
        return
    if content.get("version") != VERSION:
        found = render_value(content.get("version"))
        yield error_at(f"{path}: found version {found}; mig-parted's files have {VERSION}", here)
        return
    configs = content.get(CONFIGS)
    if not isinstance(configs, dict) or not configs:
        yield error_at(f"{path}: has no `{CONFIGS}`", here)
        return
    yield from _choose(asked, configs, path, loc)


def _choose(asked: MigFileSpec, configs: dict[str, Any], path: Path, loc: Loc) -> Iterator[Finding]:
    known = ", ".join(configs)
    if asked.config is None and len(configs) > 1:
        yield error_at(f"needs `config`: {path} has {known}", loc)
        return
    name = asked.config or next(iter(configs))
    if name not in configs:
        yield error_at(f"{path} has no {render_value(name)}; it has: {known}", (*loc, "config"))
        return
    entries = configs[name]
    if not isinstance(entries, list) or not entries:
        yield error_at(f"{path}: {render_path((CONFIGS, name))} is no list of entries", loc)
        return
    read: list[MigDevicesSpec] = []
    for index, entry in enumerate(entries):
        place = (CONFIGS, name, index)
        if isinstance(entry, dict) and "device-filter" in entry:
            yield error_at(
                f"{path}: {render_path(place)}: entries with `device-filter` are for hosts with "
                "several kinds of cards, and are not taken; name a config without it",
                loc,
            )
            continue
        try:
            read.append(MigDevicesSpec.model_validate(entry))
        except ValidationError as error:
            for inner, text in describe(error):
                yield error_at(f"{path}: {render_path((*place, *inner))}: {text}", loc)
    asked.keep(path, name, tuple(read))
