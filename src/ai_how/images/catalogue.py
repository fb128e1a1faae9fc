"""Images by the names of a cluster file: which image each is, and how it is built."""

import difflib
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ai_how.errors import ImageError
from ai_how.images.blueprint import Blueprint, BuildStep, CopiedFile, digest_of_recipe
from ai_how.images.build import USUAL, BuildOptions, Watcher, build_suite_image, within
from ai_how.images.bundles import Bundle, bundle_of
from ai_how.images.derive import derive_image, no_base
from ai_how.images.manifest import Image
from ai_how.images.preparing import find_prepared, name_of_prepared
from ai_how.images.recipe import DEFAULT, SUITE, Recipe, default_recipe, suite_recipe
from ai_how.images.sources import (
    ImageSource,
    asked_digest,
    find_imported,
    import_source,
    source_of,
    source_of_text,
    stored_name,
)
from ai_how.images.store import ImageStore
from ai_how.spec.images import SUITES, ImageSpec, is_place, path_in, script_in
from ai_how.spec.kubernetes import KubernetesSourceSpec
from ai_how.spec.models import ClusterFile
from ai_how.state.paths import default_roots

# The share of an import, where the disk has to be prepared after it.
_IMPORTED = 0.1
# The share of reading a bundle before a base is built.
_READ = 0.1

Preparer = Callable[[Image, Watcher], Image]
"""Turns an imported disk into an image of ours: `clusters.prepare_images.ImagePreparer`."""


