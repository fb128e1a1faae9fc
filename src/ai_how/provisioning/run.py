"""Runs one playbook on nodes of a cluster."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ai_how.errors import HostError, ProvisioningError
from ai_how.process import run_with_order
from ai_how.provisioning.events import Report, TaskResult
from ai_how.provisioning.playbooks import PendingRun
from ai_how.state.paths import ClusterPaths, ensure_private_directory

# The nodes on which it runs; `--limit` takes what a user asked for, and of that only these.
PENDING_GROUP = "ai_how_pending"
_PLUGINS = Path(__file__).with_name("plugins")
_FEWEST_FORKS, _MOST_FORKS = 5, 64
_NO_HOSTS = "leaves us with no hosts to target"
_SHOWN = 10
_LOG_END = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one run was asked for besides the file."""

    is_check: bool = False
    limit: str | None = None
    tags: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether a run does all that the playbook has for its nodes."""
        return not (self.is_check or self.limit or self.tags or self.arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a playbook ended, or that it had nothing to do."""

    playbook: str
    nodes: tuple[str, ...]
    """The nodes on which it ran; empty if it was skipped, or a limit left none."""
    ok: int = 0
    changed: int = 0
    skipped: int = 0
    seconds: float = 0.0


def run_playbook(
    program: Path,
    pending: PendingRun,
    inventory: Mapping[str, object],
    paths: ClusterPaths,
    options: Options,
    *,
    is_everywhere: bool,
    watch: Callable[[TaskResult], None],
    hint: str,
) -> Outcome:
    """Run a playbook to its end, and pass each result to `watch` as it comes.

    `inventory` has the group `ai_how_pending`; unless `is_everywhere`, it runs on that alone. When
    this raises or our process is killed, Ansible and all that it started are killed. Raises
    ProvisioningError with that `hint` if a task failed, or if Ansible refused the playbook.
    """
    begun = time.monotonic()
    directory, log = paths.provision, paths.provision_log
    shutil.rmtree(directory, ignore_errors=True)  # of a run whose keeper was killed
    ensure_private_directory(directory)
    log.unlink(missing_ok=True)
    report = Report()

    def take(line: str) -> None:
        if result := report.read(line):
            watch(result)

    order = {
        "argv": [
            str(program),
            *_arguments(pending, inventory, directory, options, is_everywhere=is_everywhere),
        ],
        "env": _environment(len(pending.nodes)),
        "cwd": str(pending.playbook.path.parent),
        "log": str(log),
        "directory": str(directory),
    }
    keeper = [sys.executable, "-I", "-m", "ai_how.provisioning.keeper"]
    tail = run_with_order(keeper, order=json.dumps(order), on_line=take)
    if report.code is None:
        raise HostError("ansible-playbook could not be run", details="\n".join(tail))
    if report.code != 0 and not _has_no_hosts(report, log):
        raise _failure(pending, report, log, hint)
    counts = report.counts
    return Outcome(
        playbook=pending.playbook.name,
        nodes=tuple(sorted(report.hosts)),
        ok=counts.get("ok", 0),
        changed=counts.get("changed", 0),
        skipped=counts.get("skipped", 0),
        seconds=round(time.monotonic() - begun, 3),
    )


def _arguments(
    pending: PendingRun,
    inventory: Mapping[str, object],
    directory: Path,
    options: Options,
    *,
    is_everywhere: bool,
) -> Sequence[str]:
    playbook = pending.playbook
    words = ["--inventory", _write(directory / "inventory.json", inventory)]
    # A file, as all users of the host can read the arguments of a program.
    words += ["--extra-vars", f"@{_write(directory / 'vars.json', playbook.spec.vars)}"]
    # Each limits what the others leave.
    limits = [one for one in (playbook.spec.limit, options.limit) if one]
    if limits or not is_everywhere:
        words += ["--limit", ":&".join((*limits, PENDING_GROUP))]
    if tags := options.tags or playbook.spec.tags:
        words += ["--tags", ",".join(tags)]
    if playbook.vault_password_file:
        words += ["--vault-password-file", str(playbook.vault_password_file)]
    if options.is_check:
        words += ["--check", "--diff"]
    return [*words, *options.arguments, str(playbook.path)]


def _write(path: Path, content: Mapping[str, object]) -> str:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        json.dump(content, file, default=str)
    return str(path)


def _environment(count: int) -> dict[str, str]:
    """Variables for Ansible; what it reads from ansible.cfg or the user's own goes on to count."""
    own = os.environ.get("ANSIBLE_CALLBACK_PLUGINS")
    return {
        "ANSIBLE_STDOUT_CALLBACK": "ai_how_events",
        "ANSIBLE_CALLBACK_PLUGINS": f"{_PLUGINS}:{own}" if own else str(_PLUGINS),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        "ANSIBLE_FORKS": os.environ.get(
            "ANSIBLE_FORKS", str(min(max(_FEWEST_FORKS, count), _MOST_FORKS))
        ),
        "ANSIBLE_GATHERING": os.environ.get("ANSIBLE_GATHERING", "smart"),
    }


def _has_no_hosts(report: Report, log: Path) -> bool:
    """Whether a limit left no node: then there was nothing to do."""
    return not report.counts and not report.bad and _NO_HOSTS in _read_end(log)


def _failure(pending: PendingRun, report: Report, log: Path, hint: str) -> ProvisioningError:
    name = pending.playbook.name
    if not report.bad:
        return ProvisioningError(
            f"the cluster is up, but {name} failed (exit code {report.code})",
            details=_read_end(log),
            hint=hint,
        )
    first = report.bad[0]
    more = [f"{one.host}: {one.task}: {one.message}" for one in report.bad[:_SHOWN]]
    left = len(report.bad) - _SHOWN
    return ProvisioningError(
        f"the cluster is up, but {name} failed: {first.task} on {first.host}",
        details="\n".join([*more, *([f"and {left} more"] if left > 0 else [])]),
        hint=hint,
        node=first.host,
        task=first.task,
    )


def _read_end(log: Path) -> str:
    try:
        return log.read_text("utf-8", "replace").strip()[-_LOG_END:]
    except FileNotFoundError:
        return ""
