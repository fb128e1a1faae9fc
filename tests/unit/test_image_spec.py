"""`images` in the cluster file: what is accepted, and each refusal with its place."""

from pathlib import Path

import pytest

from ai_how.cli.context import Context
from ai_how.clusters.cleanup import keep_source
from ai_how.spec.images import script_in
from ai_how.spec.models import ClusterFile
from ai_how.spec.problems import Problem
from ai_how.spec.reader import read_spec, read_spec_text
from ai_how.state.paths import ClusterPaths, default_roots

CLUSTER = """
clusters:
  hpc:
    name: hpc
    base_image_path: mine
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 5}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 5}
"""


def read(images: str, directory: Path | None = None) -> tuple[ClusterFile | None, list[Problem]]:
    text = f'version: "1.0"\nimages: {images}{CLUSTER}'
    return read_spec_text(text, "cluster.yaml", {}, directory=directory)


def problems_of(images: str, directory: Path | None = None) -> list[str]:
    return [f"{one.path}: {one.text}" for one in read(images, directory)[1]]


def test_an_image_may_be_as_short_as_its_packages() -> None:
    spec, problems = read("{mine: {packages: jq}}")
    assert problems == []
    assert spec is not None
    mine = spec.images["mine"]
    assert (mine.from_.name, mine.from_.suite, mine.packages) == ("default", None, ("jq",))
    assert mine.is_changed


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (
            "{mine: {from: {suite: sid}}}",
            "images.mine.from.suite: found 'sid'; allowed: bookworm, trixie or forky",
        ),
        (
            "{mine: {from: {suite: forky, name: default}}}",
            (
                "images.mine.from: one of `name`, `suite`, `path` and `url` is required: "
                "`from: default`, `from: {suite: bookworm}`, or `from: {path: ./image.qcow2}`"
            ),
        ),
        (
            "{mine: {from: mine}}",
            "images.mine.from: an image cannot be made from itself: mine -> mine",
        ),
        (
            "{mine: {with: develop}}",
            (
                "images.mine.with[0]: found 'develop'; allowed: devel, containers, modules or "
                "accounting"
            ),
        ),
        (
            "{mine: {packages: [jq, -y]}}",
            (
                "images.mine.packages[1]: found '-y'; allowed: the name of a Debian package such "
                "as python3-numpy, or NAME=VERSION"
            ),
        ),
        (
            "{mine: {packages: [jq, jq=1.7]}}",
            "images.mine.packages[1]: jq is in the list already",
        ),
        (
            "{mine: {files: {/etc/hosts: ./hosts}}}",
            (
                "images.mine.files.'/etc/hosts': found '/etc/hosts'; allowed: a path that is not "
                "made anew on each node"
            ),
        ),
        (
            "{mine: {files: {/etc/../x: ./x}}}",
            (
                "images.mine.files.'/etc/../x': found '/etc/../x'; allowed: a path without `.`, "
                "`..`, `//` or a slash at the end"
            ),
        ),
        (
            "{mine: {}, default: {packages: jq}}",
            "images.default: `default` is the built-in image; choose another name",
        ),
        (
            "{mine: {}, '-x': {}}",
            (
                "images.-x: found '-x'; allowed: 1 to 80 letters, digits, `.`, `_` and `-`, with a "
                "letter or digit first"
            ),
        ),
        ("{mine: {}, spare: {}}", "images.spare: no node boots it; "),
        ("{mine: {package: jq}}", "images.mine.package: unknown key; did you mean `packages`?"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(images: str, expected: str) -> None:
    [problem] = problems_of(images)
    assert problem.startswith(expected)


def test_a_circle_is_said_of_each_image_in_it() -> None:
    told = problems_of("{mine: {from: b}, b: {from: c}, c: {from: b}, d: {from: d}}")
    assert told == [
        "images.b.from: an image cannot be made from itself: b -> c -> b",
        "images.c.from: an image cannot be made from itself: c -> b -> c",
        "images.d.from: an image cannot be made from itself: d -> d",
    ]


def test_files_and_scripts_that_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "install.sh").touch()
    images = (
        "{mine: {files: {/opt/a: ./nope, /opt/b: directory}, "
        "run: [./gone.sh --x, ./directory, ./install.sh, install.sh, true]}}"
    )
    assert problems_of(images, tmp_path) == [
        f"images.mine.files.'/opt/a': {tmp_path}/nope: no such file or directory",
        f"images.mine.run[0]: {tmp_path}/gone.sh: no such file or directory",
        f"images.mine.run[1]: {tmp_path}/directory: not a file",
        "images.mine.run[3]: is run as a command; the script beside it is `./install.sh`",
    ]


def test_a_copy_of_a_file_names_what_lies_beside_the_original(tmp_path: Path) -> None:
    path = tmp_path / "state" / "cluster.yaml"
    path.parent.mkdir()
    path.write_text(f'version: "1.0"\nimages: {{mine: {{run: ./install.sh}}}}{CLUSTER}')
    spec = read_spec(path, {}, copied_from=tmp_path / "original")
    assert spec.directory == tmp_path / "original"


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("./install.sh --now", "./install.sh"),
        ("../install.sh", "../install.sh"),
        ("systemctl enable x", None),
        ("/opt/x", None),
        (". ./x", None),
    ],
)
def test_a_script_is_told_from_a_command(command: str, script: str | None) -> None:
    assert script_in(command) == script


def test_the_copy_of_a_cluster_s_file_finds_what_lay_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    paths = default_roots().cluster("hpc")
    paths.root.mkdir(parents=True)
    text = f'version: "1.0"\nimages: {{mine: {{run: ./install.sh}}}}{CLUSTER}'
    beside = tmp_path / "project"
    spec, _ = read_spec_text(text, "cluster.yaml", {})
    assert spec is not None
    keep_source(text, paths, spec.placed_in(beside))
    kept, _ = Context().load_spec(paths.spec)
    assert kept.directory == beside
    assert kept == spec.placed_in(beside)


def test_a_cluster_whose_image_is_a_path_knows_where_that_begins(tmp_path: Path) -> None:
    paths = ClusterPaths(tmp_path)
    text = f'version: "1.0"{CLUSTER.replace("mine", "./a.qcow2")}'
    spec, _ = read_spec_text(text, "cluster.yaml", {})
    assert spec is not None
    keep_source(text, paths, spec.placed_in(tmp_path / "project"))
    assert paths.spec_directory.read_text() == str(tmp_path / "project")


def test_of_a_file_without_images_only_the_text_is_kept(tmp_path: Path) -> None:
    paths = ClusterPaths(tmp_path)
    spec, _ = read_spec_text(f'version: "1.0"{CLUSTER}', "cluster.yaml", {}, directory=tmp_path)
    assert spec is not None
    keep_source("text", paths, spec)
    assert paths.spec.read_text() == "text"
    assert not paths.spec_directory.exists()
