"""`ai-how cache`: what a machine without any history needs to start at once, as one file.

`prune` clears what was kept to build images faster.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.kinds import kinds_in
from ai_how.cli.saved_vms import show_cold, size_of

if TYPE_CHECKING:
    from ai_how.clusters.cache import Exported
    from ai_how.images.bundle_cache import UnpackedBundle
    from ai_how.vm_management.cache_file import Contents

app = new_app("Take images and saved VMs to another machine, and clear the cache.")


@app.command("export", short_help="Write images and saved VMs to a file, for `cache import`.")
def export_to(
    ctx: typer.Context,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The new file.")],
) -> None:
    """Write the images of the nodes, and the saved VMs of their types, to one file.

    `cache import` takes it in on another machine, where `hpc start` then boots and builds nothing.
    `image warm` saves the VMs that are missing. The file is a tar, packed by zstd. Its content is
    decided by the cluster file (-c).
    """
    from ai_how.clusters.cache import export_cache, require_new

    context = context_of(ctx)
    spec, _ = context.load_spec()
    kinds = [one.load() for one in kinds_in(spec)]
    place = context.place_of(spec)
    path = require_new(target)
    with console.ProgressBar("exporting", is_silent=context.is_json) as bar:
        done = export_cache(kinds, spec, context.roots, place, path, on_progress=bar.watch)
    if context.is_json:
        console.show_json(
            {
                "file": path,
                "bytes": path.stat().st_size,
                "images": [image.digest for image in done.images],
                "machines": [one.manifest.key for one in done.machines],
                "unsaved": len(done.unsaved),
                "cold": done.cold,
            }
        )
        return
    for image in done.images:
        console.show_line(f"image {image.name} {image.digest[:12]}")
    for one in done.machines:
        console.show_line(f"saved VM: {size_of(one.manifest)}, of {one.manifest.host}")
    _show_missing(done)
    console.show_line(f"{path.stat().st_size / 2**20:.0f} MiB are in {target}")


@app.command("import", short_help="Take in a file of `cache export`.")
def import_from(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `cache export`.")],
) -> None:
    """Take in the images and saved VMs of a file of `cache export`, unless they are here.

    All digests are verified first: a file that is damaged changes nothing. Saved VMs of another
    QEMU, libvirt or (with KVM) CPU and kernel cannot be used here, and are left out. Import only
    files of those whose programs you would run: nodes run the images, and QEMU reads the memory.
    """
    from ai_how.clusters.cache import import_cache

    context = context_of(ctx)
    spec, _ = context.load_spec()
    kinds = [one.load() for one in kinds_in(spec)]
    place = context.place_of(spec)
    with console.ProgressBar("importing", is_silent=context.is_json) as bar:
        done = import_cache(
            kinds,
            spec,
            context.roots,
            place,
            source.absolute(),
            warn=console.show_warning,
            on_progress=bar.watch,
        )
    if context.is_json:
        console.show_json(
            {
                "images": [
                    {"digest": one.image.digest, "name": one.image.name, "is_new": one.is_new}
                    for one in done.images
                ],
                "machines": [
                    {"key": one.manifest.key, "is_new": one.is_new, "refusal": one.refusal}
                    for one in done.machines
                ],
            }
        )
        return
    _show_taken(done)


@app.command(short_help="Print the key by which a CI service finds the file again.")
def key(ctx: typer.Context) -> None:
    """Print two digests in one line, IMAGES-VMS, by which a CI service finds the file again.

    The first one changes with the images that the file describes, and with ai-how; the second one
    with the types of nodes, QEMU, libvirt and, with KVM, the CPU and the kernel of this host. It is
    the same before and after images are built; newer packages do not change it.
    """
    from ai_how.clusters.cache import find_cache_key

    context = context_of(ctx)
    spec, _ = context.load_spec()
    kinds = [one.load() for one in kinds_in(spec)]
    place = context.place_of(spec)
    found = find_cache_key(kinds, spec, context.roots, place, warn=console.show_warning)
    if context.is_json:
        console.show_json(
            {
                "key": found.text,
                "images": found.images,
                "machines": found.machines,
                "host": found.host,
            }
        )
    else:
        console.show_line(found.text)


@app.command(short_help="Remove archives of Kubernetes that are not needed any more.")
def prune(ctx: typer.Context) -> None:
    """Remove what was unpacked of archives of Kubernetes, where no image of the store is made of it
    and it was not used for 30 days.

    Images and saved VMs stay: `image rm` removes an image. What is needed again is downloaded or
    unpacked again.
    """
    from datetime import UTC, datetime

    from ai_how.images.bundle_cache import prune_bundles
    from ai_how.images.manifest import Image
    from ai_how.images.store import ImageStore

    context = context_of(ctx)
    images = [one for one in ImageStore(context.roots.images).list() if isinstance(one, Image)]
    done = prune_bundles(context.roots.bundles, images, datetime.now(UTC))
    if context.is_json:
        console.show_json(
            {
                "removed": [_data(one) for one in done.removed],
                "kept": [_data(one) for one in done.kept],
            }
        )
        return
    for one in done.kept:
        console.show_line(f"kept {_words(one)}: {_reason(one)}")
    for one in done.removed:
        console.show_line(f"removed {_words(one)}")
    freed = sum(one.size_bytes for one in done.removed)
    console.show_line(f"{freed / 2**20:.0f} MiB were freed")


def _data(bundle: "UnpackedBundle") -> dict[str, object]:
    return {
        "sha256": bundle.digest,
        "bytes": bundle.size_bytes,
        "used_at": bundle.used_at,
        "releases": list(bundle.releases),
        "images": list(bundle.images),
    }


def _words(bundle: "UnpackedBundle") -> str:
    size = f"{bundle.size_bytes / 2**20:.0f} MiB"
    releases = "".join(f" of Kubernetes {one}" for one in bundle.releases)
    return f"{bundle.digest[:12]}{releases}, {size}"


def _reason(bundle: "UnpackedBundle") -> str:
    if bundle.images:
        return f"in the image {', '.join(bundle.images)}"
    return f"used on {bundle.used_at:%Y-%m-%d}"


def _show_missing(done: "Exported") -> None:
    """Tell which nodes will boot on the other machine, and what would help."""
    show_cold(done.cold)
    for one in done.unsaved:
        console.show_line(f"no VM of {size_of(one.definition)} is saved: such nodes will boot")
    if done.unsaved and done.no_save_reason:
        console.show_line(f"none can be saved here: {done.no_save_reason}")
    elif done.unsaved:
        console.show_line("to save it, before another export: ai-how image warm")


def _show_taken(done: "Contents") -> None:
    for image in done.images:
        what = "imported" if image.is_new else "there already"
        console.show_line(f"image {image.image.name} {image.image.digest[:12]}: {what}")
    for one in done.machines:
        what = "imported" if one.is_new else "there already"
        if one.refusal:
            what = f"cannot be used here: {one.refusal}"
        console.show_line(f"saved VM, {size_of(one.manifest)}: {what}")
    if not done.machines:
        console.show_line("it has no saved VM: nodes will boot")
