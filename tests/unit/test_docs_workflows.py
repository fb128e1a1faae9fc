"""docs/workflows.md names the versions that tests/cluster/test_programs_of_others.py runs."""

from pathlib import Path

from pages import DOCS, block_of

PINNED = Path(__file__).parents[1] / "data" / "programs_of_others.txt"
PAGE = (DOCS / "workflows.md").read_text()


def test_the_page_names_the_versions_that_are_run() -> None:
    shown = block_of(PAGE, "dask-jobqueue==").splitlines()
    assert len(shown) == 6
    assert set(shown) <= set(PINNED.read_text().splitlines())
    table = " ".join(line for line in PAGE.splitlines() if line.startswith("| "))
    for name, version in (line.split("==") for line in shown):
        plain = "its plugin `slurm`" if name == "snakemake-executor-plugin-slurm" else name
        assert f"{plain} {version} " in table.replace(",", " ")


def test_every_program_has_one_version() -> None:
    lines = [line for line in PINNED.read_text().splitlines() if not line.startswith("#")]
    names = [name for name, _, version in (line.partition("==") for line in lines) if version]
    assert len(names) == len(lines) == len(set(names)) > 50
