"""SIGKILL before each change on disk while an image is taken in or placed: never half of one."""

import errno
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ai_how.images.store import ImageStore
from ai_how.process import run
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.disks.base_images import ensure_placed

MIB = 1 << 20
CHANGES = (
    *("mkdir", "open", "write", "ftruncate", "copy_file_range", "fsync", "chmod"),
    *("rename", "replace", "link", "unlink", "rmdir"),
)


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    """An image with 3 MiB of data."""
    raw, path = tmp_path / "data", tmp_path / "cloud.qcow2"
    raw.write_bytes(os.urandom(3 * MIB))
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path])
    return path


def killed_at(act: Callable[[], object], number: int) -> bool:
    """Whether a child that does this died before its change of that number; else it did it all."""
    child = os.fork()
    if child == 0:
        passed = 0

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def change(*args: object, **kwargs: object) -> object:
                nonlocal passed
                if passed == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                passed += 1
                return call(*args, **kwargs)

            return change

        for name in CHANGES:
            setattr(os, name, counted(getattr(os, name)))
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.fault("F04", "SIGKILL before each change of an import")
def test_an_import_that_is_killed_anywhere_leaves_no_half_image(tmp_path, cloud, points):
    number = 0
    while True:
        store = ImageStore(tmp_path / f"images-{number}")
        is_killed = killed_at(lambda: store.import_file(cloud), number)  # noqa: B023  in this turn
        assert all(not hasattr(one, "reason") for one in store.list()), number
        for image in store.list():
            store.verify(image)
        image = store.import_file(cloud)
        store.verify(image)
        assert len(store.list()) == 1
        left = {path.name for path in store.paths.root.iterdir()}
        assert left <= {image.digest, ".lock"}, number
        if not is_killed:
            break
        number += 1
    assert number > 10
    points(number)


@pytest.mark.fault("F04", "SIGKILL before each change of placing an image")
@pytest.mark.parametrize("way", ["linked", "copied"])
def test_a_base_whose_placing_is_killed_anywhere_is_whole_or_not_there(
    tmp_path, cloud, points, monkeypatch, way
):
    digest = hashlib.sha256(cloud.read_bytes()).hexdigest()
    if way == "copied":

        def refuse(*_args: object, **_kwargs: object) -> None:
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr(os, "link", refuse)
    number = 0
    while True:
        storage = StoragePaths(tmp_path / f"storage-{number}")
        target = storage.base("0123456789abcdef")
        is_killed = killed_at(
            lambda: ensure_placed(storage, cloud, target, sha256=digest),  # noqa: B023
            number,
        )
        if target.exists():
            assert hashlib.sha256(target.read_bytes()).hexdigest() == digest, number
        ensure_placed(storage, cloud, target, sha256=digest)
        assert target.samefile(cloud) is (way == "linked")
        names = {path.name for path in storage.bases.iterdir()}
        assert names == {target.name, storage.verified(target).name}, number
        if not is_killed:
            break
        number += 1
    assert number > 5
    points(number)
