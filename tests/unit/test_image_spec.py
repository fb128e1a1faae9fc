"""`images` in the cluster file: what is accepted, and each refusal with its place."""

import os
import sys
from pathlib import Path

import pytest

from ai_how.cli.context import Context
from ai_how.clusters.cleanup import keep_source
from ai_how.console.commands import Call, called_as
from ai_how.process import run
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
                "images.mine.with[0]: found 'develop'; allowed: devel, containers, modules, "
                "accounting, node-exporter, nvidia or simulated-gpus"
            ),
        ),
        (
            "{mine: {with: [nvidia, simulated-gpus]}}",
            (
                "images.mine.with: `nvidia` and `simulated-gpus` exclude each other: each brings a "
                "libnvidia-ml.so.1"
            ),
        ),
        (
            "{mine: {from: b, with: simulated-gpus}, b: {from: c}, c: {with: nvidia}}",
            "images.mine.with: `nvidia` and `simulated-gpus` exclude each other",
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
    with called_as(Call("ai-how")) as call:
        kept, _ = Context().load_spec(paths.spec)
    assert call.file == paths.spec, "noted for this call alone"
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


SHA = "a" * 64


def booting(text: str, directory: Path | None = None) -> list[str]:
    cluster = CLUSTER.replace("base_image_path: mine", f"base_image_path: {text}")
    _, problems = read_spec_text(f'version: "1.0"{cluster}', "f", {}, directory=directory)
    return [str(one) for one in problems]


@pytest.mark.parametrize(
    ("given", "path", "url", "digest"),
    [
        ("./a.qcow2", "./a.qcow2", None, None),
        ("{path: a.qcow2}", "a.qcow2", None, None),
        (f"https://h/a.qcow2#sha256={SHA.upper()}", None, "https://h/a.qcow2", SHA),
        (f"{{url: 'https://h/a?b=c', sha256: {SHA}}}", None, "https://h/a?b=c", SHA),
        (f"https://h/a.qcow2#sha512={SHA * 2}", None, "https://h/a.qcow2", SHA * 2),
        (f"{{path: a.qcow2, sha512: {SHA.upper() * 2}}}", "a.qcow2", None, SHA * 2),
    ],
)
def test_an_image_may_be_a_file_or_a_url(
    given: str, path: str | None, url: str | None, digest: str | None
) -> None:
    spec, problems = read(f"{{mine: {{from: {given}}}}}")
    assert problems == []
    assert spec is not None
    base = spec.images["mine"].from_
    assert (base.path, base.url, base.name) == (path, url, None)
    assert (base.sha256 or base.sha512) == digest
    assert base.sha512 is None or "512" in given
    assert base.is_place


def test_all_that_is_said_of_a_url_is_read() -> None:
    spec, problems = read(
        "{mine: {from: {url: https://h/a, checksums: https://h/S, signature: ./S.gpg, key: k.asc, "
        "firmware: uefi}}}"
    )
    assert problems == []
    assert spec is not None
    base = spec.images["mine"].from_
    assert (base.checksums, base.signature, base.key) == ("https://h/S", "./S.gpg", "k.asc")
    assert base.firmware == "uefi"


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("{url: http://h/a}", "url: found 'http://h/a'; allowed: an https:// URL without #"),
        ("http://h/a", "url: found 'http://h/a'; allowed: an https:// URL without #"),
        ("{url: https:///a}", "url: found 'https:///a'; allowed: an https:// URL without #"),
        ("{url: https://h/a}", "url: a URL needs the digest of its file: `sha256`, `sha512`, or"),
        ("https://h/a", "url: a URL needs the digest of its file: `sha256`, `sha512`, or"),
        (
            "{url: https://h/a, sha256: abc}",
            "sha256: found 'abc'; allowed: 64 hexadecimal digits, as sha256sum prints them",
        ),
        (
            "{url: https://h/a, sha512: abc}",
            "sha512: found 'abc'; allowed: 128 hexadecimal digits, as sha512sum prints them",
        ),
        (
            f"{{url: https://h/a, sha256: {SHA}, sha512: {SHA * 2}}}",
            "sha512: one of `sha256` and `sha512` is enough",
        ),
        (
            f"{{path: a, sha512: {SHA * 2}, checksums: S, key: k}}",
            "checksums: one of `sha512` and `checksums` is enough",
        ),
        (
            "{url: https://h/a, checksums: https://h/S}",
            "checksums: checksums without a signature are worth no more than the https of their",
        ),
        (
            "{url: https://h/a, checksums: https://h/S, signature: https://h/S.gpg}",
            "checksums: checksums without a signature are worth no more than the https",
        ),
        (
            "{url: https://h/a, checksums: http://h/S, key: k}",
            "checksums: found 'http://h/S'; allowed: an https:// URL, or a path of the host",
        ),
        (f"{{url: https://h/a, sha256: {SHA}, key: k}}", "key: has no effect without `checksums`"),
        (
            f"{{url: https://h/a, sha256: {SHA}, checksums: S, key: k}}",
            "checksums: one of `sha256` and `checksums` is enough",
        ),
        ("{path: a, url: https://h/a}", ": one of `name`, `suite`, `path` and `url` is required"),
        ("{sha256: " + SHA + "}", ": one of `name`, `suite`, `path` and `url` is required"),
        ("{suite: forky, firmware: uefi}", "firmware: belongs to `path` or `url`"),
        (f"{{name: default, sha256: {SHA}}}", "sha256: belongs to `path` or `url`"),
        ("{path: https://h/a}", "path: is a URL; write `url: https://h/a`"),
        (
            "{path: a, checksums: S, key: https://h/k}",
            "key: must be a file of yours: a key from the server of the image proves nothing",
        ),
        ("{path: a, firmware: efi}", "firmware: found 'efi'; allowed: bios or uefi"),
        ("{path: a, sha265: b}", "sha265: unknown key; did you mean `sha256`?"),
    ],
)
def test_what_is_wrong_with_a_file_or_a_url_is_said(base: str, expected: str) -> None:
    [problem] = problems_of(f"{{mine: {{from: {base}}}}}")
    place = "images.mine.from" if expected.startswith(":") else "images.mine.from."
    assert problem.startswith(f"{place}{expected}")


