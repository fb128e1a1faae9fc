"""The verbs of `ai-how image` that say what is in an image."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ai_how import console
from ai_how.cli.completion import complete_image
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.errors import ImageError

if TYPE_CHECKING:
    from ai_how.images.manifest import Image
    from ai_how.images.packages import Package

app = new_app()

Wanted = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE",
        help="A name, or the start of a digest.",
        autocompletion=complete_image,
    ),
]


@app.command(short_help="Show how an image was made, and its packages.")
def show(
    ctx: typer.Context,
    wanted: Wanted,
    sbom: Annotated[
        bool,
        typer.Option("--sbom", help="Print a software bill of materials instead (CycloneDX JSON)."),
    ] = False,
) -> None:
    """Show how an image was made, its packages, and the clusters that use it."""
    from ai_how.images.packages import packages_of
    from ai_how.state.every_cluster import read_every_state, users_of_image

    context = context_of(ctx)
    image = _get(context, wanted)
    if sbom:
        from ai_how.images.sbom import render_sbom

        console.show_text(render_sbom(image))
        return
    packages = packages_of(image)
    users = list(users_of_image(read_every_state(context.roots), image.digest))
    used_bytes = sum(path.stat().st_blocks * 512 for path in image.directory.iterdir())
    if context.is_json:
        manifest = image.manifest
        console.show_json(
            {
                "digest": image.digest,
                "name": image.name,
                "created_at": manifest.created_at,
                "suite": manifest.suite,
                "slurm_version": manifest.slurm_version,
                "kubernetes_version": manifest.kubernetes_version,
                "virtual_size_bytes": manifest.virtual_size_bytes,
                "used_bytes": used_bytes,
                "used_by": users,
                "recipe": manifest.recipe,
                "packages": packages,
            }
        )
        return
    for line in _lines_of(image, used_bytes, users):
        console.show_line(line)
    if packages is None:
        console.show_line("its packages are not known: ai-how did not build it, or long ago")
    else:
        console.show_table(("PACKAGE", "VERSION"), [(one.name, one.version) for one in packages])


@app.command()
def diff(
    ctx: typer.Context,
    before: Annotated[str, typer.Argument(metavar="IMAGE", help="The image to compare with.")],
    after: Annotated[str, typer.Argument(metavar="OTHER", help="The image that differs.")],
) -> None:
    """Show the packages that two images do not share.

    Added ones have a +, removed ones a -, and those of another version both versions.
    """
    from ai_how.images.packages import compare

    context = context_of(ctx)
    found = compare(*(_require_packages(_get(context, one)) for one in (before, after)))
    if context.is_json:
        console.show_json(found)
        return
    for package in found.added:
        console.show_line(f"+ {package.name} {package.version}", console.Style.GOOD)
    for package in found.removed:
        console.show_line(f"- {package.name} {package.version}", console.Style.BAD)
    for change in found.changed:
        console.show_line(f"  {change.name} {change.before} -> {change.after}")
    if not (found.added or found.removed or found.changed):
        console.show_line("both have the same packages")


@app.command("export", short_help="Write an image to a file, for `image import`.")
def export_to(
    ctx: typer.Context,
    wanted: Wanted,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file.")],
) -> None:
    """Write an image to a file, which `image import` takes in on another machine."""
    from ai_how.images.exchange import export_image

    context = context_of(ctx)
    image = _get(context, wanted)
    with console.ProgressBar("exporting", is_silent=context.is_json) as bar:
        export_image(image, file.absolute(), on_progress=bar.watch)
    if context.is_json:
        console.show_json({"digest": image.digest, "name": image.name, "file": file.absolute()})
    else:
        console.show_line(f"{image.name} {image.digest[:12]} is in {file}")


def _get(context: Context, wanted: str) -> "Image":
    from ai_how.images.store import ImageStore

    return ImageStore(context.roots.images).get(wanted)


def _require_packages(image: "Image") -> "tuple[Package, ...]":
    from ai_how.images.packages import packages_of

    if (packages := packages_of(image)) is not None:
        return packages
    raise ImageError(
        f"the packages of {image.name} {image.digest[:12]} are not known",
        details="It was imported, or built by an earlier ai-how.",
        hint="ai-how image build  # for the built-in image of now",
    )


def _lines_of(image: "Image", used_bytes: int, users: list[str]) -> list[str]:
    manifest, recipe = image.manifest, image.manifest.recipe
    created = manifest.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
    facts: list[tuple[str, Any]] = [
        ("digest", image.digest),
        ("created", created),
        ("suite", manifest.suite),
        ("SLURM", manifest.slurm_version),
        ("Kubernetes", manifest.kubernetes_version),
        ("disk of a node", f"{manifest.virtual_size_bytes / 2**30:.1f} GiB at least"),
        ("in the store", f"{used_bytes / 2**20:.0f} MiB"),
        ("used by", ", ".join(users)),
        ("boots by", _boots_by(image)),
        ("system", recipe.get("system")),
        ("prepared from", _prepared_from(recipe)),
        ("imported from", None if "prepared_from" in recipe else recipe.get("source")),
        ("made from", str(recipe.get("base", ""))[:12]),
        ("with", ", ".join(recipe.get("with", ()))),
        ("packages", ", ".join(recipe.get("packages", ()))),
        *(("file", target) for target in recipe.get("files", ()) if "base" in recipe),
        *(("run", step["command"]) for step in recipe.get("run", ())),
    ]
    return [image.name, *(f"  {what}: {fact}" for what, fact in facts if fact)]


def _boots_by(image: "Image") -> str | None:
    """How it boots, of one with a boot loader of its own."""
    if image.kernel:
        return None
    return image.manifest.firmware or ("bios" if "prepared_from" in image.manifest.recipe else None)


def _prepared_from(recipe: dict[str, Any]) -> str | None:
    digest = recipe.get("prepared_from")
    return f"{recipe.get('source')} {digest[:12]}" if digest else None
