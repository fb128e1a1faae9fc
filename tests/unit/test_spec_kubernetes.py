"""Kubernetes in the cluster file: where it comes from, and the images that its nodes boot."""

from pathlib import Path

import pytest

from ai_how.spec.image_checks import check_image_files, names_files
from ai_how.spec.kubernetes import DEFAULT_VERSION
from ai_how.spec.models import ClusterFile
from ai_how.spec.problems import Problem, Severity
from ai_how.spec.reader import read_spec_text

HEAD = 'version: "1.0"\n'
CLOUD = """\
clusters:
  cloud:
    name: cloud
    control_plane: {cpu_cores: 1, memory_gb: 1, disk_gb: 5}
    worker_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 5}
"""
CONFIG = "clusters.cloud.kubernetes_config"


def read(
    images: str = "{}", lines: str = "", directory: Path | None = None
) -> tuple[ClusterFile | None, list[Problem]]:
    text = f"{HEAD}images: {images}\n{CLOUD}{lines}"
    spec, problems = read_spec_text(text, "cluster.yaml", {}, directory=directory)
    return spec, [one for one in problems if one.path != "clusters.cloud"]


def problems_of(images: str, lines: str, directory: Path | None = None) -> list[str]:
    return [f"{one.line}: {one.path}: {one.text}" for one in read(images, lines, directory)[1]]


def config(text: str) -> str:
    return f"    kubernetes_config: {text}\n"


def boots(name: str) -> str:
    return f"    base_image_path: {name}\n"


def test_an_image_has_the_kubernetes_of_a_version_or_a_bundle() -> None:
    for section in ("{version: 1.34.2}", "{bundle: ./b.tar.gz}", "{bundle: /b, version: 1.20.2}"):
        spec, problems = read(f"{{mine: {{kubernetes: {section}}}}}", boots("mine"))
        assert problems == []
        assert spec is not None
        assert spec.images["mine"].is_changed


def test_the_image_of_a_cluster_is_made_from_its_configuration() -> None:
    spec, problems = read(lines=config("{bundle: ./b, version: 1.20.2}"))
    assert problems == []
    assert spec is not None
    assert spec.images == {}
    source = spec.all_images["kubernetes"].kubernetes
    assert source is not None
    assert (source.bundle, source.version) == ("./b", "1.20.2")
    assert names_files(spec)
    spec, problems = read(lines=config("{bundle: ./b}"))
    assert spec is not None
    source = spec.all_images["kubernetes"].kubernetes
    assert source is not None
    assert (source.bundle, source.version) == ("./b", None)
    spec, problems = read()
    assert problems == []
    assert spec is not None
    source = spec.all_images["kubernetes"].kubernetes
    assert source is not None
    assert (source.bundle, source.version) == (None, DEFAULT_VERSION)
    assert not names_files(spec)


def test_an_image_that_the_cluster_boots_by_default_is_booted() -> None:
    assert problems_of("{kubernetes: {kubernetes: {version: 1.34.2}}}", "") == []


@pytest.mark.parametrize(
    ("images", "lines", "expected"),
    [
        (
            "{mine: {kubernetes: {}}}",
            boots("mine"),
            "2: images.mine.kubernetes: one of `version` and `bundle` is required",
        ),
        (
            "{mine: {kubernetes: {version: 1.34}}}",
            boots("mine"),
            (
                "2: images.mine.kubernetes.version: found '1.34'; allowed: three numbers such as "
                "1.34.2, or a pre-release such as 1.35.0-rc.1"
            ),
        ),
        (
            "{mine: {kubernetes: {bundle: 'http://example.org/b'}}}",
            boots("mine"),
            (
                "2: images.mine.kubernetes.bundle: found 'http://example.org/b'; allowed: an "
                "https:// URL, or a path of the host"
            ),
        ),
        (
            "{mine: {kubernetes: {bundle: 'https://example.org/b', version: 1.34.2}}}",
            boots("mine"),
            "2: images.mine.kubernetes.bundle: a URL needs the `sha256` of its file",
        ),
        (
            "{mine: {kubernetes: {version: 1.34.2, digest: x}}}",
            boots("mine"),
            "2: images.mine.kubernetes.digest: unknown key; known here: bundle, sha256, version",
        ),
        (
            "{mine: {kubernetes: 1.34.2}}",
            boots("mine"),
            "2: images.mine.kubernetes: found '1.34.2'; expected a section of keys",
        ),
        (
            "{mine: {from: b, kubernetes: {version: 1.34.2}}, b: {kubernetes: {version: 1.34.2}}}",
            boots("mine"),
            "2: images.mine.kubernetes: b, which it is made from, has Kubernetes already",
        ),
        (
            "{mine: {from: {path: /disk.qcow2}, kubernetes: {version: 1.34.2}}}",
            boots("mine"),
            "2: images.mine.kubernetes: something can be added to an image only where",
        ),
        (
            "{mine: {from: {suite: forky}, kubernetes: {version: 1.20.2}}}",
            boots("mine"),
            "2: images.mine.kubernetes.version: Kubernetes before 1.23 does not speak with",
        ),
        (
            "{mine: {packages: jq}}",
            boots("mine"),
            "8: clusters.cloud.base_image_path: mine has no Kubernetes: leave the field out",
        ),
        ("{}", boots("default"), "8: clusters.cloud.base_image_path: default has no Kubernetes"),
        ("{}", config("{distribution: k3s}"), f"8: {CONFIG}.distribution: k3s cannot be started"),
        (
            "{}",
            config("{distribution: rke2}"),
            f"8: {CONFIG}.distribution: found 'rke2'; allowed: upstream or k3s",
        ),
        ("{}", config(f"{{sha256: {'a' * 64}}}"), f"8: {CONFIG}.sha256: belongs to `bundle`"),
        (
            "{}",
            config("{bundle: 'https://example.org/b'}"),
            f"8: {CONFIG}.bundle: a URL needs the `sha256`",
        ),
        (
            "{kubernetes: {kubernetes: {version: 1.34.2}}}",
            config("{version: 1.34.1}"),
            f"8: {CONFIG}.version: has no effect: `images.kubernetes` decides it",
        ),
        (
            "{mine: {kubernetes: {version: 1.34.2}}}",
            boots("mine") + config("{bundle: ./b}"),
            f"9: {CONFIG}.bundle: has no effect: the images that the nodes boot decide it",
        ),
    ],
)
def test_each_refusal_has_its_line(images: str, lines: str, expected: str) -> None:
    spec, problems = read(images, lines)
    assert spec is None
    told = [f"{one.line}: {one.path}: {one.text}" for one in problems]
    assert [one for one in told if one.startswith(expected)], told
    assert len(told) == 1, told


