// The lines of the charts: which there are for what is looked at, their points from the server, and
// the newest from each snapshot. Points are kept on one grid and dropped when they leave the range.

import { getSeries, now } from './api.js';
import { bytes, isKnown, mib, number, percent, rate } from './format.js';
import { hostMemoryUsed, isRunning, isSilent, isWaiting, memoryTotal, source } from './model.js';
import { state } from './store.js';

const MOST_LINES = 8;
const AT_ONCE = 6;

/** A line is the sum of `parts` times `factor`; `live` reads the same from a snapshot. */
const line = (label, parts, live, factor = 1) => ({
  id: parts.map((one) => `${one.name} ${one.subject}`).join('+') + ` ${factor}`, label, parts, live, factor,
});
const part = (name, subject) => ({ name, subject });

const answered = (snapshot, name, read) => (isSilent(source(snapshot, name)) ? null : read() ?? null);
const vmOf = (name, read) => (snapshot) =>
  answered(snapshot, 'libvirt', () => {
    const vm = snapshot.nodes.find((one) => one.name === name)?.vm;
    return vm ? read(vm) : null;
  });
const ofHost = (read) => (snapshot) => answered(snapshot, 'host', () => (snapshot.host ? read(snapshot.host) : null));
const ofSlurm = (read) => (snapshot) => answered(snapshot, 'slurm', () => (snapshot.slurm ? read(snapshot.slurm) : null));
const times = (value, factor) => (isKnown(value) ? value * factor : null);
const sum = (a, b) => (isKnown(a) && isKnown(b) ? a + b : null);

/** The nodes that have a line if there are too many: those that work most now. */
function shownNodes(snapshot) {
  if (snapshot.nodes.length <= MOST_LINES - 1) return snapshot.nodes;
  const busy = (node) => node.vm?.cpus_busy ?? -1;
  const most = [...snapshot.nodes].sort((a, b) => busy(b) - busy(a)).slice(0, MOST_LINES - 1);
  return snapshot.nodes.filter((node) => most.includes(node));
}

const jobsChart = () => ({
  id: 'jobs', title: 'Jobs', unit: 'number', format: number, lines: [
    line('running', [part('jobs_running', 'slurm')], ofSlurm((one) => one.jobs.filter(isRunning).length)),
    line('waiting', [part('jobs_waiting', 'slurm')], ofSlurm((one) => one.jobs.filter(isWaiting).length)),
    line('CPUs allotted', [part('cpus_allotted', 'slurm')], ofSlurm((one) => one.nodes.reduce((all, node) => all + node.cpus_allotted, 0))),
  ],
});

function gpuChart(snapshot, only) {
  const lines = [];
  for (const node of snapshot.nodes) {
    if (only && node.name !== only) continue;
    for (const gpu of node.guest?.gpus || []) {
      if (lines.length >= MOST_LINES) break;
      lines.push(line(`${node.name} GPU ${gpu.index}`, [part('gpu_busy', `${node.name}/${gpu.index}`)], (seen) =>
        answered(seen, `guest/${node.name}`, () =>
          seen.nodes.find((one) => one.name === node.name)?.guest?.gpus.find((one) => one.index === gpu.index)?.busy_percent)));
    }
  }
  return lines.length ? [{ id: 'gpu', title: 'GPUs busy', unit: 'percent', format: percent, top: 100, lines }] : [];
}

function chartsOfAll(snapshot) {
  const nodes = shownNodes(snapshot);
  const host = snapshot.host;
  const cpu = [];
  const memory = [];
  if (host?.cpus) cpu.push(line('host', [part('cpu', 'host')], ofHost((one) => times(one.cpus_busy, 100 / one.cpus)), 100 / host.cpus));
  if (host?.memory_mib) memory.push(line('host', [part('memory_used_mib', 'host')], ofHost((one) => times(hostMemoryUsed(one), 100 / one.memory_mib)), 100 / host.memory_mib));
  for (const node of nodes) {
    const cpus = node.vm?.vcpus;
    const total = memoryTotal(node);
    if (cpus) cpu.push(line(node.name, [part('cpu', node.name)], vmOf(node.name, (vm) => times(vm.cpus_busy, 100 / cpus)), 100 / cpus));
    if (total) memory.push(line(node.name, [part('memory_used_mib', node.name)], vmOf(node.name, (vm) => times(vm.guest_memory_used_mib, 100 / total)), 100 / total));
  }
  const both = (a, b) => nodes.map((node) =>
    line(node.name, [part(a, node.name), part(b, node.name)], vmOf(node.name, (vm) => sum(vm[a], vm[b]))));
  return [
    { id: 'cpu', title: 'CPU, of its own', unit: 'percent', format: percent, top: 100, lines: cpu },
    { id: 'memory', title: 'Memory, of its own', unit: 'percent', format: percent, top: 100, lines: memory },
    { id: 'disk', title: 'Disk, read and written', unit: 'rate', format: rate, lines: both('disk_read_bytes_s', 'disk_written_bytes_s') },
    { id: 'net', title: 'Network, received and sent', unit: 'rate', format: rate, lines: both('net_received_bytes_s', 'net_sent_bytes_s') },
    ...gpuChart(snapshot, null),
    jobsChart(),
  ];
}

