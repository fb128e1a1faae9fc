"""The specification of images: where one comes from, and what is added to it."""

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from ai_how.spec import fields
from ai_how.spec.hardware import Spec
from ai_how.spec.kubernetes import DEFAULT_VERSION, KubernetesSourceSpec
from ai_how.spec.lists import OneOrList, TextOrSection

Suite = Literal["bookworm", "trixie", "forky"]
SUITES: tuple[str, ...] = get_args(Suite)
PackageSet = Literal[
    "devel",
    "containers",
    "modules",
    "accounting",
    "node-exporter",
    "nvidia",
    "simulated-gpus",
]
Firmware = Literal["bios", "uefi"]

# What `path` and `url` may have beside them.
OF_PLACES = ("sha256", "sha512", "checksums", "signature", "key", "firmware")
NO_TREE = "An image that was imported as a disk has no tree of files."
_WITH_DIGEST = re.compile(r"(?P<url>[^#]*)#(?P<kind>sha256|sha512)=(?P<digest>[^#]*)")


def is_url(text: str) -> bool:
    return "://" in text


def is_place(text: str) -> bool:
    """Whether a `base_image_path` is a path or a URL, and not a name."""
    return "/" in text


def section_of(text: str) -> dict[str, str]:
    """The long form of a `base_image_path` or of a short `from`."""
    if not is_place(text):
        return {"name": text}
    if not is_url(text):
        return {"path": text}
    found = _WITH_DIGEST.fullmatch(text)
    return {"url": found["url"], found["kind"]: found["digest"]} if found else {"url": text}


def path_in(directory: Path, text: str) -> Path:
    """A path of the host that the file names: relative to the file, or to a home (`~`)."""
    return directory / Path(text).expanduser() if text.startswith("~") else directory / text


class ImageBaseSpec(Spec):
    """What an image is made from: one of the first four fields; the file may give only a text."""

    name: Annotated[
        fields.ImageName | None,
        Field(
            description="default, another image of this file, or one of the store.",
            examples=["default"],
        ),
    ] = None
    suite: Annotated[
        Suite | None,
        Field(
            description="The built-in image with the packages of this suite of Debian.",
            examples=["forky"],
        ),
    ] = None
    path: Annotated[
        fields.HostFile | None,
        Field(
            description="A disk (qcow2 or raw) or an exported image, relative to this file.",
            examples=["./debian-13.qcow2"],
        ),
    ] = None
    url: Annotated[
        fields.HttpsUrl | None,
        Field(
            description="The same at an https address; it needs sha256, sha512, or checksums with "
            "key.",
            examples=["https://example.org/debian-13.qcow2"],
        ),
    ] = None
    sha256: Annotated[
        fields.Sha256 | None,
        Field(description="The SHA-256 of the file that path or url names.", examples=["0" * 64]),
    ] = None
    sha512: Annotated[
        fields.Sha512 | None,
        Field(
            description="The SHA-512 of that file, which some publishers give instead.",
            examples=["0" * 128],
        ),
    ] = None
    checksums: Annotated[
        fields.FileOrUrl | None,
        Field(
            description="The publisher's file of checksums (SHA256SUMS, SHA512SUMS, CHECKSUM): a "
            "URL or a path.",
            examples=["https://example.org/SHA256SUMS"],
        ),
    ] = None
    signature: Annotated[
        fields.FileOrUrl | None,
        Field(
            description="The signature of the checksums, if it is a file of its own.",
            examples=["https://example.org/SHA256SUMS.gpg"],
        ),
    ] = None
    key: Annotated[
        fields.HostFile | None,
        Field(
            description="A file with the public key that must have signed the checksums.",
            examples=["./publisher.asc"],
        ),
    ] = None
    firmware: Annotated[
        Firmware | None,
        Field(
            description="How the disk boots: bios or uefi. Default: found by looking at it.",
            examples=["uefi"],
        ),
    ] = None

    @property
    def is_place(self) -> bool:
        """Whether it is a file or a URL, and not an image that has a name."""
        return self.path is not None or self.url is not None


def base_of(text: str) -> ImageBaseSpec:
    """A path or a URL of the file, in the long form. Raises ValidationError for a wrong URL."""
    return ImageBaseSpec.model_validate(section_of(text))


class ImageSpec(Spec):
    from_: Annotated[
        Annotated[ImageBaseSpec, TextOrSection(section_of)],
        Field(alias="from", description="The image that this one is made from."),
    ] = Field(default=ImageBaseSpec.model_construct(name="default"), alias="from")
    with_: Annotated[
        Annotated[tuple[PackageSet, ...], OneOrList()],
        Field(
            alias="with",
            description="Sets of packages: devel, containers, modules, accounting, "
            "node-exporter, nvidia, simulated-gpus.",
            examples=[["devel"]],
        ),
    ] = Field(default=(), alias="with")
    packages: Annotated[
        Annotated[tuple[fields.PackageName, ...], OneOrList()],
        Field(
            description="Debian packages, without those that they only recommend.",
            examples=[["python3-numpy"]],
        ),
    ] = ()
    files: Annotated[
        dict[fields.ImagePath, fields.HostFile],
        Field(
            description="Files and directories: the path in the image, and what is copied there. "
            "A path of the host is relative to this file.",
            examples=[{"/etc/motd": "./motd"}],
        ),
    ] = Field(default_factory=dict)
    run: Annotated[
        Annotated[tuple[fields.BuildCommand, ...], OneOrList()],
        Field(
            description="Commands that are run in the image as root, in their order. One that "
            "begins with ./ or ../ is a script beside this file.",
            examples=[["./install.sh", "systemctl enable my.service"]],
        ),
    ] = ()

    kubernetes: Annotated[
        KubernetesSourceSpec | None,
        Field(
            description="Kubernetes, and what its nodes need: containerd, etcd, plugins for "
            "networks."
        ),
    ] = None

    @property
    def is_changed(self) -> bool:
        """Whether anything is added to the image that it is made from."""
        return bool(self.with_ or self.packages or self.files or self.run or self.kubernetes)


def image_of(source: KubernetesSourceSpec) -> ImageSpec:
    """The built-in image with the Kubernetes of a cluster's configuration."""
    version = source.version if source.version or source.bundle else DEFAULT_VERSION
    wanted = KubernetesSourceSpec(version=version, bundle=source.bundle, sha256=source.sha256)
    return ImageSpec(kubernetes=wanted)


def script_in(command: str) -> str | None:
    """The script of the host that a command of `run` begins with, if it does."""
    word = command.split(maxsplit=1)[0]
    return word if word.startswith(("./", "../")) else None
