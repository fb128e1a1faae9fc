"""The proxies, the settings of apt and the certificates of a host, and what guests get of them."""

import socket
from pathlib import Path

import pytest

from ai_how import outside_access
from ai_how.images.sandbox import build_environment
from ai_how.outside_access import OutsideAccess, read_outside_access

PEM = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
OTHER = PEM.replace("QUJD", "REVG")
URL = "http://me:secret@proxy.example.org:3128/"


@pytest.fixture(autouse=True)
def no_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_access, "find_tool", lambda _name: None)


def test_variables_are_read_in_either_case(tmp_path: Path) -> None:
    environ = {"HTTPS_PROXY": URL, "http_proxy": "proxy:80", "NO_PROXY": "a.org, .b.org 10.0.0.0/8"}
    seen = read_outside_access(environ, tmp_path)
    assert seen.proxies == {"https_proxy": URL, "http_proxy": "proxy:80"}
    assert seen.no_proxy == "a.org,.b.org,10.0.0.0/8"
    assert not seen.local_ports
    assert "secret" not in repr(seen)


@pytest.mark.parametrize(
    "value", ["", "http://", "http://a b", 'http://a"; x', "http://a:0", "$a", "a\nb"]
)
def test_what_is_no_url_is_left_out(tmp_path: Path, value: str) -> None:
    assert not read_outside_access({"http_proxy": value}, tmp_path)


def test_certificates_of_the_administrator_are_found(tmp_path: Path) -> None:
    debian = tmp_path / "usr/local/share/ca-certificates/company"
    fedora = tmp_path / "etc/pki/ca-trust/source/anchors"
    for directory in (debian, fedora):
        directory.mkdir(parents=True)
    (debian / "root.crt").write_text(f"a comment\r\n{PEM}".replace("\n", "\r\n"))
    (debian / "notes.txt").write_text(OTHER)
    (fedora / "both.pem").write_text(PEM + OTHER)
    (fedora / "key.pem").write_text(PEM.replace("CERTIFICATE", "PRIVATE KEY"))
    (fedora / "gone").symlink_to("nowhere")
    assert read_outside_access({}, tmp_path).certificates == (PEM, OTHER)


@pytest.mark.parametrize(
    ("url", "port", "moved"),
    [
        ("http://127.0.0.1:3128", 3128, "http://10.0.0.1:3128"),
        ("http://me:secret@localhost:8080/", 8080, "http://me:secret@10.0.0.1:8080/"),
        ("localhost:3128", 3128, "http://10.0.0.1:3128"),
        ("socks5h://[::1]", 1080, "socks5h://10.0.0.1:1080"),
        (URL, None, URL),
        ("DIRECT", None, "DIRECT"),
    ],
)
def test_a_proxy_on_loopback_is_at_the_gateway_for_guests(
    url: str, port: int | None, moved: str
) -> None:
    seen = OutsideAccess({"http_proxy": url}, apt={"Acquire::http::Proxy": url})
    assert seen.local_ports == ({port} if port else set())
    assert seen.by_gateway("10.0.0.1").proxies == {"http_proxy": moved}
    assert seen.by_gateway("10.0.0.1").apt == {"Acquire::http::Proxy": moved}
    assert bool(seen.without_local()) is (port is None)


def test_a_proxy_at_an_address_or_the_name_of_this_host_is_relayed_too(tmp_path: Path) -> None:
    name = socket.gethostname()
    seen = read_outside_access({"http_proxy": f"http://{name}:3128"}, tmp_path)
    assert seen.local_ports == {3128}
    own = OutsideAccess({"http_proxy": "http://192.0.2.7:80"}, own=frozenset({"192.0.2.7"}))
    assert own.by_gateway("10.0.0.1").proxies == {"http_proxy": "http://10.0.0.1:80"}


def test_the_cluster_itself_is_reached_without_a_proxy() -> None:
    assert OutsideAccess().environment(["hpc"]) == {}
    told = OutsideAccess({"http_proxy": URL}, "localhost,a.org").environment(
        ["10.0.0.0/24", ".hpc"]
    )
    assert told == {
        "http_proxy": URL,
        "HTTP_PROXY": URL,
        "no_proxy": "localhost,127.0.0.1,a.org,10.0.0.0/24,.hpc",
        "NO_PROXY": "localhost,127.0.0.1,a.org,10.0.0.0/24,.hpc",
    }


def test_apt_is_asked_for_its_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "apt-config"
    tool.write_text(
        "#!/bin/sh\n"
        "echo 'Acquire \"\";'\n"
        f"echo 'Acquire::http::Proxy \"{URL}\";'\n"
        "echo 'Acquire::http::Proxy::deb.example.org \"DIRECT\";'\n"
        "echo 'Acquire::http::Pipeline-Depth \"5\";'\n"
        "echo 'Acquire::https::Proxy \"a b\";'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setattr(outside_access, "find_tool", lambda _name: tool)
    assert read_outside_access({}, tmp_path).apt == {
        "Acquire::http::Proxy": URL,
        "Acquire::http::Proxy::deb.example.org": "DIRECT",
    }
    tool.write_text("#!/bin/sh\nexit 1\n")
    assert not read_outside_access({}, tmp_path)


def test_a_build_uses_the_proxies_of_the_host_also_those_of_apt_alone() -> None:
    apt = {"Acquire::http::Proxy": URL, "Acquire::https::Proxy": "DIRECT"}
    only_apt = build_environment({"OUT": "/x"}, OutsideAccess(apt=apt))
    assert (only_apt["http_proxy"], only_apt["OUT"]) == (URL, "/x")
    assert "https_proxy" not in only_apt
    both = build_environment({}, OutsideAccess({"http_proxy": "http://p:1"}, apt=apt))
    assert both["HTTP_PROXY"] == "http://p:1"
    assert "http_proxy" not in build_environment({}, OutsideAccess())