@pytest.mark.parametrize(
    ("images", "lines", "path"),
    [
        (
            "{kubernetes: {kubernetes: {version: 1.36.0}}}",
            "",
            "images.kubernetes.kubernetes.version",
        ),
        ("{}", config("{version: 1.37.0-rc.1}"), f"{CONFIG}.version"),
    ],
)
def test_what_the_containerd_of_a_suite_may_not_do_is_a_warning(
    images: str, lines: str, path: str
) -> None:
    spec, [warning] = read(images, lines)
    assert spec is not None
    assert (warning.path, warning.severity) == (path, Severity.WARNING)
    assert "needs containerd 2" in warning.text
    assert (
        problems_of("{kubernetes: {from: {suite: forky}, kubernetes: {version: 1.36.0}}}", "") == []
    )


def test_a_worker_alone_may_boot_another_image() -> None:
    worker = "{cpu_cores: 1, memory_gb: 1, disk_gb: 5, base_image_path: mine}"
    text = (
        f"{HEAD}images: {{mine: {{from: kubernetes, packages: jq}}}}\n"
        + CLOUD.replace("{count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 5}", worker)
        + config("{version: 1.34.2}")
    )
    spec, problems = read_spec_text(text, "cluster.yaml", {})
    assert spec is not None, problems
    assert [one.path for one in problems] in ([], ["clusters.cloud"])


def test_bundles_are_looked_at_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert problems_of("{mine: {kubernetes: {bundle: ./there}}}", boots("mine"), tmp_path) == []
    assert problems_of("{mine: {kubernetes: {bundle: ./gone}}}", boots("mine"), tmp_path) == [
        f"2: images.mine.kubernetes.bundle: {tmp_path}/gone: no such file or directory"
    ]


@pytest.mark.parametrize(
    ("section", "found"),
    [
        ("{bundle: ./there}", None),
        ("{bundle: ./gone}", ("bundle", "/gone: no such file or directory")),
        (f"{{bundle: ./there, sha256: {'a' * 64}}}", ("sha256", "a directory has no SHA-256")),
    ],
)
def test_the_bundle_of_a_cluster_is_looked_at_beside_the_file(
    section: str, found: tuple[str, str] | None, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    spec, _ = read(lines=config(section))
    assert spec is not None
    told = [(one.about[0], one.text) for one in check_image_files(spec, tmp_path)]
    assert len(told) == (found is not None)
    for (place, text), wanted in zip(told, [found], strict=False):
        assert wanted is not None
        assert place == ("clusters", "cloud", "kubernetes_config", wanted[0])
        assert text.endswith(wanted[1])


def test_dns_of_a_bundle_needs_a_bundle() -> None:
    told = [one.partition(": ")[2] for one in problems_of("{}", config("{dns: bundle}"))]
    assert told == [
        f"{CONFIG}.dns: what dl.k8s.io publishes brings no DNS: name a `bundle` with manifests"
    ]
    for text in ("{dns: bundle, bundle: ./b}", "{dns: none}", "{dns: own}"):
        assert problems_of("{}", config(text)) == []
    mine = "{mine: {kubernetes: {bundle: ./b}}}"
    assert problems_of(mine, boots("mine") + config("{dns: bundle}")) == []
    assert any("dns" in one for one in problems_of("{}", config("{dns: coredns}")))