function chartsOfHost(snapshot) {
  const pressure = ['cpu', 'memory', 'io'].map((kind) =>
    line(kind, [part(`pressure_${kind}`, 'host')], ofHost((one) => one.pressure[kind])));
  return [
    { id: 'cpu', title: 'CPUs busy', unit: 'number', format: number, top: snapshot.host?.cpus, lines: [line('host', [part('cpu', 'host')], ofHost((one) => one.cpus_busy))] },
    { id: 'memory', title: 'Memory used', unit: 'mib', format: mib, top: snapshot.host?.memory_mib, lines: [line('host', [part('memory_used_mib', 'host')], ofHost(hostMemoryUsed))] },
    { id: 'pressure', title: 'Pressure: time in which tasks waited', unit: 'percent', format: percent, lines: pressure },
    { id: 'storage', title: 'Storage of the VMs', unit: 'mib', format: mib, lines: [
      line('used', [part('storage_used_mib', 'host')], ofHost((one) => one.storage?.used_mib)),
      line('free', [part('storage_free_mib', 'host')], ofHost((one) => one.storage?.free_mib)),
    ] },
    jobsChart(),
  ];
}

export function chartsOfNode(snapshot, name) {
  const node = snapshot.nodes.find((one) => one.name === name);
  const of = (label, series, field = series) => line(label, [part(series, name)], vmOf(name, (vm) => vm[field]));
  return [
    { id: 'cpu', title: 'CPUs', unit: 'number', format: number, top: node?.vm?.vcpus, lines: [of('busy', 'cpu', 'cpus_busy'), of('waiting for the host', 'steal', 'cpus_waiting')] },
    { id: 'memory', title: 'Memory', unit: 'mib', format: mib, top: node?.vm?.memory_mib, lines: [of('used by the guest', 'memory_used_mib', 'guest_memory_used_mib'), of('QEMU on the host', 'qemu_memory_mib')] },
    { id: 'disk', title: 'Disk', unit: 'rate', format: rate, lines: [of('read', 'disk_read_bytes_s'), of('written', 'disk_written_bytes_s')] },
    { id: 'net', title: 'Network', unit: 'rate', format: rate, lines: [of('received', 'net_received_bytes_s'), of('sent', 'net_sent_bytes_s')] },
    { id: 'size', title: 'Disk on the host', unit: 'bytes', format: bytes, lines: [of('used', 'disk_used_bytes')] },
    ...gpuChart(snapshot, name),
  ];
}

export function chartsOf(snapshot, subject) {
  if (subject === 'host') return chartsOfHost(snapshot);
  if (subject && snapshot.nodes.some((one) => one.name === subject)) return chartsOfNode(snapshot, subject);
  return chartsOfAll(snapshot);
}

/** The points of all lines of one view. `load` replaces them; `add` takes those of a snapshot. */
export class Points {
  constructor() {
    this.lines = new Map();
    this.loading = 0;
    this.loadedAt = 0;
    this.failed = null;
    this.key = '';
  }

  /** Fetch what was before. A later call makes an earlier one void. */
  async load(cluster, charts, key) {
    const turn = ++this.loading;
    if (key !== this.key) this.lines = new Map();
    this.key = key;
    this.loadedAt = now();
    const { step, seconds } = state.range;
    const until = Math.floor(now() / step) * step + step;
    const since = until - Math.ceil(seconds / step) * step;
    const wanted = charts.flatMap((chart) => chart.lines);
    const work = wanted.flatMap((one) => one.parts.map((of) => ({ one, of })));
    const sums = new Map();
    let next = 0;
    let failed = null;
    const worker = async () => {
      while (next < work.length && turn === this.loading) {
        const { one, of } = work[next++];
        try {
          const { points } = await getSeries(cluster, { name: of.name, subject: of.subject, since, until, step });
          if (!sums.has(one.id)) sums.set(one.id, []);
          sums.get(one.id).push(points);
        } catch (error) {
          failed = error;
        }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    if (turn !== this.loading) return;
    this.failed = failed;
    for (const one of wanted) {
      if (sums.get(one.id)?.length !== one.parts.length) continue;
      const before = this.lines.get(one.id);
      const points = withoutBlinks(added(sums.get(one.id), one.factor, step));
      // The step that goes on now has no mean yet.
      const last = before?.size ? Math.max(...before.keys()) : 0;
      if (last > until - 3 * step && !isKnown(points.get(last))) points.set(last, before.get(last));
      this.lines.set(one.id, points);
    }
  }

  add(snapshot, charts) {
    const { step, seconds } = state.range;
    const at = Math.floor(snapshot.at / step) * step;
    const since = now() - seconds - step;
    for (const one of charts.flatMap((chart) => chart.lines)) {
      const points = this.lines.get(one.id) || new Map();
      this.lines.set(one.id, points);
      points.set(at, one.live(snapshot));
      for (const old of points.keys()) {
        if (old >= since) break;
        points.delete(old);
      }
    }
  }

  /** [[x…], [y…], …] for uPlot, in the order of the lines; null is a gap, undefined is no point. */
  table(lines) {
    const { step, seconds } = state.range;
    const until = Math.floor(now() / step) * step;
    const since = until - Math.ceil(seconds / step) * step;
    const count = (until - since) / step + 1;
    const xs = Array.from({ length: count }, (_, place) => since + place * step);
    const columns = lines.map((one) => {
      const points = this.lines.get(one.id);
      return xs.map((x) => points?.get(x));
    });
    return [xs, ...columns];
  }
}

function added(parts, factor, step) {
  const found = new Map();
  parts.forEach((points, place) => {
    for (const [t, value] of points) {
      const at = Math.round(t / step) * step;
      const before = place === 0 ? 0 : found.get(at);
      found.set(at, isKnown(value) && isKnown(before) ? before + value * factor : null);
    }
  });
  return new Map([...found].sort((a, b) => a[0] - b[0]));
}

// One step without a point is a round that came late. Two are a gap.
function withoutBlinks(points) {
  const all = [...points];
  return new Map(all.filter(([, value], place) =>
    value !== null || all[place - 1]?.[1] === null || all[place + 1]?.[1] === null));
}
