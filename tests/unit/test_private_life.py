"""Whatever is left lying about in a cluster's life: who may read it, and what is in it.

The life is that of `whole_life.py`, at the highest verbosity, as a program of its own, under the
widest and the narrowest umask.
"""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ai_how.guest.base_identity import render_archive
from ai_how.host.boot_sector import MESSAGE
from ai_how.hpc.identities import build_identities, ensure_secrets
from ai_how.images.build import PROGRAMS
from ai_how.process import Completed, find_tool, run
from ai_how.state.paths import ClusterPaths
from canaries import find_in_files, find_in_text, read_secrets
from cluster_bench import draft_of, read_hpc

TESTS = Path(__file__).resolve().parents[1]
TOOLS = ("ssh-keygen", "ssh", "prlimit", "qemu-img", "ip", "nft", "iptables", *dict(PROGRAMS))
# Not ours to close: the home that we made for the user, and what the XDG directories lie in.
OPEN_DIRECTORIES = {".", ".cache", ".local", ".local/share", ".local/share/ai-how", ".local/state"}


@dataclass(frozen=True)
class Life:
    """What a life has left behind."""

    directory: Path
    ended: Completed

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def state(self) -> Path:
        return self.home / ".local/state/ai-how"

    def modes(self) -> dict[str, int]:
        """The mode of everything below the home directory, by its path from there."""
        there = [self.home, *self.home.rglob("*")]
        assert not [path for path in there if path.is_symlink()]
        return {
            str(path.relative_to(self.home)): stat.S_IMODE(path.stat().st_mode) for path in there
        }

    def private_keys(self) -> set[str]:
        """The private keys of the cluster that lives on."""
        paths = ClusterPaths(self.state / "lives")
        found = {paths.munge_key, paths.ssh_key, *paths.secrets.glob("*_key")}
        return {str(path.relative_to(self.home)) for path in found}


@pytest.fixture(scope="module", params=[0o000, 0o077], ids=["umask 000", "umask 077"])
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    directory = Path(tempfile.mkdtemp(prefix="ah-life-"))
    for name in ("witness", "bin", "scratch"):
        (directory / name).mkdir()
    for name in TOOLS:
        if tool := find_tool(name):
            overhear(directory, name, f'exec {tool} "$@"')
    said = f"[ \"$1\" = --version ] || {{ echo '{MESSAGE}'; exec sleep 600; }}"
    overhear(directory, "qemu-system-x86_64", said)
    env = {name: "" for name in os.environ if name.startswith(("XDG_", "AI_HOW_"))}
    done = run(
        [
            *(
                "sh",
                "-c",
                f'umask {request.param:03o}; PATH={directory}/bin:$PATH; exec "$@"',
                "sh",
            ),
            *(sys.executable, TESTS / "whole_life.py", directory),
        ],
        env=env | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    yield Life(directory, done)
    for path in directory.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(directory)


def overhear(directory: Path, name: str, script: str) -> None:
    """A program that first writes down its arguments and its environment."""
    tool = directory / "bin" / name
    words = f'{{ printf "%s\\n" "$0" "$@"; env; }} >>{directory}/witness/children'
    tool.write_text(f"#!/bin/sh\n{words}\n{script}\n")
    tool.chmod(0o755)


@pytest.mark.fault("S13", "everything that a life leaves, umask 000 and 077")
def test_nothing_of_ours_can_be_written_by_others(life, points):
    modes = life.modes()
    points(len(modes))
    assert len(modes) > 60
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o022} == {}


@pytest.mark.fault("S13", "everything that a life leaves, umask 000 and 077")
def test_what_is_not_meant_for_others_is_closed_to_them(life, points):
    """Only below a directory that lets nobody pass is anything open, and then never a secret."""
    modes = life.modes()
    points(len(modes))
    for name, mode in modes.items():
        is_directory = (life.home / name).is_dir()
        if name in OPEN_DIRECTORIES or mode in ({0o700} if is_directory else {0o600, 0o400}):
            continue
        assert mode in ({0o711, 0o555} if is_directory else {0o644, 0o444}), name
        shut = [above for above in Path(name).parents if modes[str(above)] == 0o700]
        assert shut, f"{name} has mode {mode:o}, and every user can come to it"


@pytest.mark.fault("S13", "every key, umask 000 and 077")
def test_every_key_is_0600_in_a_directory_of_0700(life):
    keys, modes = life.private_keys(), life.modes()
    assert len(keys) == 1 + 3 + 1
    for name in keys:
        assert modes[name] == 0o600
        assert modes[str(Path(name).parent)] == 0o700


@pytest.mark.fault("S14", "looked for in logs, errors, XML, journals, arguments, environments")
@pytest.mark.fault("S15", "looked for in logs, errors, XML, journals, arguments, environments")
def test_no_secret_is_anywhere_but_in_its_file(life, points):
    told = ["witness/told", "witness/children", "witness/left", "home/log.txt"]
    assert all((life.directory / name).stat().st_size for name in told)
    assert b'"record":{"intent"' in (life.directory / "witness/told").read_bytes()
    assert b"ssh-keygen\n" in (life.directory / "witness/children").read_bytes()
    assert len([*life.state.glob("*/evidence/*/errors.txt")]) == 2
    assert len([*life.state.glob(".crashes/*.txt")]) == 1
    secrets = read_secrets(ClusterPaths(life.state / "lives"))
    kept = {life.home / name for name in life.private_keys()}
    found = find_in_files(secrets, [life.directory], kept=kept)
    for name in ("stdout", "stderr"):
        text = getattr(life.ended, name)
        assert text
        found += find_in_text(secrets, name, text.encode())
    assert found == []
    points(len(secrets) * len([*life.directory.rglob("*")]))


@pytest.mark.fault("S15", "repr, str and errors of what holds the keys")
def test_what_holds_a_secret_does_not_show_it(tmp_path):
    draft, paths = draft_of(read_hpc()), ClusterPaths(tmp_path / "hpc")
    ensure_secrets(draft.state, paths)
    find = build_identities(draft, paths, has_host_clock=False)
    identity = find["controller"]()
    secrets = read_secrets(paths)
    assert [*find_in_text(secrets, "the archive", render_archive(identity, now_s=0))] != []
    for shown in (repr(identity), str(identity), f"{identity}", repr(find), repr(draft.state)):
        assert [*find_in_text(secrets, "what is shown", shown.encode())] == []