@pytest.mark.parametrize(
    ("images", "place"),
    [
        ("{mine: {from: ./a, packages: jq}}", "images.mine.packages"),
        ("{mine: {from: {path: a}, with: devel}}", "images.mine.with"),
        (f"{{mine: {{from: 'https://h/a#sha256={SHA}', run: 'true'}}}}", "images.mine.run"),
        ("{base: {from: ./a}, mine: {from: base, files: {/opt/x: ./x}}}", "images.mine.files"),
    ],
)
def test_nothing_can_be_added_to_the_disk_of_others(images: str, place: str) -> None:
    [problem] = problems_of(images)
    assert problem == (
        f"{place}: something can be added to an image only where ai-how has its tree of files. "
        "An image that was imported as a disk has no tree of files."
    )


def test_files_that_an_image_is_from_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "directory").mkdir()
    (tmp_path / "a").touch()
    images = "{mine: {from: {path: ~/gone, checksums: ./directory, signature: ./nope, key: ./a}}}"
    assert problems_of(images, tmp_path) == [
        f"images.mine.from.checksums: {tmp_path}/directory: not a file",
        f"images.mine.from.path: {tmp_path}/home/gone: no such file or directory",
        f"images.mine.from.signature: {tmp_path}/nope: no such file or directory",
    ]
    assert problems_of(f"{{mine: {{from: {{url: https://h/a, sha256: {SHA}}}}}}}", tmp_path) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("./gone.qcow2", "f:5: clusters.hpc.base_image_path: {}/gone.qcow2: no such file"),
        ("./directory", "f:5: clusters.hpc.base_image_path: {}/directory: not a file"),
        (
            "a.qcow2",
            "f:5: clusters.hpc.base_image_path: is the name of an image; the file beside it is `",
        ),
        (
            "https://h/a.qcow2",
            (
                "f:5: clusters.hpc.base_image_path: a URL needs the digest of its file: "
                "`https://h/a.qcow2#sha256=DIGEST`; where its publisher signs checksums: `images: "
            ),
        ),
        (
            "'http://h/a#sha256=" + SHA + "'",
            "f:5: clusters.hpc.base_image_path: found 'http://h/a'; allowed: an https:// URL",
        ),
        (
            "https://h/a#sha256=abc",
            "f:5: clusters.hpc.base_image_path: found 'abc'; allowed: 64 hexadecimal digits",
        ),
        (
            "https://h/a#md5=abc",
            "f:5: clusters.hpc.base_image_path: found 'https://h/a#md5=abc'; allowed: an https://",
        ),
    ],
)
def test_a_wrong_path_or_url_of_the_nodes_is_said_at_its_line(
    tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "a.qcow2").touch()
    [problem] = booting(text, tmp_path)
    assert problem.startswith(expected.format(tmp_path))


def test_a_file_that_nobody_may_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.qcow2").touch(mode=0)
    path = tmp_path / "cluster.yaml"
    path.write_text(f'version: "1.0"{CLUSTER.replace("path: mine", "path: ./a.qcow2")}')
    # Without these capabilities, root is an ordinary owner of its files.
    caps = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    as_user = caps if os.geteuid() == 0 else ()
    words = [*as_user, sys.executable, "-m", "ai_how", "validate", "--offline", path]
    done = run(words, check=False)
    assert done.returncode == 2
    assert f"{path}:5: clusters.hpc.base_image_path: {tmp_path}/a.qcow2: you may not" in done.stderr


def test_a_node_may_boot_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.qcow2").touch()
    cluster = CLUSTER.replace("disk_gb: 5}\n", "disk_gb: 5, base_image_path: ./b.qcow2}\n", 1)
    text = f'version: "1.0"{cluster.replace("path: mine", "path: ./a.qcow2")}'
    _, problems = read_spec_text(text, "f", {}, directory=tmp_path)
    [problem] = map(str, problems)
    assert problem.startswith("f:6: clusters.hpc.controller.base_image_path: ")
