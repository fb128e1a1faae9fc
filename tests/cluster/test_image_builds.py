"""Images that are made from the built-in one: what is in them, and what a build that fails leaves.

Most of them only copy files and run commands, which takes seconds.
"""

import os
import pwd
import signal
import subprocess  # noqa: TID251  killed while it runs
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.errors import ImageError
from ai_how.images.build import BuildOptions, build_default_image
from ai_how.images.catalogue import ImageCatalogue
from ai_how.images.manifest import Image
from ai_how.images.packages import packages_of
from ai_how.images.store import ImageStore
from ai_how.process import run
from ai_how.spec.models import ClusterFile
from ai_how.spec.reader import read_spec_text
from ai_how.state.paths import default_roots
from ai_how.waiting import Deadline, wait_until
from image_files import Files, opened_files
from users import TESTS, made_user, run_as

pytestmark = pytest.mark.slurm

CLUSTER = """
version: "1.0"
clusters:
  hpc:
    name: hpc
    base_image_path: mine
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 5}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 5}
"""
INSTALL = """\
#!/bin/bash
set -e
echo "arguments: $*" > /opt/arguments
[ ! -e /etc/ssh/ssh_host_rsa_key ]
cat > /etc/systemd/system/site.service << END
[Service]
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
END
sleep 600 &
"""
VERB_S = 300


@pytest.fixture(scope="module")
def default() -> Image:
    return build_default_image(ImageStore(default_roots().images))


