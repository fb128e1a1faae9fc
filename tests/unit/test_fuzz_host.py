"""Whatever libvirt, a guest, SLURM, the host or a URI say: a value, or an error of ours."""

import base64
import json
import shlex
from collections.abc import Mapping
from itertools import cycle, pairwise
from uuid import UUID

import pytest
from fuzzing import answer, bent, joined_names, json_values, names, soup, spoilt_text
from hypothesis import strategies as st

from ai_how.console.text import clean
from ai_how.errors import AiHowError, GuestError, HostError, SpecError
from ai_how.guest.agent import GuestAgent, GuestResult
from ai_how.host.place import HypervisorHost, resolve_host
from ai_how.hpc.workload import read_sinfo
from ai_how.libvirt_client.agent_answer import read_agent_answer
from ai_how.libvirt_client.facts import DomainInfo, Mark, read_bridge, read_mark
from ai_how.libvirt_client.uri import LibvirtUri, read_uri
from ai_how.libvirt_client.vm_state import VmState
from ai_how.libvirt_client.xml import census, read_xml
from ai_how.state.paths import Roots
from ai_how.vm_management.networks.definition import render_network
from ai_how.vm_management.networks.host_networks import HostNetworks, NetworksInUse
from ai_how.vm_management.networks.subnets import check_bridge, choose_subnet
from ai_how.vm_management.xml.render import render_definition
from ai_how.waiting import Deadline
from shapes import CLUSTER, CONTROLLER, NETWORK

ID = UUID("11111111-1111-4111-8111-111111111111")
CHANNEL = '<channel><target name="org.qemu.guest_agent.0" state="connected"/></channel>'
DOMAIN = render_definition(CONTROLLER).replace("</devices>", f"{CHANNEL}</devices>")
NET = render_network(NETWORK)
XML_PIECES = [
    *("<", ">", "/>", "</", "<a>", "</a>", "<a b='", "'", '"', "&", "&amp;", "&#0;", "&#x110000;"),
    *("&#xD800;", "&e;", "<!--", "-->", "<![CDATA[", "]]>", "<?xml version='1.0'?>", "<?x ?>"),
    *("<?xml version='1.0' encoding='utf-7'?>", "<?xml version='1.0' encoding='x'?>", "\0", "\x1b"),
    *("<!DOCTYPE a [<!ENTITY e 'x'>]>", "<!DOCTYPE a SYSTEM 'file:///etc/passwd'>", "<!ENTITY"),
    *("xmlns='", "xmlns:x='urn:ai-how:cluster:1'", "<x:node id='", "<metadata>", "<bridge name='"),
    *(
        "<ip address='10.0.0.1' prefix='",
        "<route address='",
        "<a>" * 500,
        "<a b='c'" + " d='e'" * 9,
    ),
    *("\ufeff", "\ufffe", "\ud800", "{urn}", "  ", "\n", "<domain>", "<network>", DOMAIN, NET),
]
LAUGHS = (
    "<!DOCTYPE l [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in pairwise("abcdefghi"))
    + "]><domain><name>&i;</name></domain>"
)
xmls = (
    soup(XML_PIECES)
    | st.text()
    | st.sampled_from([DOMAIN, NET]).flatmap(lambda xml: spoilt_text(xml, XML_PIECES))
)


def seen(xml: str) -> DomainInfo:
    mark = read_mark(xml)
    return DomainInfo(ID, "n", VmState.RUNNING, 1, 1, True, 1, 1, 1, mark, xml)


@pytest.mark.fault("S31", "fuzzed XML of VMs and networks")
def test_any_xml_of_libvirt_is_read_or_refused(fuzz):
    def check(xml: str) -> None:
        root = answer(read_xml, xml)
        if isinstance(root, HostError):
            assert read_mark(xml) is None
            assert read_bridge(xml) is None
            assert isinstance(answer(lambda: seen(xml).is_agent_connected), HostError)
        else:
            assert sum(census(root).values()) >= 1
            assert isinstance(read_mark(xml), Mark | None)
            assert isinstance(read_bridge(xml), str | None)
            assert seen(xml).is_agent_connected in (True, False)
            assert "<!DOCTYPE" not in xml.partition("<")[0]

    assert seen(DOMAIN).is_agent_connected
    fuzz(check, xmls, DOMAIN, NET, LAUGHS, "<a>" * 30_000, "<a " + "b" * (1 << 20), "\ud800")


