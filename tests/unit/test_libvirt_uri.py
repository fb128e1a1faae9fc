"""Only a few forms of libvirt URI pass, and what libvirt gets is put together by us."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.errors import SpecError
from ai_how.libvirt_client.uri import read_uri, unix_uri

REFUSED = [
    "",
    "auto",
    "qemu",
    "qemu://",
    "qemu:///",
    "qemu:///system ",
    "qemu:///system\n",
    "qemu:///system?socket=/tmp/x",
    "qemu:///system#x",
    "qemu://host/system",
    "qemu:///embed?root=/tmp",
    "xen:///system",
    "lxc:///",
    "test:///",
    "test:///default?x=1",
    "test://host/default",
    "qemu+ext:///system?command=/tmp/x",
    "qemu+tcp://host/system",
    "qemu+tls://host/system?no_verify=1",
    "qemu+libssh://host/system",
    "qemu+unix:///session?socket=/tmp/x",
    "qemu+unix:///system",
    "qemu+unix:///system?socket=relative",
    "qemu+unix:///system?socket=",
    "qemu+unix:///system?socket=/tmp/x&command=/tmp/y",
    "qemu+unix:///system?socket=/tmp/x;command=/tmp/y",
    "qemu+unix:///system?command=/tmp/y&socket=/tmp/x",
    "qemu+unix:///system?socket=/tmp/x%00y",
    "qemu+unix:///system?socket=/tmp/x%0ay",
    "qemu+unix:///system?socket=/tmp/%ff",
    f"qemu+unix:///system?socket=/{'x' * 107}",
    "qemu+ssh:///system",
    "qemu+ssh://host/session",
    "qemu+ssh://-oProxyCommand=x/system",
    "qemu+ssh://-x@host/system",
    "qemu+ssh://a@b@host/system",
    "qemu+ssh://host:99999999/system",
    "qemu+ssh://host/system?netcat=/tmp/x",
    "qemu+ssh://host/system?command=/tmp/x",
    "qemu+ssh://host/system?socket=/tmp/x",
    "qemu+ssh://host/system?no_verify=1",
    "qemu+ssh://host/system?keyfile=id",
    "qemu+ssh://host/system?keyfile=/k&command=/tmp/x",
    "qemu+ssh://ho st/system",
    "qemu+ssh://host;reboot/system",
]


@pytest.mark.fault("S23", "URIs that name programs, sockets, keys")
@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_on_the_list_is_refused_with_the_list(text: str) -> None:
    with pytest.raises(SpecError, match="libvirt URI is not allowed") as caught:
        read_uri(text)
    assert "qemu:///system" in str(caught.value.details)


@pytest.mark.fault("S23", "arbitrary text")
@given(st.text())
def test_no_text_brings_the_reader_down(text: str) -> None:
    with contextlib.suppress(SpecError):
        read_uri(text)


@pytest.mark.parametrize("text", ["qemu:///system", "qemu:///session", "test:///default"])
def test_local_forms_pass_as_they_are(text: str) -> None:
    assert read_uri(text).for_libvirt == text


@pytest.mark.fault("S12", "an odd key file")
def test_an_ssh_login_never_prompts_and_its_remedy_can_be_pasted() -> None:
    uri = read_uri("qemu+ssh://me@host.lan:2222/system?keyfile=/home/me/my%20key")
    assert uri.for_libvirt == (
        "qemu+ssh://me@host.lan:2222/system?no_tty=1&keyfile=/home/me/my%20key"
    )
    assert uri.remedy == (
        "ssh -p 2222 -i '/home/me/my key' me@host.lan virsh --connect qemu:///system version"
    )
    assert read_uri("qemu+ssh://[fe80::1]/system").for_libvirt.endswith("/system?no_tty=1")


paths = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20
).map(lambda name: Path("/", name))


@given(paths)
def test_any_socket_path_comes_back_as_it_was(path: Path) -> None:
    assert read_uri(unix_uri(path)).for_libvirt == unix_uri(path)


@pytest.mark.fault("F66", "the remedy of each host")
def test_each_host_has_a_remedy_for_silence_and_for_refusal() -> None:
    system = read_uri("qemu:///system")
    assert system.remedy == "sudo systemctl start libvirtd"
    assert system.denied_remedy == "sudo usermod -aG libvirt $USER && newgrp libvirt"
    embedded = read_uri(unix_uri(Path("/run/a b/s")))
    assert embedded.remedy == "ai-how host up"
    assert embedded.denied_remedy == "ls -l '/run/a b/s'"