@pytest.fixture(scope="module")
def home(default: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What XDG_DATA_HOME is set to; the default image is in the store there already."""
    root = tmp_path_factory.mktemp("data")
    images = root / "ai-how" / "images"
    images.mkdir(parents=True)
    if run(["cp", "-al", default.directory, images], check=False).returncode:
        run(["cp", "-a", "--reflink=auto", default.directory, images])
    return root


@pytest.fixture(scope="module")
def store(home: Path) -> ImageStore:
    return ImageStore(home / "ai-how" / "images")


def described(image: str, directory: Path) -> ClusterFile:
    """A cluster file whose image `mine` has these lines."""
    text = f"images:\n  mine: {image}\n{CLUSTER}"
    (directory / "cluster.yaml").write_text(text)
    spec, problems = read_spec_text(text, "cluster.yaml", {}, directory=directory)
    assert spec is not None, problems
    return spec


def build(store: ImageStore, image: str, directory: Path, *, refresh: bool = False) -> Image:
    catalogue = ImageCatalogue(store, described(image, directory))
    [made] = catalogue.build(
        ["mine"], watch=lambda _share, _what: None, options=BuildOptions(refresh=refresh)
    )
    assert catalogue.find("mine") == made
    return made


def drafts(store: ImageStore) -> list[str]:
    return [path.name for path in store.paths.root.glob(".part-*")]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all that the image `mine` is made from."""
    directory = tmp_path_factory.mktemp("ours")
    (directory / "tree" / "below").mkdir(parents=True)
    (directory / "tree" / "below" / "tool").write_text("#!/bin/sh\n")
    (directory / "tree" / "below" / "tool").chmod(0o750)
    (directory / "tree" / "link").symlink_to("/etc/passwd")
    (directory / "motd").write_text("welcome\n")
    (directory / "install.sh").write_text(INSTALL)
    return directory


MINE = (
    "{packages: [cron], files: {/opt/tree: ./tree, /etc/motd: motd, /var/run/nested/x: motd}, "
    "run: ['./install.sh --now  twice', systemctl enable site.service, touch /tmp/x /opt/y]}"
)


@pytest.fixture(scope="module")
def mine(store: ImageStore, ours: Path) -> Image:
    return build(store, MINE, ours)


@pytest.fixture(scope="module")
def files(mine: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    with opened_files(mine, tmp_path_factory.mktemp("image")) as files:
        yield files


def test_an_image_has_its_packages_files_and_what_its_commands_made(mine, default, files):
    listed = {one.name: one for one in packages_of(mine) or ()}
    assert "cron" in listed
    assert {one.name for one in packages_of(default) or ()} < set(listed)
    assert (mine.manifest.suite, mine.manifest.slurm_version) == (
        default.manifest.suite,
        default.manifest.slurm_version,
    )
    assert files.read("/etc/motd") == "welcome\n"
    assert files.entries("/opt/tree/below") == {"tool": "100750 0:0"}
    assert files.entries("/opt/tree")["link"].startswith("120777")
    assert files.read("/opt/arguments") == "arguments: --now twice\n"
    assert "y" in files.names("/opt")


def test_only_what_a_command_enables_starts_at_boot(default, files, tmp_path):
    with opened_files(default, tmp_path) as before:
        wanted = before.names("/etc/systemd/system/multi-user.target.wants")
    wants = files.names("/etc/systemd/system/multi-user.target.wants")
    assert wants - wanted == {"site.service"}


@pytest.mark.fault("H22", "the directories in which a build leaves things")
def test_an_image_has_nothing_of_its_build(files):
    assert "ai-how-job" not in files.names("/")
    for path in ("/tmp", "/dev", "/var/lib/apt/lists", "/root/.ssh"):
        assert files.names(path) == set(), path
    assert not files.names("/etc") & {"resolv.conf", "hostname"}
    assert "policy-rc.d" not in files.names("/usr/sbin")
    assert files.read("/etc/machine-id") == ""
    assert [name for name in files.names("/etc/ssh") if name.startswith("ssh_host")] == []


def test_a_link_of_the_image_leads_to_no_place_of_the_host(mine):
    """/var/run is a link to /run there."""
    assert mine
    assert not Path("/run/nested").exists()


def test_programs_of_an_image_reach_nothing_of_the_host(store, tmp_path):
    """Neither by the root of a process, nor by a link that is followed when they have ended."""
    scratch = tmp_path / "scratch"
    (scratch / "apt").mkdir(parents=True)
    for name in ("precious.log", "machine-id", "ssh_host_x", "resolv.conf", "policy-rc.d"):
        (scratch / name).write_text("precious")
    (tmp_path / "look.sh").write_text(
        f"""#!/bin/sh -e
for process in /proc/[0-9]*; do [ ! -e "$process/root{scratch}" ]; done
[ ! -e "{scratch}" ]
rm -rf /var/log && ln -s {scratch} /var/log
rm -rf /usr/sbin/policy-rc.d && ln -s {scratch}/policy-rc.d /usr/sbin/policy-rc.d
rm -f /etc/machine-id && ln -s {scratch}/machine-id /etc/machine-id
mkdir -p {scratch}
rm -rf /etc/ssh && ln -s {scratch} /etc/ssh
"""
    )
    made = build(store, "{run: [./look.sh]}", tmp_path)
    assert {path.name for path in scratch.iterdir()} == {
        *("precious.log", "machine-id", "ssh_host_x", "resolv.conf", "policy-rc.d", "apt")
    }
    assert {path.read_text() for path in scratch.iterdir() if path.is_file()} == {"precious"}
    # Such a tree is unpacked again.
    again = f"{{from: {made.digest}, run: [test -L /etc/ssh, rm -f /ai-how-job/resolv.conf]}}"
    build(store, again, tmp_path)
    assert (scratch / "resolv.conf").read_text() == "precious"


def test_a_list_of_packages_is_no_link_to_a_file_of_the_host(store, tmp_path):
    job = "ln -sf /etc/shadow /ai-how-job/packages.tsv"
    hide = "printf '#!/bin/sh\\n' > /usr/bin/dpkg-query"
    with pytest.raises(ImageError, match="mine cannot be built"):
        build(store, f'{{run: ["{job}", "{hide}"]}}', tmp_path)
    assert drafts(store) == []


def test_an_unchanged_image_is_not_built_again(store, ours, mine):
    before = time.monotonic()
    assert build(store, MINE, ours) == mine
    assert time.monotonic() - before < 2


def test_refresh_without_newer_packages_keeps_the_image(store, ours, mine):
    assert build(store, MINE, ours, refresh=True) == mine


def test_an_image_is_made_from_one_of_the_store_by_its_name(store, mine, tmp_path):
    spec = "{from: mine-as-it-was, run: [test -e /opt/y]}"
    with pytest.raises(ImageError, match="made from mine-as-it-was, and there is no such image"):
        build(store, spec, tmp_path)
    catalogue = ImageCatalogue(store, described("{}", tmp_path))
    [base] = catalogue.build(["mine"], watch=lambda _share, _what: None)
    assert base.name == "default"
    made = build(store, f"{{from: {mine.digest}, run: [test -e /opt/y]}}", tmp_path)
    assert made.manifest.recipe["base"] == mine.digest


@pytest.mark.fault("H18", "a package, a script, a command or a file that is wrong")
@pytest.mark.parametrize(
    ("image", "brief", "details"),
    [
        (
            "{run: [echo begun, ./fails.sh now]}",
            (
                "the image mine cannot be built: `./fails.sh now` failed "
                "(images.mine.run[1], exit code 1)"
            ),
            "got now\ncat: /nowhere: No such file or directory\nai-how: line 4: cat /nowhere",
        ),
        (
            "{run: ['false']}",
            "the image mine cannot be built: `false` failed (images.mine.run[0], exit code 1)",
            "It printed nothing.",
        ),
        (
            "{packages: [libopenmpi-devel]}",
            "the image mine cannot be built: trixie has no package libopenmpi-devel",
            "Did you mean libopenmpi-dev?",
        ),
    ],
    ids=["script", "command", "package"],
)
def test_what_failed_is_said_and_nothing_of_it_is_in_the_store(
    store, tmp_path, image, brief, details
):
    before = store.list()
    (tmp_path / "fails.sh").write_text("#!/bin/bash\nset -e\necho got $1\ncat /nowhere\n")
    with pytest.raises(ImageError) as caught:
        build(store, image, tmp_path)
    assert (caught.value.brief, caught.value.details) == (brief, details)
    assert caught.value.hint
    assert store.list() == before
    assert drafts(store) == []


def started(home: Path, directory: Path) -> "subprocess.Popen[str]":
    """`image build` as a process, with the signals of a terminal."""
    argv = ["env", "--default-signal=INT", sys.executable, "-m", "ai_how", "image", "build", "mine"]
    return subprocess.Popen(  # noqa: S603  a program of ours
        argv,
        cwd=directory,
        env=os.environ | {"XDG_DATA_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_of(draft: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if draft.encode() in entry.read_bytes():
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


PHASES = ("unpacking the base", "sleep 1", "making the file system", "converting the disk")


@pytest.mark.fault("H18", "kill -9 in each phase")
def test_a_build_that_is_killed_leaves_nothing_that_runs_or_stays(home, store, tmp_path):
    """Each next one removes what the one before has left."""
    image = "{run: [sleep 1]}"
    described(image, tmp_path)
    before, left = store.list(), None
    for phase in PHASES:
        with started(home, tmp_path) as child:
            for line in child.stdout:
                if line.rstrip().endswith(f": {phase}"):
                    break
            [draft] = drafts(store)
            child.kill()
        wait_until(lambda: not processes_of(drafts(store)[0]), Deadline.after(10), "its end")
        assert store.list() == before
        assert draft != left
        left = draft
    made = build(store, image, tmp_path)
    assert drafts(store) == []
    store.verify(made)


@pytest.mark.fault("H18", "Ctrl-C while a command runs")
def test_ctrl_c_ends_a_build_at_once(home, store, tmp_path):
    described("{run: [sleep 600]}", tmp_path)
    with started(home, tmp_path) as child:
        for line in child.stdout:
            if "sleep 600" in line:
                break
        begun = time.monotonic()
        os.killpg(child.pid, signal.SIGINT)
        said = child.stdout.read()
        assert child.wait() == 130, said
    assert time.monotonic() - begun < 20
    assert "interrupted" in said
    assert drafts(store) == []


@pytest.mark.fault("H18", "no space left in the store")
def test_a_full_disk_is_named_with_what_would_help(default, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    run(["mount", "-n", "-t", "tmpfs", "-o", "size=1g", "tmpfs", images])
    try:
        run(["cp", "-a", default.directory, images])
        small = ImageStore(images)
        with pytest.raises(ImageError) as caught:
            build(small, "{run: ['true']}", tmp_path)
        assert "no space left" in caught.value.brief
        assert caught.value.hint == f"df -h {images}"
        assert drafts(small) == []
    finally:
        run(["umount", "-n", images])


@pytest.mark.fault("H18", "an ordinary user's build is killed")
def test_an_ordinary_user_builds_and_cleans_up_after_a_kill(default):
    with made_user(f"aihow{os.getpid()}i", kept=(".local", ".cache")) as name:
        account = pwd.getpwnam(name)
        theirs = Path(account.pw_dir, ".local/share/ai-how/images")
        theirs.mkdir(parents=True)
        run(["cp", "-a", "--reflink=auto", default.directory, theirs])
        run(["chown", "-R", f"{name}:", Path(account.pw_dir, ".local")])
        said = run_as(name, TESTS / "ordinary_builds.py", timeout_s=VERB_S).stdout
    assert said.splitlines()[-1] == "killed, built again"
