"""A VM's libvirt XML, from its shape (pure)."""

from ai_how.vm_management.nodes.domain_definition import DomainShape
from ai_how.vm_management.xml.render import render_shape


def render_domain(machine: DomainShape) -> str:
    """The XML to define. Raises SpecError for a value that XML cannot hold."""
    return render_shape(machine)
