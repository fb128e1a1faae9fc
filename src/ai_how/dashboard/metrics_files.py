"""The alert rules for Prometheus and the dashboards for Grafana that come with the package."""

from pathlib import Path

from ai_how.errors import HostError

HERE = Path(__file__).parent / "prometheus"
RULES = HERE / "rules.yml"
DASHBOARDS = (HERE / "cluster.json", HERE / "jobs.json")


def copy_files(files: tuple[Path, ...], target: Path) -> list[Path]:
    """Copy them into a directory, which is made if it is missing; files of ours are replaced.

    Raises HostError.
    """
    written = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for one in files:
            path = target / f"ai-how-{one.name}"
            path.write_bytes(one.read_bytes())
            written.append(path)
    except OSError as error:
        raise HostError(f"{target} cannot be written: {error.strerror}") from None
    return written