ROUTE = {"dst": "10.7.0.0/24", "gateway": "10.7.0.1", "dev": "eth0", "flags": []}
LINK = {"ifname": "eth1", "addr_info": [{"local": "10.9.0.3", "prefixlen": 22}]}


class Told(HostNetworks):
    """A host whose `ip` says what it was told to."""

    answers = ("", "")

    def _ask(self, *argv: str) -> str:
        return self.answers["addr" in argv]


@pytest.mark.fault("S28", "fuzzed answers of ip, libvirt and resolv.conf")
def test_any_networks_of_a_host_are_read_or_refused(fuzz):
    resolver = fuzz.scratch / "resolv.conf"

    def check(told: tuple[str, str, list[str], str]) -> None:
        routes, addresses, networks, resolv = told
        resolver.write_text(resolv, errors="replace")
        Told.answers = routes, addresses
        found = answer(Told(resolv_conf=resolver).observe, networks, own_bridge="br0")
        if isinstance(found, HostError):
            return
        assert isinstance(found, NetworksInUse)
        subnet = answer(choose_subnet, None, found.subnets, CLUSTER, node_count=9)
        if not isinstance(subnet, HostError):
            assert not any(subnet.overlaps(one.subnet) for one in found.subnets)
        answer(check_bridge, "br0", found.links)

    def listing(record: object) -> st.SearchStrategy[str]:
        return (bent([record]) | json_values).map(json.dumps) | soup(["[", "]", "{", "}", ",", "0"])

    told = st.tuples(
        listing(ROUTE),
        listing(LINK),
        st.lists(xmls, max_size=2) | st.just([NET]),
        soup(["nameserver ", "10.0.0.1", "\n", "/8", "::1", "\0"], 8),
    )
    good = (json.dumps([ROUTE] * 5000), json.dumps([LINK]), [NET], "nameserver 10.0.0.1\n")
    fuzz(check, told, good)


def sent(answers: Mapping[str, object]) -> str:
    return json.dumps({"return": answers})


EXEC, OVER = {"pid": 7}, {"exited": True, "exitcode": 0, "out-data": "b3V0Cg==", "err-data": ""}
ANSWERS = [sent(EXEC), sent(OVER), json.dumps({"error": {"class": "x", "desc": "y"}})]
AGENT_PIECES = [
    *('{"return":', "}", "{", "[", "]", ",", ":", '"', "\\", "null", "true", "1e999", "NaN", "-"),
    *('"pid"', '"exited"', '"out-data"', '"error":{"desc":', "\\ud800", "\x1b[2J", "\0", *ANSWERS),
    *("[" * 3000, '{"return":' * 3000, "9" * 5000, '"return":1,"return":2', "\ud800", "=" * 9),
]


