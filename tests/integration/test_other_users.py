"""Another user of this machine may not use our libvirt, read our files, or move us."""

import os
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from ai_how.errors import AiHowError, HostError, ImageError, OwnershipError
from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.process import run, start_daemon
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.waiting import Deadline
from cluster_bench import make_image
from daemons import socket_of

pytestmark = pytest.mark.libvirt

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
ATTACK_S = 4.0

# As fast as it can: our directory's name becomes a link to the victim, a directory, nothing.
ATTACK = """
import os, sys
top, victim = sys.argv[1:]
names = [os.path.join(top, name) for name in ("storage", "storage/disks", "storage/disks/demo")]
open(os.path.join(top, "attacking"), "w").close()
while True:
    for name in names:
        for act in (
            lambda: os.symlink(victim, name),
            lambda: os.unlink(name),
            lambda: os.mkdir(name, 0o777),
            lambda: os.symlink(victim, os.path.join(name, "disks")),
            lambda: os.symlink(os.path.join(victim, "precious"), os.path.join(name, ".ai-how")),
            lambda: os.rename(name, name + ".away"),
            lambda: os.rename(name + ".away", name),
            lambda: os.rmdir(name),
        ):
            try:
                act()
            except OSError:
                pass
"""


@pytest.fixture
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory like /tmp, that everybody comes to."""
    path = tmp_path_factory.mktemp("common")
    for above in path.parents:
        if above.stat().st_uid == os.geteuid() and above.name.startswith("pytest-"):
            above.chmod(0o711)
    path.chmod(0o1777)
    return path


@pytest.mark.fault("S19", "a user who puts links and directories in our way without a pause")
@pytest.mark.fault("F52", "a user who puts links and directories in our way without a pause")
def test_whoever_races_us_for_our_storage_moves_nothing_of_ours(common, tmp_path, points):
    victim = common / "victim"
    victim.mkdir(mode=0o755)
    (victim / "precious").write_text("untouched")
    image = make_image(tmp_path / "image")
    script = common / "attack.py"
    script.write_text(ATTACK)
    python = "/usr/bin/python3"  # Debian's: one of root's own, nobody else may run
    attacker = start_daemon(
        [*AS_NOBODY, python, script, common, victim], log=tmp_path / "attacker.log"
    )
    rounds = 0
    deadline, latest = Deadline.after(ATTACK_S), Deadline.after(120)
    begun = common / "attacking"
    try:
        while not deadline.has_passed or not (rounds and (begun.exists() or latest.has_passed)):
            rounds += 1
            cluster_id = uuid4()
            disks = DiskManager(StoragePaths(common / "storage"))
            try:
                base = disks.ensure_base(image)
                disks.create_overlay("demo", cluster_id, "controller", base=base, size_gib=1)
                disk = disks.storage.disk("demo", "controller")
                assert disk.stat().st_uid == os.geteuid()
                assert disk.stat().st_mode & 0o777 == 0o600
                disks.remove_disk("demo", cluster_id, "controller")
                disks.remove_cluster_directory("demo", cluster_id)
            except (HostError, OwnershipError, ImageError, OSError):
                pass
            assert [path.name for path in victim.iterdir()] == ["precious"]
            assert (victim / "precious").read_text() == "untouched"
            time.sleep(0.01)
    finally:
        attacker.kill()
        attacker.wait(60)
    assert begun.exists(), (tmp_path / "attacker.log").read_text()
    assert begun.stat().st_uid == NOBODY, "nobody attacked"
    points(rounds)


@pytest.mark.fault("F66", "a user who may not use the socket of a libvirt")
@pytest.mark.fault("S24", "the socket of an embedded host, asked by another user")
def test_another_user_is_refused_by_our_libvirt_with_the_remedy(
    host: EmbeddedHost, tmp_path_factory
):
    socket = socket_of(host)
    assert socket.stat().st_mode & 0o077 == 0
    program = (
        "import socket, sys\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except PermissionError: print('denied')\n"
    )
    done = run([*AS_NOBODY, "/usr/bin/python3", "-c", program, socket])
    assert done.stdout.strip() == "denied"
    # The same refusal, told by our client: as nobody it cannot even be imported from a checkout.
    was, uri = os.geteuid(), host.uri
    os.seteuid(NOBODY)
    try:
        with LibvirtClient(uri) as client, pytest.raises(AiHowError) as caught:
            client.version()
    finally:
        os.seteuid(was)
    assert caught.value.hint == f"ls -l {socket}"
    assert "Permission denied" in str(caught.value)


@pytest.mark.fault("S13", "the files of an embedded host, read by another user")
def test_another_user_reads_nothing_of_an_embedded_host(host: EmbeddedHost):
    program = (
        "import os, sys\n"
        "for top in sys.argv[1:]:\n"
        "    for directory, _, files in os.walk(top):\n"
        "        for name in files:\n"
        "            try: open(os.path.join(directory, name)).close()\n"
        "            except OSError: continue\n"
        "            print(os.path.join(directory, name))\n"
    )
    places = [host.paths.root, socket_of(host).parent]
    done = run([*AS_NOBODY, "/usr/bin/python3", "-c", program, *places])
    assert done.stdout == ""
    ours = run([sys.executable, "-c", program, *places]).stdout.splitlines()
    assert len(ours) > 5
