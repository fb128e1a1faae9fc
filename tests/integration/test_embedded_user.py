"""The embedded host for an ordinary user with what a stock desktop gives: no root, no group."""

import os
from collections.abc import Iterator

import pytest

from ai_how.process import Completed
from users import TESTS, made_user, run_as

pytestmark = pytest.mark.libvirt


def run_script(user: str, what: str, *, tun_mode: str = "0666") -> Completed:
    return run_as(user, TESTS / "ordinary_user.py", what, tun_mode=tun_mode, timeout_s=120)


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    """An ordinary user, with the subordinate ids that useradd gives to one."""
    with made_user(f"aihow{os.getpid()}") as name:
        yield name


def test_an_ordinary_user_has_a_host_a_network_and_a_guest(user: str) -> None:
    run_script(user, "use")


def test_an_uplink_ends_with_the_host(user: str) -> None:
    run_script(user, "lose-uplink")


@pytest.mark.fault("F66", "a user without subordinate ids")
def test_without_subordinate_ids_doctor_and_host_say_so(user: str) -> None:
    with made_user(f"aihow{os.getpid()}s", "--system") as name:
        said = run_script(name, "be-refused").stdout
    assert f"/etc/subuid gives {name} 0 ids of the 65536 needed" in said
    assert f"sudo usermod --add-subuids 100000-165535 {name}" in said
    assert f"/etc/subgid gives {name} 0 ids of the 65536 needed" in said
    assert "HostError\tThe embedded host could not create its namespaces" in said
    assert f'no line matching user "{name}" in /etc/subuid' in said


def test_without_tun_doctor_and_libvirt_say_so(user: str) -> None:
    said = run_script(user, "be-refused", tun_mode="0600").stdout
    said_of_tun = "/dev/net/tun has mode 0600: guests get no network interface"
    assert f"{said_of_tun}\tsudo chmod 0666 /dev/net/tun" in said
    assert "LibvirtError\tstarting VM" in said
    assert "Unable to open /dev/net/tun" in said
