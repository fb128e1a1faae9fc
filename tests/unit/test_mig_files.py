"""`mig: {file, config}`: a file of mig-parted beside the cluster file."""

from pathlib import Path

import pytest

from ai_how.errors import SpecError
from ai_how.spec.nodes import get_hpc, nodes_of
from ai_how.spec.reader import read_spec, read_spec_text

# As examples/config.yaml of github.com/NVIDIA/mig-parted.
MIG_PARTED = """\
version: v1
mig-configs:
  all-disabled:
    - devices: all
      mig-enabled: false
  all-enabled:
    - devices: all
      mig-enabled: true
      mig-devices: {}
  all-balanced:
    - devices: all
      mig-enabled: true
      mig-devices:
        "1g.5gb": 2
        "2g.10gb": 1
        "3g.20gb": 1
  custom-config:
    - devices: [0]
      mig-enabled: true
      mig-devices: {"1g.5gb": 7}
    - devices: [1, 5]
      mig-enabled: true
      mig-devices: {"3g.20gb": 2}
  by-kind:
    - devices: all
      device-filter: ["0x20B010DE"]
      mig-enabled: true
      mig-devices: {"1g.5gb": 7}
  wrong:
    - devices: all
      mig-enabled: true
      mig-devices: {"9g.5gb": 7}
      surplus: 1
  empty: []
"""
BALANCED = {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}
HEAD = """\
version: "1.0"
clusters:
  hpc:
    name: hpc
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 10}
    compute_nodes:
"""
NODE = "      - {{cpu_cores: 1, memory_gb: 1, disk_gb: 10, gpu: {{count: 2, mig: {mig}}}}}\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "mig.yaml").write_text(MIG_PARTED)
    return tmp_path


def slices(place: Path, mig: str, *, copied_from: Path | None = None) -> list[dict[str, int]]:
    file = place / "cluster.yaml"
    file.write_text(HEAD + NODE.format(mig=mig))
    hpc = get_hpc(read_spec(file, {"LAYOUT": "all-balanced"}, copied_from=copied_from))
    cards = nodes_of(hpc)[1].cards
    assert cards is not None
    return [dict(one) for one in cards.slices or ()]


def problems(place: Path, mig: str) -> list[str]:
    text = HEAD + NODE.format(mig=mig)
    _, found = read_spec_text(text, "F", {}, directory=place)
    here = "F:7: clusters.hpc.compute_nodes[0].gpu.mig"
    return [str(one).removeprefix(here).replace(str(place), "PLACE") for one in found]


def test_an_entry_of_a_file_is_what_the_node_gets(place: Path) -> None:
    assert slices(place, "{file: ./mig.yaml, config: all-balanced}") == [BALANCED, BALANCED]
    assert slices(place, "{file: mig.yaml, config: '${LAYOUT}'}") == [BALANCED, BALANCED]
    assert slices(place, f"{{file: {place}/mig.yaml, config: all-disabled}}") == [{}, {}]


def test_the_only_entry_needs_no_name(place: Path) -> None:
    only = 'version: v1\nmig-configs: {mine: [{devices: [1], mig-devices: {"3g.20gb": 2}}, {}]}\n'
    (place / "mig.yaml").write_text(
        only.replace("{}]", "{devices: [0], mig-devices: {1g.5gb: 7}}]")
    )
    assert slices(place, "{file: mig.yaml}") == [{"1g.5gb": 7}, {"3g.20gb": 2}]


def test_the_copy_of_a_cluster_file_reads_what_is_beside_the_file(
    place: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    mig = "{file: ./mig.yaml, config: all-balanced}"
    assert slices(kept, mig, copied_from=place) == [BALANCED, BALANCED]
    with pytest.raises(SpecError, match="1 problem"):
        slices(kept, mig)


@pytest.mark.parametrize(
    ("mig", "problem"),
    [
        (
            "{file: ./none.yaml}",
            ".file: PLACE/none.yaml: no such file or directory",
        ),
        ("{file: .}", ".file: PLACE: is a directory"),
        (
            "{file: mig.yaml}",
            (
                ": needs `config`: PLACE/mig.yaml has all-disabled, all-enabled, all-balanced, "
                "custom-config, by-kind, wrong, empty"
            ),
        ),
        (
            "{file: mig.yaml, config: none}",
            (
                ".config: PLACE/mig.yaml has no 'none'; it has: all-disabled, all-enabled, "
                "all-balanced, custom-config, by-kind, wrong, empty"
            ),
        ),
        (
            "{file: mig.yaml, config: all-enabled}",
            (
                ": PLACE/mig.yaml: mig-configs.all-enabled[0]: found a section; allowed: "
                "`mig-devices` with slices if `mig-enabled` is true, and without if it is false"
            ),
        ),
        (
            "{file: mig.yaml, config: custom-config}",
            (
                ": PLACE/mig.yaml: mig-configs.custom-config[1]: there is no card 5: the node has "
                "2, numbered from 0"
            ),
        ),
        (
            "{file: mig.yaml, config: by-kind}",
            (
                ": PLACE/mig.yaml: mig-configs.by-kind[0]: entries with `device-filter` are for "
                "hosts with several kinds of cards, and are not taken; name a config without it"
            ),
        ),
        (
            "{file: mig.yaml, config: empty}",
            ": PLACE/mig.yaml: mig-configs.empty is no list of entries",
        ),
        ("{file: mig.yaml, surplus: 1}", ".surplus: unknown key; known here: "),
    ],
)
def test_what_is_wrong_is_told_by_file_and_entry(place: Path, mig: str, problem: str) -> None:
    [found] = problems(place, mig)
    assert found.startswith(problem)


def test_everything_that_is_wrong_in_an_entry_is_told(place: Path) -> None:
    entry = ": PLACE/mig.yaml: mig-configs.wrong[0]"
    assert set(problems(place, "{file: mig.yaml, config: wrong}")) == {
        f"{entry}.mig-devices.'9g.5gb': found '9g.5gb'; allowed: a MIG profile such as 1g.10gb",
        f"{entry}.surplus: unknown key",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: v2\nmig-configs: {}\n", "found version 'v2'; mig-parted's files have v1"),
        ("version: v1\n", "has no `mig-configs`"),
        ("version: v1\nmig-configs: [\n", "3: not valid YAML"),
        ("- a\n", "1: "),
        ("version: \xff", "not utf-8 text"),
    ],
)
def test_what_is_no_file_of_mig_parted_is_told(place: Path, text: str, problem: str) -> None:
    (place / "mig.yaml").write_bytes(text.encode("latin-1"))
    [found] = problems(place, "{file: mig.yaml}")
    assert found.startswith(".file: PLACE/mig.yaml:")
    assert problem in found


def test_a_relative_path_needs_a_file(place: Path) -> None:
    text = HEAD + NODE.format(mig="{file: mig.yaml}")
    [found] = read_spec_text(text, "F", {})[1]
    assert "a relative path begins where the cluster file is" in str(found)
