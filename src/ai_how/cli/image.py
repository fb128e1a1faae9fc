"""`ai-how image`: the images of the nodes."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ai_how import console
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.cli.image_content import Wanted
from ai_how.cli.image_content import app as of_content
from ai_how.cli.image_source import (
    Checksums,
    Digest,
    Firmware,
    Key,
    Signature,
    source_of_options,
)
from ai_how.cli.kinds import kinds_in
from ai_how.cli.saved_vms import show_cold, size_of
from ai_how.errors import ImageError, StateError

if TYPE_CHECKING:
    from ai_how.images.catalogue import ImageCatalogue
    from ai_how.images.manifest import BrokenImage, Image
    from ai_how.images.store import ImageStore
    from ai_how.spec.models import ClusterFile
    from ai_how.state.models import ClusterState
    from ai_how.state.paths import StoragePaths

app = new_app("Build and manage the images of the nodes.")
app.add_typer(of_content)

File = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="The cluster file that describes the images."),
]


@app.command(short_help="Build images from Debian packages.")
def build(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="default, suite:NAME, or an image of the cluster file. Default: all that the file "
            "describes and its nodes boot.",
        ),
    ] = None,
    file: File = None,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="Build again, with the newest packages, what is there already."
        ),
    ] = False,
    allow_expired: Annotated[
        bool,
        typer.Option(
            "--allow-expired", help="Accept old lists of packages, such as those of a snapshot."
        ),
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror", metavar="URL", help="A Debian mirror. Default: chosen by mmdebstrap."
        ),
    ] = None,
) -> None:
    """Build images from Debian packages, if they do not exist.

    Without a cluster file it builds the default image.
    """
    from ai_how.clusters.images import build_images
    from ai_how.clusters.preflight.node_images import catalogue_of
    from ai_how.images.build import BuildOptions

    context = context_of(ctx)
    spec, _ = context.load_spec(file)
    options = BuildOptions(mirror=mirror, refresh=refresh, allow_expired=allow_expired)
    names = (name,) if name else _images_in(spec, catalogue_of(context.roots, spec))
    what = "building the image" if len(names) == 1 else f"building {len(names)} images"
    with console.ProgressBar(what, is_silent=context.is_json) as bar:
        images = build_images(
            kinds_in(spec)[0].load(),
            spec,
            names,
            context.roots,
            lambda: context.place_of(spec),
            watch=bar.watch,
            warn=console.show_warning,
            options=options,
        )
    _show_built(images, context, is_one=name is not None or len(names) == 1)


def _show_built(images: "tuple[Image, ...]", context: Context, *, is_one: bool) -> None:
    if context.is_json:
        console.show_json(_data(images[0]) if is_one else [*map(_data, images)])
        return
    for image in images:
        _show_image(image, context)


@app.command(short_help="Save booted VMs, from which new nodes are restored.")
def warm(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The cluster file.")] = None,
) -> None:
    """Boot and save a VM for each type of node, from which new nodes are restored.

    A VM is saved before it gets an identity. `hpc start` does the same in the background, after a
    start that found no saved VM.
    """
    from ai_how.clusters.save_machines import warm_up

    context = context_of(ctx)
    spec, _ = context.load_spec(file)
    place = context.place_of(spec)
    kinds = [one.load() for one in kinds_in(spec)]
    with console.ProgressBar("saving a VM", is_silent=context.is_json) as bar:
        warmed = warm_up(kinds, spec, context.roots, place, watch=bar.watch)
    if context.is_json:
        console.show_json(warmed)
        return
    for machine in (*warmed.saved, *warmed.there):
        size = size_of(machine.manifest)
        word = "saved" if machine in warmed.saved else "there already"
        console.show_line(f"{size}: {word}, {machine.used_bytes / 2**20:.0f} MiB on disk")
    show_cold(warmed.cold)
    for machine in warmed.removed:
        console.show_line(f"removed a saved VM of {machine.manifest.host}")


@app.command("list", short_help="List all images, and the clusters that use them.")
def list_images(ctx: typer.Context) -> None:
    """List all images, including broken ones, and the clusters that use them."""
    from ai_how.images.manifest import BrokenImage
    from ai_how.state.every_cluster import users_of_image

    context = context_of(ctx)
    states = _states(context)
    images = [(image, users_of_image(states, image.digest)) for image in _store(context).list()]
    if context.is_json:
        console.show_json([_data(image) | {"used_by": list(users)} for image, users in images])
        return
    _warn_of_damage(states)
    if not images:
        console.show_line("no images yet; to build the default image: ai-how image build")
        return
    has_kubernetes = any(
        not isinstance(one, BrokenImage) and one.manifest.kubernetes_version for one, _ in images
    )
    software = ("SLURM", "KUBERNETES") if has_kubernetes else ("SLURM",)
    console.show_table(
        ("NAME", "DIGEST", "CREATED", "SIZE", "SUITE", *software, "USED BY"),
        [
            (console.Cell("broken", console.Style.BAD), one.digest[:12], None, one.reason)
            if isinstance(one, BrokenImage)
            else _row(one, list(users), has_kubernetes=has_kubernetes)
            for one, users in images
        ],
    )


@app.command("import", short_help="Import an exported image, or a disk with a boot loader.")
def import_image(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="PATH|URL", help="An exported image, or a qcow2 or raw disk.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Default: the file name.")
    ] = None,
    digest: Digest = None,
    checksums: Checksums = None,
    signature: Signature = None,
    key: Key = None,
    firmware: Firmware = None,
) -> None:
    """Import an exported image, or a disk that boots with firmware and its own boot loader.

    A URL needs --sha256 or --sha512, or --checksums with --key.
    """
    from ai_how.images.sources import import_source

    context = context_of(ctx)
    asked = source_of_options(
        source,
        digest=digest,
        checksums=checksums,
        signature=signature,
        key=key,
        firmware=firmware,
    )
    with console.ProgressBar("importing", is_silent=context.is_json) as bar:
        image = import_source(_store(context), asked, bar.watch, name=name)
    _show_image(image, context)
    if image.manifest.is_imported and not context.is_json:
        from ai_how.images.recipe import asked_name

        name = asked_name(image.manifest.asked_digest or image.digest) or image.name
        console.show_line(f"it is used for {name} unless one is built here:")
        console.show_line(f"  ai-how image build {shlex.quote(name)} --refresh")


@app.command(short_help="Check all bytes of images, and their disks.")
def verify(
    ctx: typer.Context,
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]…", help="Default: all images.")
    ] = None,
) -> None:
    """Check all bytes of images against their manifests, and their disks with qemu-img."""
    context = context_of(ctx)
    store = _store(context)
    images = [store.get(one) for one in wanted] if wanted else store.list()
    results = [(image, _find_damage(store, image)) for image in images]
    if context.is_json:
        console.show_json(
            [_data(image) | {"damage": damage and damage.brief} for image, damage in results]
        )
    else:
        _show_results(results)
    if any(damage for _, damage in results):
        raise typer.Exit(ImageError.exit_code)


@app.command()
def rm(ctx: typer.Context, wanted: Wanted) -> None:
    """Remove an image, unless a cluster uses it."""
    from ai_how.state.every_cluster import users_of_image
    from ai_how.vm_management.saved_machines.store import SavedMachines

    context = context_of(ctx)
    store = _store(context)
    image = _get_even_broken(store, wanted)
    states = _states(context)
    for state in states.values():
        if isinstance(state, StateError):
            raise state  # whether that cluster uses the image is not known
    store.remove(image, used_by=users_of_image(states, image.digest))
    for storage in _storages(context):
        SavedMachines(storage).remove_of_image(image.digest)
    if context.is_json:
        console.show_json({"removed": _data(image)})
    else:
        console.show_line(f"removed {image.digest[:12]}")


def _images_in(spec: "ClusterFile", catalogue: "ImageCatalogue") -> tuple[str, ...]:
    """The images of a file that can be built: those that its nodes boot, and all it describes."""
    from ai_how.images.recipe import DEFAULT

    kinds = [one.load() for one in kinds_in(spec)]
    nodes = (node for kind in kinds for node in kind.nodes_of(kind.section_of(spec)))
    booted = [node.base_image for node in nodes]
    names = [name or DEFAULT for name in booted if catalogue.is_ours(name)]
    return tuple(dict.fromkeys([*names, *spec.all_images])) or (DEFAULT,)


def _store(context: Context) -> "ImageStore":
    from ai_how.images.store import ImageStore

    return ImageStore(context.roots.images)


def _storages(context: Context) -> "list[StoragePaths]":
    """The storages that may contain VMs saved from an image."""
    from ai_how.host.place import system_storages

    return [context.roots.embedded_storage, *system_storages()]


def _states(context: Context) -> "dict[str, ClusterState | StateError]":
    from ai_how.state.every_cluster import read_every_state

    return read_every_state(context.roots)


def _get_even_broken(store: "ImageStore", wanted: str) -> "Image | BrokenImage":
    """The image. A broken image needs at least twelve characters of its digest."""
    for image in store.list():
        if len(wanted) >= 12 and image.digest.startswith(wanted):  # noqa: PLR2004
            return image
    return store.get(wanted)


def _find_damage(store: "ImageStore", image: "Image | BrokenImage") -> ImageError | None:
    from ai_how.images.manifest import BrokenImage

    if isinstance(image, BrokenImage):
        return ImageError(image.reason, hint=f"ai-how image rm {image.digest[:12]}")
    try:
        store.verify(image)
    except ImageError as error:
        return error
    return None


def _data(image: "Image | BrokenImage") -> dict[str, Any]:
    """An image for JSON; every image has every key, as docs/json.md says."""
    from ai_how.images.manifest import BrokenImage

    manifest = None if isinstance(image, BrokenImage) else image.manifest
    return {
        "digest": image.digest,
        "directory": image.directory,
        "is_broken": isinstance(image, BrokenImage),
        "reason": image.reason if isinstance(image, BrokenImage) else None,
        "name": manifest and manifest.name,
        "created_at": manifest and manifest.created_at,
        "virtual_size_bytes": manifest and manifest.virtual_size_bytes,
        "identity": manifest and manifest.identity,
        "suite": manifest and manifest.suite,
        "slurm_version": manifest and manifest.slurm_version,
        "kubernetes_version": manifest and manifest.kubernetes_version,
        "kernel": None if isinstance(image, BrokenImage) else image.kernel,
    }


def _row(image: "Image", users: list[str], *, has_kubernetes: bool) -> tuple[object, ...]:
    size = f"{image.manifest.virtual_size_bytes / 2**30:.1f} GiB"
    created = image.manifest.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
    manifest = image.manifest
    return (
        *(image.name, image.digest[:12], created, size, manifest.suite, manifest.slurm_version),
        *((manifest.kubernetes_version,) if has_kubernetes else ()),
        ", ".join(users) or None,
    )


def _show_image(image: "Image", context: Context) -> None:
    if context.is_json:
        console.show_json(_data(image))
    else:
        console.show_line(f"{image.name} {image.digest[:12]} is in {image.directory}")


def _show_results(results: "list[tuple[Image | BrokenImage, ImageError | None]]") -> None:
    for image, damage in results:
        if damage is None:
            console.show_line(f"ok       {image.digest[:12]}", console.Style.GOOD)
        else:
            console.show_line(f"damaged  {image.digest[:12]}", console.Style.BAD)
            console.show_error(damage)


def _warn_of_damage(states: "dict[str, ClusterState | StateError]") -> None:
    for name, state in states.items():
        if isinstance(state, StateError):
            console.show_warning(f"cluster {name}: {state.brief}: its images are not known")