class Lying:
    """A guest that answers what it was told to, through the reader that the client uses."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = cycle(answers)
        self.left = 8

    def agent_command(self, uuid: UUID, command: Mapping[str, object], timeout_s: float) -> object:
        self.left -= 1
        if not self.left:
            raise GuestError("it has said enough")
        json.dumps(command)
        return read_agent_answer(next(self.answers))


@pytest.mark.fault("S22", "fuzzed answers of a guest's agent")
def test_any_answers_of_an_agent_are_read_or_refused(fuzz):
    def check(answers: list[str]) -> None:
        agent = GuestAgent(Lying(answers), ID, "compute-01")
        found = answer(agent.run, ["/bin/true"], Deadline.after(60), poll_s=0)
        if isinstance(found, GuestResult):
            assert isinstance(found.exit_code, int)
            assert isinstance(found.output + found.errors, str)
        else:
            assert isinstance(found, GuestError)
            assert len(str(found)) < 4000
        assert isinstance(
            answer(GuestAgent(Lying(answers), ID, "x").read_clock_ns), int | GuestError
        )

    documents = bent(json.loads(sent(OVER))) | bent(json.loads(sent(EXEC))) | json_values
    wild = soup(AGENT_PIECES, 12) | st.text() | documents.map(json.dumps)
    later = st.builds(lambda one: [sent(EXEC), one], wild)
    flood = sent({**OVER, "out-data": base64.b64encode(bytes(700_000)).decode()})
    fuzz(
        check,
        later | st.lists(wild, min_size=1, max_size=3),
        [sent(EXEC), sent(OVER)],
        [sent(EXEC), flood],
        ["x" * (2 << 20)],
    )


@pytest.mark.fault("S31", "fuzzed output of sinfo")
def test_any_output_of_sinfo_is_read(fuzz):
    def check(text: str) -> None:
        for name, one in read_sinfo(text).items():
            assert name == one.name
            assert one.is_working in (True, False)
            assert clean(f"{name} {one.state} {one.reason}").isprintable()

    pieces = ["compute-01", "|", "idle", "idle*", "drained", "none", "\n", "\x1b[2J", "\r", "\x85"]
    fuzz(check, soup(pieces), "compute-01|idle|none\n", "a|b|c\n" * 50_000, "|" * 1_000_000)


URI_PIECES = [
    *("qemu", "test", "qemu+ssh", "qemu+unix", "qemu+ext", "qemu+tcp", "ssh", "://", ":///", "/"),
    *("system", "session", "default", "?", "&", "=", ";", "#", "@", ":", "socket=", "keyfile="),
    *("command=", "netcat=", "no_tty=1", "/run/x", "%2e%2e", "%00", "%0a", "%", "host", "me", "22"),
    *(
        "[::1]",
        "-oProxyCommand=id",
        "$(id)",
        "`id`",
        " ",
        "'",
        '"',
        "\\",
        "\n",
        "\0",
        "é",
        "\ud800",
    ),
    *("QEMU", "embedded", "auto ", "..", "xen", "vbox", "lxc", "//", "///", ",", "+", "?socket=/a"),
]
URIS = [
    *("qemu:///system", "qemu:///session", "test:///default", "qemu+unix:///system?socket=/run/x"),
    *("qemu+ssh://me@host:22/system?keyfile=/k", "qemu+ssh://[::1]/system"),
]
uris = (
    soup(URI_PIECES, 12)
    | st.text()
    | st.sampled_from(URIS).flatmap(lambda uri: spoilt_text(uri, URI_PIECES))
    | joined_names.map("qemu+ssh://{}/system".format)
    | names.map("qemu+unix:///system?socket=/{}".format)
)


@pytest.mark.fault("S23", "fuzzed connection URIs")
@pytest.mark.fault("S12", "fuzzed hosts of connection URIs")
def test_any_uri_is_a_place_or_refused(fuzz):
    root = fuzz.scratch / "state"
    roots = Roots(root, root / "data", root / "cache")

    def check(text: str) -> None:
        uri = answer(read_uri, text)
        if isinstance(uri, LibvirtUri):
            harmless(uri)
        else:
            assert isinstance(uri, SpecError)
            assert str(uri).replace("\n", "").isprintable()
        place = answer(resolve_host, text, roots)
        if isinstance(place, HypervisorHost):
            assert place.kind == "system" or place.storage.root.is_relative_to(root)
            # The embedded host has a URI while it is up.
            uri = place.address if place.kind != "embedded" else "test:///default"
            assert isinstance(answer(read_uri, uri), LibvirtUri | SpecError)
        else:
            assert isinstance(place, AiHowError)

    fuzz(
        check, uris, "", *URIS, "qemu+ssh://-oProxyCommand=id/system", "a" * 100_000, "%" * 100_000
    )


def harmless(uri: LibvirtUri) -> None:
    """What libvirt gets names no program, and what a user may paste runs no other."""
    scheme, _, rest = uri.for_libvirt.partition("://")
    assert scheme.lower() in {"qemu", "test", "qemu+unix", "qemu+ssh"}
    place, _, query = rest.partition("?")
    host = place.partition("/")[0].rpartition("@")[2]
    assert not host.startswith("-")
    parameters = [parameter.partition("=")[0] for parameter in query.split("&") if query]
    assert set(parameters) <= {"socket", "keyfile", "no_tty"}
    assert len(parameters) == len(set(parameters))
    for remedy in (uri.remedy, uri.denied_remedy):
        words = shlex.split(remedy or "ls")
        assert words[0] in {"sudo", "virsh", "ssh", "ls", "ai-how"}
        assert remedy is None or remedy.isprintable()
