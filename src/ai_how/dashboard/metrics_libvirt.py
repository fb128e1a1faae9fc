"""What libvirt says of a VM, by the names of Debian's and Tinkoff's exporters (pure).

`libvirt_domain_info_memory_usage_bytes` is left out: there it is what the VM was given.
"""

from ai_how.dashboard.metrics_page import Series, mib, seconds
from ai_how.monitoring.model import VmCounters, VmSample

# virDomainState; a VM that libvirt does not have, or says nothing of, has no code.
_CODES = {
    "running": 1,
    "blocked": 2,
    "paused": 3,
    "shutting_down": 4,
    "shut_off": 5,
    "crashed": 6,
    "suspended": 7,
}


def add_libvirt(series: Series, vm: VmSample, *, has_disks: bool) -> None:
    """The figures of a VM; `series` has its labels."""
    info = "libvirt_domain_info"
    code = _CODES.get(vm.state)
    series.gauge("libvirt_domain_state_code", "State of the domain.", code)
    series.gauge(
        f"{info}_vstate",
        "Virtual domain state. 1: running, 2: blocked, 3: paused, 4: being shut down, "
        "5: shut off, 6: crashed, 7: suspended by guest power management",
        code,
    )
    series.gauge(
        f"{info}_maximum_memory_bytes",
        "Maximum allowed memory of the domain, in bytes.",
        mib(vm.memory_mib),
    )
    series.gauge(f"{info}_virtual_cpus", "Number of virtual CPUs for the domain.", float(vm.vcpus))
    counters = vm.counters
    series.counter(
        f"{info}_cpu_time_seconds_total",
        "Amount of CPU time used by the domain, in seconds.",
        seconds(counters.cpu_time_ns),
    )
    series.counter(
        "libvirt_domain_vcpu_delay_seconds_total",
        "Time the vCPU threads were enqueued by the host scheduler, but were waiting in the queue "
        "instead of running. Here the sum over the vCPUs.",
        seconds(counters.vcpu_wait_ns),
    )
    _add_memory(series, vm)
    _add_disks(series, counters)
    _add_network(series, counters)
    if has_disks:
        block = "libvirt_domain_block_stats"
        series.gauge(
            f"{block}_capacity_bytes",
            "Logical size in bytes of the block device backing image.",
            vm.disk_capacity_bytes,
        )
        series.gauge(
            f"{block}_physicalsize_bytes",
            "Physical size in bytes of the container of the backing image.",
            vm.disk_used_bytes,
        )


def _add_memory(series: Series, vm: VmSample) -> None:
    memory = "libvirt_domain_memory_stats"
    total, used = vm.guest_memory_mib, vm.guest_memory_used_mib
    series.gauge(
        f"{memory}_actual_balloon_bytes", "Current balloon value (in bytes).", mib(vm.balloon_mib)
    )
    series.gauge(
        f"{memory}_available_bytes",
        "The total amount of usable memory as seen by the domain, in bytes.",
        mib(total),
    )
    series.gauge(
        f"{memory}_usable_bytes",
        "How much the balloon can be inflated without pushing the guest system to swap, "
        "corresponds to 'Available' in /proc/meminfo",
        mib(total - used) if total is not None and used is not None else None,
    )
    series.gauge(
        f"{memory}_used_percent",
        "The amount of memory in percent, that used by domain.",
        100.0 * used / total if total and used is not None else None,
    )
    series.gauge(
        f"{memory}_rss_bytes",
        "Resident Set Size of the process running the domain. This value is in bytes",
        mib(vm.qemu_memory_mib),
    )


def _add_disks(series: Series, counters: VmCounters) -> None:
    """The sum over the disks of the VM, so without `target_device`."""
    block = "libvirt_domain_block_stats"
    for way, done, where, bytes_, requests in (
        ("read", "read", "from", counters.disk_read_bytes, counters.disk_read_requests),
        ("write", "written", "to", counters.disk_written_bytes, counters.disk_write_requests),
    ):
        series.counter(
            f"{block}_{way}_bytes_total",
            f"Number of bytes {done} {where} a block device, in bytes.",
            bytes_,
        )
        series.counter(
            f"{block}_{way}_requests_total",
            f"Number of {way} requests {where} a block device.",
            requests,
        )


def _add_network(series: Series, counters: VmCounters) -> None:
    """The sum over the interfaces of the VM, so without `target_device`."""
    stats = "libvirt_domain_interface_stats"
    for way, verb, bytes_, packets, errors, drops in (
        (
            "receive",
            "received",
            counters.net_received_bytes,
            counters.net_received_packets,
            counters.net_received_errors,
            counters.net_received_drops,
        ),
        (
            "transmit",
            "transmitted",
            counters.net_sent_bytes,
            counters.net_sent_packets,
            counters.net_sent_errors,
            counters.net_sent_drops,
        ),
    ):
        series.counter(
            f"{stats}_{way}_bytes_total",
            f"Number of bytes {verb} on a network interface, in bytes.",
            bytes_,
        )
        series.counter(
            f"{stats}_{way}_packets_total",
            f"Number of packets {verb} on a network interface.",
            packets,
        )
        for fault, count in (("errors", errors), ("drops", drops)):
            series.counter(
                f"{stats}_{way}_{fault}_total",
                f"Number of packet {way} {fault} on a network interface.",
                count,
            )
