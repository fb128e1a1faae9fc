"""The specification of images: what is added to which image."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from ai_how.spec import fields
from ai_how.spec.hardware import Spec
from ai_how.spec.lists import NameOrSection, OneOrList

Suite = Literal["bookworm", "trixie", "forky"]
SUITES: tuple[str, ...] = get_args(Suite)
PackageSet = Literal["devel", "containers", "modules", "accounting"]


class ImageBaseSpec(Spec):
    """What an image is made from: one of both fields; the file may give only a name."""

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


class ImageSpec(Spec):
    from_: Annotated[
        Annotated[ImageBaseSpec, NameOrSection()],
        Field(alias="from", description="The image that this one is made from."),
    ] = Field(default=ImageBaseSpec.model_construct(name="default"), alias="from")
    with_: Annotated[
        Annotated[tuple[PackageSet, ...], OneOrList()],
        Field(
            alias="with",
            description="Sets of packages: devel, containers, modules, accounting.",
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

    @property
    def is_changed(self) -> bool:
        """Whether anything is added to the image that it is made from."""
        return bool(self.with_ or self.packages or self.files or self.run)


def script_in(command: str) -> str | None:
    """The script of the host that a command of `run` begins with, if it does."""
    word = command.split(maxsplit=1)[0]
    return word if word.startswith(("./", "../")) else None
