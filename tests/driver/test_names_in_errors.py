"""What an error is about has a name, whatever libvirt calls it."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from faulty_libvirt import EVERY, Script

from ai_how.errors import AiHowError
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.names import Names
from ai_how.libvirt_client.network_xml import NetworkHost
from ai_how.waiting import Deadline

URI = f"test://{Path(__file__).with_name('node.xml')}"
VM = UUID("11111111-1111-4111-8111-111111111111")
NETWORK = UUID("44444444-4444-4444-8444-444444444444")
GONE = UUID("99999999-9999-4999-8999-999999999999")
A_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
XML = f"<{{kind}}><name>demo-{{kind}}</name><uuid>{GONE}</uuid></{{kind}}>"
HOST = (NetworkHost("compute-01", "52:54:00:00:00:01", "10.1.2.3"),)

Call = Callable[[LibvirtClient, UUID], object]
CALLS: dict[str, Call] = {
    "agent_command": lambda c, vm: c.agent_command(vm, {"execute": "guest-ping"}),
    "define_domain": lambda c, _vm: c.define_domain(XML.format(kind="domain")),
    "define_network": lambda c, _vm: c.define_network(XML.format(kind="network")),
    "run_transient": lambda c, _vm: c.run_transient(XML.format(kind="domain")),
}


def _method_names() -> list[str]:
    methods = inspect.getmembers(LibvirtClient, inspect.isfunction)
    return [name for name, method in methods if _takes_uuid(name, method)]


def _takes_uuid(name: str, method: Callable[..., object]) -> bool:
    is_public = not name.startswith("_") and name != "learn"
    return is_public and "uuid" in inspect.signature(method).parameters


def _call(client: LibvirtClient, name: str, uuid: UUID) -> None:
    """Call a method with that UUID, and with anything that fits for the rest."""
    if name in CALLS:
        CALLS[name](client, uuid)
        return
    method = getattr(client, name)
    fits = {
        "uuid": uuid,
        "network_uuid": NETWORK,
        "deadline": Deadline.after(1),
        "hosts": HOST,
        "source": Path("/nowhere"),
        "target": Path("/nowhere"),
        "within_s": 1.0,
        "timeout_s": 2.0,
        "snapshots_too": False,
    }
    wanted = inspect.signature(method).parameters.values()
    needed = [one for one in wanted if one.default is inspect.Parameter.empty]
    method(**{one.name: fits[one.name] for one in needed})


def _said(client: LibvirtClient, name: str, uuid: UUID) -> str | None:
    try:
        _call(client, name, uuid)
    except AiHowError as error:
        return "\n".join(filter(None, (error.brief, error.details, error.hint)))
    return None


@pytest.mark.parametrize("code", [1, 5, 42, 55, 86, 88])
def test_no_call_that_fails_speaks_of_a_uuid_that_has_a_name(code: int) -> None:
    script = Script(URI)
    text = f"no domain with matching uuid '{VM}' (demo-compute-01) on network {NETWORK}"
    silent = []
    try:
        with LibvirtClient(URI, patience_s=1, opener=script.open) as client:
            client.list_domains()
            client.list_networks()
            for call in ("lookupByUUIDString", "networkLookupByUUIDString"):
                script.fail(call, code, times=EVERY, text=text)
            for name in _method_names():
                said = _said(client, name, VM)
                if said is None:
                    silent.append(name)
                else:
                    assert not A_UUID.search(said), (name, said)
                    assert "demo" in said, (name, said)
    finally:
        script.end()
    assert len(silent) < len(_method_names()) / 2, silent


def test_what_is_only_remembered_is_named_too() -> None:
    with LibvirtClient(URI, patience_s=1) as client:
        client.learn(GONE, "demo-compute-07")
        client.learn(NETWORK, "demo")
        for name in _method_names():
            said = _said(client, name, GONE)
            assert said is None or not A_UUID.search(said), (name, said)
        assert "VM demo-compute-07" in (_said(client, "get_domain", GONE) or "")


def test_a_definition_that_is_refused_is_told_by_names() -> None:
    with LibvirtClient(URI) as client:
        for name in ("define_domain", "define_network"):
            said = _said(client, name, GONE)
            assert said is None or not A_UUID.search(said), said
        taken = f"<network><name>other</name><uuid>{NETWORK}</uuid></network>"
        with pytest.raises(AiHowError) as caught:
            client.define_network(taken)
        assert not A_UUID.search(str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"starting VM {VM} failed", "starting VM demo-a failed"),
        (f"no domain with matching uuid '{VM}' (demo-a)", "no domain with matching demo-a"),
        (f"domain 'x' already exists with uuid {VM}", "domain 'x' already exists with demo-a"),
        (f"uuid '{VM}' (old name)", "demo-a (old name)"),
        (f"VM {str(VM).upper()}", "VM demo-a"),
        (f"of another: {GONE}", f"of another: {GONE}"),
        (f"0{VM}", f"0{VM}"),
    ],
)
def test_a_uuid_is_known_however_libvirt_writes_it(text: str, told: str) -> None:
    names = Names()
    names.learn(VM, "demo-a")
    assert names.told(text) == told
