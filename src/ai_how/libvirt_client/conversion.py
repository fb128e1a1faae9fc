"""Convert libvirt's objects to our types; helpers that all modules here share."""

from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import UUID

import libvirt

from ai_how.errors import LibvirtError, OwnershipError
from ai_how.libvirt_client.error_codes import Kind, classify
from ai_how.libvirt_client.facts import DomainInfo, NetworkInfo, read_bridge, read_mark
from ai_how.libvirt_client.vm_state import VmState
from ai_how.libvirt_client.xml import read_xml

T = TypeVar("T")
Raw = TypeVar("Raw")
Seen = TypeVar("Seen", DomainInfo, NetworkInfo)


def observe_domain(domain: libvirt.virDomain) -> DomainInfo:
    """The facts about a VM. Raises libvirtError."""
    state_number, reason = domain.state()
    _state, maximum_kib, _current_kib, vcpus, _cpu_time = domain.info()
    domid = domain.ID()
    xml, state = domain.XMLDesc(0), VmState.from_libvirt(state_number)
    return DomainInfo(
        uuid=UUID(domain.UUIDString()),
        name=domain.name(),
        state=state,
        state_number=state_number,
        reason=reason,
        is_persistent=bool(domain.isPersistent()),
        domid=domid if domid > 0 else None,
        vcpus=vcpus,
        memory_mib=maximum_kib // 1024,
        mark=read_mark(xml),
        xml=xml,
        has_managed_save=state is VmState.SHUT_OFF and has_managed_save(domain),
    )


def has_managed_save(domain: libvirt.virDomain) -> bool:
    """False where the driver knows no saved memory."""
    try:
        return bool(domain.hasManagedSaveImage(0))
    except libvirt.libvirtError as error:
        if classify(error.get_error_code()) is not Kind.UNSUPPORTED:
            raise
        return False


def observe_network(network: libvirt.virNetwork) -> NetworkInfo:
    """The facts about a network. Raises libvirtError."""
    xml, is_active = network.XMLDesc(0), bool(network.isActive())
    as_defined = libvirt.VIR_NETWORK_XML_INACTIVE
    return NetworkInfo(
        uuid=UUID(network.UUIDString()),
        name=network.name(),
        bridge=read_bridge(xml),
        is_active=is_active,
        mark=read_mark(xml),
        xml=xml,
        defined_xml=with_first_known(network.XMLDesc, as_defined, 0) if is_active else "",
        is_persistent=bool(network.isPersistent()),
    )


def observe_each(raws: Iterable[Raw], observe: Callable[[Raw], Seen]) -> tuple[Seen, ...]:
    """The objects of a new list, by name, without those that have disappeared since."""
    seen = []
    for raw in raws:
        try:
            seen.append(observe(raw))
        except libvirt.libvirtError as error:
            if classify(error.get_error_code()) is not Kind.GONE:
                raise
    return tuple(sorted(seen, key=lambda one: one.name))


def with_first_known(call: Callable[[int], T], *flags: int) -> T:
    """Call with the first flags that this driver and version support."""
    for some in flags[:-1]:
        try:
            return call(some)
        except libvirt.libvirtError as error:
            if classify(error.get_error_code()) is not Kind.UNSUPPORTED:
                raise
    return call(flags[-1])


def ensure(act: Callable[[], object], is_done: Callable[[], bool]) -> None:
    """Act unless it is done; "wrong state" is an error only if it is still not done."""
    if is_done():
        return
    try:
        act()
    except libvirt.libvirtError as error:
        if classify(error.get_error_code()) is not Kind.WRONG_STATE or not is_done():
            raise


def unless_gone(ask: Callable[[], T]) -> T | None:
    """The result of `ask`, or None if libvirt says that there is no such object."""
    try:
        return ask()
    except LibvirtError as error:
        if error.code is None or classify(error.code) is not Kind.GONE:
            raise
        return None


def read_identity(xml: str) -> tuple[str, UUID | None]:
    """The name and UUID that a definition claims."""
    root = read_xml(xml)
    uuid = root.findtext("./uuid")
    return root.findtext("./name", ""), UUID(uuid) if uuid else None


def check_claim(
    error: LibvirtError,
    xml: str,
    *,
    find: Callable[[UUID], Seen | None],
    find_by_name: Callable[[str], Seen | None],
) -> None:
    """After a failed definition: raises OwnershipError if another object has the name or UUID."""
    if error.code is None or classify(error.code) is not Kind.EXISTS:
        return
    name, uuid = read_identity(xml)
    other = find_by_name(name)
    if other is None and uuid:
        other = find(uuid)
    if other and (other.name, other.uuid) != (name, uuid):
        is_name = other.name == name
        raise OwnershipError(
            f"{name} cannot be defined: its name or UUID is in use",
            details=f"another one has the name {name}" if is_name else f"by {other.name}",
        ) from error
