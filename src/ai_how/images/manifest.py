"""An image is a read-only directory with a manifest of what it must contain."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from ai_how.errors import ImageError
from ai_how.spec.images import Firmware

DISK = "disk.qcow2"
KERNEL = "vmlinuz"
INITRD = "initrd"
TREE = "tree.tar.zst"
PACKAGES = "packages.tsv"
MANIFEST = "manifest.json"

LONGEST_NAME = 80
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,64}$")]
ImageName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME)
]


class _Step(BaseModel):
    command: str
    sha256: str | None = None


class _Recipe(BaseModel):
    """The parts of a recipe that ai-how reads, and their types; any of them may be missing."""

    source: str = ""
    base: str = ""
    with_: Annotated[list[str], Field(alias="with")] = []
    packages: list[str] = []
    all_packages: list[str] = []
    documented: list[str] = []
    files: dict[str, str] = {}
    scripts: dict[str, str] = {}
    set_scripts: dict[str, str] = {}
    run: list[_Step] = []
    prepared_from: str = ""
    system: str = ""
    os: str = ""
    has_pmix: bool | None = None


class Manifest(BaseModel):
    """The metadata of an image.

    `digest` is the digest of its source (a recipe, or the imported file) and the name of its
    directory. `identity` is how a guest of this image gets its identity.

    An image that was made again with newer packages has a digest of its own; `asked_digest` is that
    of its recipe. `kubernetes_version` is that of its bundle, or of the image that it is made from.
    `suite`, `slurm_version`, the tree of files and the list of packages are those of
    images that we build; earlier versions of ai-how did not write them. One that was exported on
    another machine is marked, and its `created_at` is the time of the import. `firmware` is what
    the user said of a disk; None means that it is to be found by looking.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    digest: Digest
    name: ImageName
    created_at: AwareDatetime
    virtual_size_bytes: Annotated[int, Field(gt=0)]
    disk_sha256: Sha256
    kernel_sha256: Sha256 | None = None
    initrd_sha256: Sha256 | None = None
    cmdline: str = ""
    identity: Literal["agent", "nocloud"]
    recipe: dict[str, Any] = {}
    asked_digest: Digest | None = None
    suite: str | None = None
    slurm_version: str | None = None
    kubernetes_version: str | None = None
    tree_sha256: Sha256 | None = None
    packages_sha256: Sha256 | None = None
    is_imported: bool = False
    firmware: Firmware | None = None

    @field_validator("recipe")
    @classmethod
    def _has_known_types(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        _Recipe.model_validate(recipe)
        return recipe

    @model_validator(mode="after")
    def _needs_a_kernel(self) -> Self:
        if self.kernel_sha256 is None and (self.initrd_sha256 or self.cmdline):
            raise ValueError("an initrd or a command line without a kernel")
        return self

    @property
    def text(self) -> str:
        """The file; without the fields that an earlier ai-how does not know, where it can."""
        newer = ("is_imported", "firmware", "kubernetes_version")
        unset = {name for name in newer if not getattr(self, name)}
        return self.model_dump_json(indent=2, exclude=unset) + "\n"

    @property
    def sha256_by_file(self) -> dict[str, str]:
        """The files of the image by name, and the expected SHA-256 of each."""
        wanted = {
            DISK: self.disk_sha256,
            KERNEL: self.kernel_sha256,
            INITRD: self.initrd_sha256,
            TREE: self.tree_sha256,
            PACKAGES: self.packages_sha256,
        }
        return {name: sha256 for name, sha256 in wanted.items() if sha256 is not None}


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the store, and the paths of its files."""

    directory: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def disk(self) -> Path:
        return self.directory / DISK

    def made_by(self, asked_digest: str) -> bool:
        """Whether the recipe of this digest made it, at its first time or with newer packages."""
        return asked_digest in (self.digest, self.manifest.asked_digest)

    @property
    def tree(self) -> Path | None:
        """All its files, as a tar that is packed with zstd: other images are made from it."""
        return self.directory / TREE if self.manifest.tree_sha256 else None

    @property
    def kernel(self) -> Path | None:
        return self.directory / KERNEL if self.manifest.kernel_sha256 else None

    @property
    def initrd(self) -> Path | None:
        return self.directory / INITRD if self.manifest.initrd_sha256 else None


@dataclass(frozen=True, slots=True)
class BrokenImage:
    """A directory of the store that is not a bootable image, and the reason."""

    directory: Path
    reason: str

    @property
    def digest(self) -> str:
        return self.directory.name


def read_manifest(path: Path) -> Manifest:
    """Raises ImageError with every problem in the manifest at `path`."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = [f"{_place(p['loc'])}: {p['msg']}" for p in error.errors(include_url=False)]
        raise ImageError(f"{path} is not a manifest", details="\n".join(problems)) from error


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc)) or "manifest"
