"""A software bill of materials of an image, as CycloneDX: all its packages with their versions."""

from typing import TYPE_CHECKING

from ai_how.errors import HostError, ImageError
from ai_how.extras import install_command
from ai_how.images.manifest import Image
from ai_how.images.packages import packages_of

if TYPE_CHECKING:
    from packageurl import PackageURL

    from ai_how.images.packages import Package


def render_sbom(image: Image) -> str:
    """The bill in CycloneDX's JSON, version 1.6.

    Raises ImageError where the packages are not known, and HostError without the library that
    writes it.
    """
    packages = packages_of(image)
    if packages is None:
        raise ImageError(
            f"the packages of {image.name} {image.digest[:12]} are not known",
            details="It was imported, or built by an earlier ai-how.",
            hint="ai-how image build  # for the built-in image of now",
        )
    try:
        # An extra of ours, which nearly no run needs.
        from cyclonedx.model import HashAlgorithm, HashType  # noqa: PLC0415
        from cyclonedx.model.bom import Bom  # noqa: PLC0415
        from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415
        from cyclonedx.output.json import JsonV1Dot6  # noqa: PLC0415
    except ImportError as error:
        raise HostError(
            "cyclonedx-python-lib is not installed, which writes the bill",
            hint=install_command("sbom"),
        ) from error
    bom = Bom()
    bom.metadata.timestamp = image.manifest.created_at
    root = Component(
        name=image.name,
        version=image.digest,
        type=ComponentType.OPERATING_SYSTEM,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image.manifest.disk_sha256)],
    )
    bom.metadata.component = root
    parts = [
        Component(
            name=one.name,
            version=one.version,
            type=ComponentType.LIBRARY,
            purl=_purl(one, image),
            bom_ref=f"{one.name}:{one.architecture}",
        )
        for one in packages
    ]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(root, parts)
    return str(JsonV1Dot6(bom).output_as_string(indent=2))


def _purl(package: "Package", image: Image) -> "PackageURL":
    from packageurl import PackageURL  # noqa: PLC0415  it comes with the library

    suite, distribution = image.manifest.suite, image.manifest.recipe.get("os") or "debian"
    qualifiers = {"arch": package.architecture} | ({"distro": suite} if suite else {})
    kind = "rpm" if package.source.endswith(".src.rpm") else "deb"
    return PackageURL(kind, distribution, package.name, package.version, qualifiers)
