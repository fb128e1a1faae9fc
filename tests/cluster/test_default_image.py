"""The image that we build ourselves: let in at its own door, and with no way in for others."""

from collections.abc import Iterator

import pytest

from ai_how.images.build import build_default_image
from ai_how.images.manifest import Image
from ai_how.images.store import ImageStore
from ai_how.state.paths import default_roots
from image_files import Files, opened_files

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def image() -> Image:
    return build_default_image(ImageStore(default_roots().images))


@pytest.fixture(scope="module")
def files(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    with opened_files(image, tmp_path_factory.mktemp("image")) as files:
        yield files


@pytest.mark.fault("S04", "the default image, which must pass")
def test_our_own_image_is_let_in_like_any_other(image, tmp_path):
    copy = ImageStore(tmp_path / "images").import_file(image.disk, name="own")
    assert copy.manifest.disk_sha256 == image.manifest.disk_sha256
    assert copy.manifest.virtual_size_bytes == image.manifest.virtual_size_bytes


@pytest.mark.fault("S10", "the accounts of the default image")
def test_nobody_has_a_password_in_our_image(files):
    hashes = {line.split(":")[1] for line in files.read("/etc/shadow").splitlines()}
    assert hashes
    assert hashes <= {"*", "!", "!*", "!!"}
    shells = [line.split(":") for line in files.read("/etc/passwd").splitlines()]
    assert {entry[0] for entry in shells if int(entry[2]) == 0} == {"root"}


@pytest.mark.fault("S10", "the keys of the default image")
@pytest.mark.fault("S14", "the keys of the default image")
def test_our_image_holds_no_key_that_two_nodes_could_share(files):
    assert [name for name in files.names("/etc/ssh") if name.startswith("ssh_host")] == []
    assert "munge.key" not in files.names("/etc/munge")
    assert files.names("/etc/ssh/authorized_keys.d") == set()
    assert "authorized_keys" not in files.names("/root/.ssh")
    assert files.read("/etc/machine-id") == ""


def test_files_can_be_copied_to_a_node_by_what_users_know(files):
    """`hpc ssh-config` is for ssh, scp and rsync: each needs its like in the guest."""
    assert {"rsync", "scp", "ssh"} <= files.names("/usr/bin")
    assert "sftp-server" in files.names("/usr/lib/openssh")


@pytest.mark.fault("S10", "the sshd of the default image")
def test_the_sshd_of_our_image_asks_for_no_password_and_lets_no_root_in(files):
    ours = files.read("/etc/ssh/sshd_config.d/ai-how.conf").splitlines()
    for line in ("PasswordAuthentication no", "KbdInteractiveAuthentication no"):
        assert line in ours
    assert "PermitRootLogin no" in ours
    # Of two values sshd takes the first one, and a file's own come after those that it includes.
    assert "Include /etc/ssh/sshd_config.d/*.conf" in files.read("/etc/ssh/sshd_config")
    assert sorted(files.names("/etc/ssh/sshd_config.d"))[0] == "ai-how.conf"


@pytest.mark.fault("H22", "the directories in which a build leaves things")
def test_our_image_has_nothing_of_its_build(files):
    for path in ("/tmp", "/var/tmp", "/root/.ssh", "/var/lib/apt/lists"):
        assert files.names(path) == set(), path
    assert files.names("/var/cache/apt/archives") <= {"lock", "partial"}
    assert [name for name in files.names("/var/log") if name.endswith(".log")] == []
