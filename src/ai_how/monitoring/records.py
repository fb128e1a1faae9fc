"""The JSON form of what is seen (`model.py`): between the collector and its readers, and for users.

A reader takes what a newer collector adds, and refuses what is no snapshot.
"""

from functools import cache
from typing import TYPE_CHECKING

from ai_how.errors import StateError
from ai_how.monitoring.model import Job, Snapshot

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@cache
def _adapter() -> "TypeAdapter[Snapshot]":
    from pydantic import TypeAdapter  # noqa: PLC0415  the collector alone pays for it

    return TypeAdapter(Snapshot)


def write_snapshot(snapshot: Snapshot) -> bytes:
    """One line of JSON, without the line end."""
    return _adapter().dump_json(snapshot)


def read_snapshot(line: bytes) -> Snapshot:
    """The snapshot of `write_snapshot`. Raises StateError for anything else."""
    try:
        return _adapter().validate_json(line)
    except ValueError as error:
        raise StateError("this is no snapshot of a cluster", details=str(error)[:500]) from error


def write_job(job: Job) -> bytes:
    """One line of JSON, without the line end."""
    return _job_adapter().dump_json(job, exclude_defaults=True)


def read_job(line: bytes) -> Job:
    """The job of `write_job`. Raises ValueError for anything else."""
    return _job_adapter().validate_json(line)


@cache
def _job_adapter() -> "TypeAdapter[Job]":
    from pydantic import TypeAdapter  # noqa: PLC0415  as above

    return TypeAdapter(Job)


def read_job_record(record: object) -> Job:
    """The job of `write_job`, after its JSON was read. Raises StateError for anything else."""
    try:
        return _job_adapter().validate_python(record)
    except ValueError as error:
        raise StateError("this is no job", details=str(error)[:500]) from error