@dataclass(frozen=True, slots=True)
class ImageCatalogue:
    """The images that a cluster file can name: `default`, its own ones, and those of the store.

    A disk that was imported stands for what is prepared from it: nodes boot that.
    """

    store: ImageStore
    file: ClusterFile
    preparer: Preparer | None = None
    """Needed to build what is made from an imported disk."""
    bundles: Path | None = None
    """Where archives of Kubernetes are unpacked; None is the place of this user."""

    def find(self, name: str | None) -> Image | None:
        """The newest image of this name as the file describes it; None if it is not there.

        None is the built-in image. Raises ImageError where a file that decides it cannot be read.
        """
        image = self._find(name)
        if image and is_disk(image):
            return find_prepared(self.store, image.digest)
        if image is None and (source := self._place_of(name)) and source.known_digest:
            # The disk may be removed once it is prepared.
            return find_prepared(self.store, source.known_digest)
        return image

    def _find(self, name: str | None) -> Image | None:
        if recipe := self._recipe(name):
            return self.store.find_built(recipe.digest)
        if source := self._source(name):
            return self._find_imported(source)
        if name is None or (spec := self.file.all_images.get(name)) is None:
            return self.store.find(name or DEFAULT)
        if not spec.is_changed:
            return self._find(_base_of(spec))
        base = self.find(_base_of(spec))
        if base is None:
            return None
        blueprint = self._blueprint(name, spec)
        return self.store.find_built(digest_of_recipe(blueprint.recipe(base.digest)))

    def stored_name(self, name: str | None) -> str:
        """What the image of this name is called in the store: one without additions is its base."""
        asked = self._stored_name(name)
        try:
            image = self._find(name) or self.store.find(asked)
        except ImageError:  # a file that decides it is gone
            image = self.store.find(asked)
        is_imported = is_disk(image) if image else self._place_of(name) is not None
        return name_of_prepared(asked) if is_imported else asked

    def _stored_name(self, name: str | None) -> str:
        if recipe := self._recipe(name):
            return recipe.name
        if source := self._source(name):
            return stored_name(self.store, source)
        spec = self.file.all_images.get(name or DEFAULT)
        if spec is None or spec.is_changed:
            return name or DEFAULT
        return self._stored_name(_base_of(spec))

    def require_base(self, name: str | None) -> None:
        """Raises ImageError where an image of the file is made from one that nobody has."""
        spec = self.file.all_images.get(name or DEFAULT)
        if spec is None or spec.from_.is_place:
            return
        base = _base_of(spec)
        if not self.is_ours(base) and self.find(base) is None:
            raise ImageError(
                f"the image {name} is made from {base}, and there is no such image",
                details=f"{base} is neither in `images` of the file nor in the store.",
                hint="ai-how image list",
            )
        self.require_base(base)

    def is_ours(self, name: str | None) -> bool:
        """Whether `build` can make it: built in, one of the file, a file, a URL, or a disk."""
        is_known = self._recipe(name) is not None or name in self.file.all_images
        return is_known or (name is not None and (is_place(name) or self.has_disk(name)))

    def has_disk(self, name: str | None) -> bool:
        """Whether the disk is in the store from which the image of this name is prepared."""
        image = self._find(name)
        return image is not None and is_disk(image)

    def is_from_elsewhere(self, name: str | None) -> bool:
        """Whether it is a file or a URL, which `build` imports."""
        return self._source(name) is not None

    def missing(self, names: Iterable[str | None]) -> tuple[str, ...]:
        """Those of these names that `build` would make, each once, bases first."""
        roads = (self._road(name or DEFAULT) for name in names)
        ours = dict.fromkeys(one for road in roads for one in road if self._is_made(one))
        return tuple(name for name in ours if self.find(name) is None)

    def parts_of(self, name: str | None) -> tuple[Image, ...]:
        """What is needed to find the image of this name again: it, and what it is made from."""
        found = (self.find(one) for one in self._road(name or DEFAULT))
        return tuple({image.digest: image for image in found if image}.values())

    def asked_digest(self, name: str | None) -> str:
        """What decides which image this is, as a digest, whether the image is there or not.

        It changes with the file and with ai-how, not with newer packages. Raises ImageError where
        a file that decides it cannot be read.
        """
        if recipe := self._recipe(name):
            return recipe.digest
        if source := self._source(name):
            return asked_digest(source)
        if name is None or (spec := self.file.all_images.get(name)) is None:
            image = self.store.find(name or DEFAULT)
            return image.digest if image else digest_of_recipe({"stored": name})
        base = self.asked_digest(_base_of(spec))
        if not spec.is_changed:
            return base
        return digest_of_recipe(self._blueprint(name, spec).recipe(base))

    def build(
        self,
        names: Iterable[str],
        *,
        watch: Watcher,
        options: BuildOptions = USUAL,
    ) -> tuple[Image, ...]:
        """Have these images, bases before what is made from them; `watch` hears one progress.

        To refresh one does not refresh its base, unless it adds nothing to that. Raises ImageError
        for a name that nobody describes, and where one cannot be built.
        """
        names = tuple(names)
        clusters = (self.file.clusters.hpc, self.file.clusters.cloud)
        if any(one is not None and one.access.proxy == "none" for one in clusters):
            options = replace(options, uses_proxy=False)
        images = []
        for number, name in enumerate(names):
            source = self._source(name)
            part = _part_of(watch, number, len(names), source.name if source else name)
            images.append(self._have(name, part, options))
        return tuple(images)

    def _have(self, name: str, watch: Watcher, options: BuildOptions) -> Image:
        source = self._place_of(name)
        if source and not options.refresh and (there := self.find(name)):
            return there
        image = self._make(name, within(watch, 0.0, _IMPORTED) if source else watch, options)
        if is_disk(image):
            return self._prepare(name, image, within(watch, _IMPORTED, 1.0), options)
        if source:
            watch(1.0, "done")
        return image

    def _prepare(self, name: str, image: Image, watch: Watcher, options: BuildOptions) -> Image:
        if not options.refresh and (there := find_prepared(self.store, image.digest)):
            return there
        if self.preparer is None:
            raise ImageError(
                f"the image {image.name} has to be prepared for a cluster, in a VM",
                hint=f"ai-how image build {shlex.quote(name)}",
            )
        made = self.preparer(image, watch)
        watch(1.0, "done")
        return made

    def _make(self, name: str, watch: Watcher, options: BuildOptions) -> Image:
        if recipe := self._recipe(name):
            return build_suite_image(self.store, recipe, watch=watch, options=options)
        if source := self._source(name):
            return self._import(source, watch, options)
        spec = self.file.all_images.get(name)
        if spec is None:
            if (image := self.store.find(name)) and is_disk(image):
                return image
            raise self._unknown(name)
        base_name = _base_of(spec)
        if not spec.is_changed:
            return self._make(base_name, watch, options)
        if (disk := self._find(base_name)) and is_disk(disk):
            raise no_base(name, disk)
        base = self.find(base_name)
        if base is None:
            self.require_base(name)
            if spec.kubernetes:
                # What cannot be had is said before minutes go into the base.
                self._bundle(spec.kubernetes).read(within(watch, 0.0, _READ))
                watch = within(watch, _READ, 1.0)
            part = _part_of(watch, 0, 2, base_name)
            base = self._have(base_name, part, replace(options, refresh=False))
            watch = _part_of(watch, 1, 2, name)
        blueprint = self._blueprint(name, spec)
        return derive_image(self.store, blueprint, base, watch=watch, options=options)

    def _find_imported(self, source: ImageSource) -> Image | None:
        """The image of a file or a URL as it was imported."""
        return find_imported(self.store, source)

    def _import(self, source: ImageSource, watch: Watcher, options: BuildOptions) -> Image:
        # What has a digest of its own cannot be newer.
        is_known = not (options.refresh and source.checksums)
        image = self._find_imported(source) if is_known else None
        return image or import_source(self.store, source, watch)

    def _source(self, name: str | None) -> ImageSource | None:
        """Where the image of this name is from, if that is a file or a URL.

        Nothing is added to such an image: `validate` refuses it (`image_checks.check_images`).
        """
        if name is None:
            return None
        if is_place(name):
            return source_of_text(name, self.file.directory)
        spec = self.file.all_images.get(name)
        if spec is None or not spec.from_.is_place:
            return None
        return source_of(spec.from_, self.file.directory, name)

    def _place_of(self, name: str | None) -> ImageSource | None:
        """The file or URL of an image, or of the one that it is without any addition."""
        if (source := self._source(name)) or name is None:
            return source
        spec = self.file.all_images.get(name)
        return self._place_of(_base_of(spec)) if spec and not spec.is_changed else None

    def _recipe(self, name: str | None) -> Recipe | None:
        """The recipe of a built-in image; `suite:NAME` is that of a suite of Debian."""
        if name is None or name == DEFAULT:
            return default_recipe()
        suite = name.removeprefix(SUITE) if name.startswith(SUITE) else None
        return suite_recipe(suite) if suite in SUITES else None

    def _is_made(self, name: str) -> bool:
        """Whether there is anything to build for it besides its base."""
        if self._recipe(name) or self._source(name):
            return True
        spec = self.file.all_images.get(name)
        return spec.is_changed if spec else self.has_disk(name)

    def _road(self, name: str) -> tuple[str, ...]:
        """What an image is made from, and so on, to the image itself."""
        spec = self.file.all_images.get(name)
        has_base = spec is not None and not spec.from_.is_place
        return (*(self._road(_base_of(spec)) if spec and has_base else ()), name)

    def _blueprint(self, name: str, spec: ImageSpec) -> Blueprint:
        directory = self._directory(name) if spec.files or any(map(script_in, spec.run)) else Path()
        return Blueprint(
            name=name,
            bundle=self._bundle(spec.kubernetes) if spec.kubernetes else None,
            sets=spec.with_,
            packages=spec.packages,
            files=tuple(
                CopiedFile(target, path_in(directory, source))
                for target, source in spec.files.items()
            ),
            steps=tuple(
                BuildStep(command, directory / script if (script := script_in(command)) else None)
                for command in spec.run
            ),
        )

    def _bundle(self, source: KubernetesSourceSpec) -> Bundle:
        cache = self.bundles or default_roots().bundles
        return bundle_of(source, self.file.directory, cache)

    def _directory(self, name: str) -> Path:
        if self.file.directory is None:
            raise ImageError(
                f"the image {name} needs files that lie beside its cluster file",
                details="It is not known where that file is.",
                hint=f"ai-how image build {shlex.quote(name)} --file FILE",
            )
        return self.file.directory

    def _unknown(self, name: str) -> ImageError:
        known = [DEFAULT, *self.file.all_images]
        near = difflib.get_close_matches(name, known, n=1)
        return ImageError(
            f"no image {name} is described",
            details=f"The cluster file has: {', '.join(self.file.all_images) or 'no images'}.",
            hint=f"ai-how image build {near[0]}" if near else "ai-how image build",
        )


def is_disk(image: Image) -> bool:
    """Whether it was imported as a disk, on which nothing is ours yet."""
    return image.manifest.identity == "nocloud"


def _base_of(spec: ImageSpec) -> str:
    """The name of the base, as `ImageCatalogue` takes it."""
    base = spec.from_
    return f"{SUITE}{base.suite}" if base.suite else base.name or DEFAULT


def _part_of(watch: Watcher, number: int, count: int, name: str) -> Watcher:
    """A watcher of one part of several equal ones; what it hears has the name of the image."""

    def hear(share: float, what: str) -> None:
        told = name.removeprefix(SUITE)
        watch((number + share) / count, what if what.startswith(f"{told}: ") else f"{told}: {what}")

    return hear
