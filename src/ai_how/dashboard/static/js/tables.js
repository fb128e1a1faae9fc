// The tables of nodes and of jobs. A click on the head of a column sorts by it.

import { userClass, userPattern } from './colours.js';
import { byId, h, render } from './dom.js';
import { bytes, duration, isKnown, iso, mib, moment, number, percent, plural, rate, UNKNOWN } from './format.js';
import { cpuPercent, efficiency, gpuCount, hasEnded, isRunning, isWaiting, jobEnd, memoryPercent, memoryTotal, nodeState, reasonInWords } from './model.js';

const MOST_ROWS = 300;

export const sorting = {
  nodes: { column: null, isDown: false, filter: '', all: false },
  jobs: { column: null, isDown: false, filter: '', all: false },
};

const compare = (a, b) => {
  // What is not known comes last, whichever way.
  if (a === null || a === undefined) return b === null || b === undefined ? 0 : 2;
  if (b === null || b === undefined) return -2;
  if (typeof a === 'number' && typeof b === 'number') return Math.sign(a - b);
  return String(a).localeCompare(String(b), 'en', { numeric: true });
};

function sortRows(rows, columns, { column, isDown }) {
  const by = columns.find((one) => one.id === column);
  if (!by) return rows;
  return rows.map((row) => ({ row, value: by.value(row) })).sort((a, b) => {
    const order = compare(a.value, b.value);
    return Math.abs(order) === 2 ? Math.sign(order) : isDown ? -order : order;
  }).map((one) => one.row);
}

function drawTable(name, { rows, columns, caption, keyOf, onOpen, nameOf }, redraw) {
  const how = sorting[name];
  const words = how.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (row) => columns.map((one) => one.text ? one.text(row) : one.value(row)).join(' ').toLowerCase();
  const found = words.length ? rows.filter((row) => { const all = text(row); return words.every((word) => all.includes(word)); }) : rows;
  const sorted = sortRows(found, columns, how);
  const shown = how.all ? sorted : sorted.slice(0, MOST_ROWS);
  const sort = (id) => {
    if (how.column !== id) Object.assign(how, { column: id, isDown: false });
    else if (!how.isDown) how.isDown = true;
    else Object.assign(how, { column: null, isDown: false });
    redraw();
  };
  render(byId(`${name}-table`),
    h('table', null,
      h('caption', { class: 'hidden' }, caption),
      h('thead', null, h('tr', null, columns.map((one) => {
        const isBy = how.column === one.id;
        return h('th', { key: one.id, scope: 'col', class: one.isFigure ? 'figure' : '', 'aria-sort': isBy ? (how.isDown ? 'descending' : 'ascending') : 'none' },
          h('button', { type: 'button', onclick: () => sort(one.id), title: one.hint }, one.name, h('span', { class: 'arrow', 'aria-hidden': 'true' }, isBy ? (how.isDown ? ' ▼' : ' ▲') : '')));
      }))),
      h('tbody', null, shown.map((row) => h('tr', { key: keyOf(row) }, columns.map((one, place) =>
        h(place ? 'td' : 'th', { key: one.id, scope: place ? null : 'row', class: `${one.isFigure ? 'figure' : ''} ${one.class || ''}` },
          place ? one.show(row) : h('button', { type: 'button', class: 'link', onclick: () => onOpen(keyOf(row)), 'aria-haspopup': 'dialog' }, nameOf(row)))))))));
  render(byId(`${name}-count`), found.length === rows.length ? String(rows.length) : `${found.length} of ${rows.length}`);
  render(byId(`${name}-more`),
    !rows.length && h('p', { class: 'hint' }, `There are no ${name}.`),
    sorted.length > shown.length && h('button', { type: 'button', onclick: () => { how.all = true; redraw(); } }, `Show ${plural(sorted.length - shown.length, 'more row')}`));
}

/** A share as a small bar with its figure. */
const meter = (share, text) => h('span', { class: 'meter' },
  h('span', { class: 'meter-track', 'aria-hidden': 'true' }, h('span', { class: `meter-fill ${share > 90 ? 'high' : ''}`, style: { width: `${isKnown(share) ? Math.min(100, share) : 0}%` } })), text);

const stateOf = (one) => h('span', { class: `state ${one.tone}` }, h('span', { 'aria-hidden': 'true' }, `${one.sign} `), one.word);

function nodeColumns(snapshot) {
  const root = (node) => node.guest?.file_systems.find((one) => one.mount_point === '/');
  const rootShare = (node) => (root(node)?.size_mib ? (100 * root(node).used_mib) / root(node).size_mib : null);
  const gpus = snapshot.nodes.some((node) => gpuCount(node).count);
  const jobs = new Map();
  for (const job of snapshot.slurm?.jobs || []) if (isRunning(job)) for (const name of job.nodes) jobs.set(name, (jobs.get(name) || 0) + 1);
  const vm = (node, field) => node.vm?.[field] ?? null;
  const figure = (id, name, field, format) => ({ id, name, isFigure: true, value: (node) => vm(node, field), show: (node) => format(vm(node, field)) });
  return [
    { id: 'name', name: 'Node', value: (node) => node.name },
    { id: 'state', name: 'State', value: (node) => nodeState(node, snapshot).word, show: (node) => stateOf(nodeState(node, snapshot)) },
    { id: 'cpu', name: 'CPUs busy', hint: 'of what the node has', isFigure: true, value: (node) => vm(node, 'cpus_busy'), show: (node) => meter(cpuPercent(node), `${number(vm(node, 'cpus_busy'))} / ${number(vm(node, 'vcpus'))}`) },
    { id: 'allotted', name: 'Allotted', hint: 'CPUs that SLURM gave to jobs', isFigure: true, value: (node) => node.slurm?.cpus_allotted ?? null, show: (node) => (node.slurm ? `${node.slurm.cpus_allotted} / ${node.slurm.cpus}` : UNKNOWN) },
    { id: 'memory', name: 'Memory used', isFigure: true, value: (node) => vm(node, 'guest_memory_used_mib'), show: (node) => meter(memoryPercent(node), `${mib(vm(node, 'guest_memory_used_mib'))} / ${mib(memoryTotal(node))}`) },
    { id: 'root', name: 'Root used', hint: 'the file system / of the guest', isFigure: true, value: rootShare, show: (node) => percent(rootShare(node)) },
    figure('disk', 'Disk on host', 'disk_used_bytes', bytes),
    figure('read', 'Read', 'disk_read_bytes_s', rate),
    figure('written', 'Written', 'disk_written_bytes_s', rate),
    figure('received', 'Received', 'net_received_bytes_s', rate),
    figure('sent', 'Sent', 'net_sent_bytes_s', rate),
    gpus && { id: 'gpus', name: 'GPUs', hint: 'allotted of all', isFigure: true, value: (node) => gpuCount(node).allotted, show: (node) => (gpuCount(node).count ? `${gpuCount(node).allotted} / ${gpuCount(node).count}` : UNKNOWN) },
    { id: 'jobs', name: 'Jobs', isFigure: true, value: (node) => (node.slurm ? jobs.get(node.name) || 0 : null), show: (node) => (node.slurm ? String(jobs.get(node.name) || 0) : UNKNOWN) },
    { id: 'reason', name: 'Reason', class: 'wide', value: (node) => node.slurm?.reason ?? null, text: (node) => `${node.slurm?.reason ?? ''} ${node.ip} ${node.role}`, show: (node) => node.slurm?.reason ?? '' },
  ].filter(Boolean);
}

export function drawNodes(snapshot, { onNode, redraw }) {
  drawTable('nodes', { rows: snapshot.nodes, columns: nodeColumns(snapshot), caption: 'Nodes', keyOf: (node) => node.name, nameOf: (node) => node.name, onOpen: onNode }, redraw);
}

function jobColumns(now) {
  const of = (job) => efficiency(job, now);
  const user = (job) => h('span', { class: 'user' }, h('span', { class: `dot ${userClass(job.user)} pattern-${userPattern(job.user)}`, 'aria-hidden': 'true' }), job.user);
  const since = (job) => job.ended_at ?? job.started_at ?? job.submitted_at ?? null;
  return [
    { id: 'id', name: 'Job', value: (job) => Number(job.id), text: (job) => job.shown_id },
    { id: 'name', name: 'Name', class: 'long', value: (job) => job.name, show: (job) => job.name },
    { id: 'user', name: 'User', value: (job) => job.user, show: user },
    { id: 'partition', name: 'Partition', value: (job) => job.partition, show: (job) => job.partition },
    { id: 'state', name: 'State', value: (job) => job.state, show: (job) => stateOf({ ...jobEnd(job), word: jobEnd(job).word.replaceAll('_', ' ') }) },
    { id: 'since', name: 'Since', isFigure: true, value: since, show: (job) => h('time', { datetime: iso(since(job)) }, moment(isWaiting(job) ? job.submitted_at : since(job), now)) },
    { id: 'ran', name: 'Ran', isFigure: true, value: (job) => of(job).runs, show: (job) => duration(of(job).runs) },
    { id: 'limit', name: 'Limit', isFigure: true, value: (job) => job.limit_s, show: (job) => duration(job.limit_s) },
    { id: 'cpus', name: 'CPUs', isFigure: true, value: (job) => job.cpus, show: (job) => number(job.cpus) },
    { id: 'cpu', name: 'CPU used', hint: 'CPU time of what was asked for', isFigure: true, value: (job) => of(job).cpu, show: (job) => (of(job).cpu === null ? UNKNOWN : meter(of(job).cpu, percent(of(job).cpu))) },
    { id: 'memory', name: 'Memory used', hint: 'the peak, of what was asked for', isFigure: true, value: (job) => of(job).memory, show: (job) => (of(job).memory === null ? UNKNOWN : meter(of(job).memory, percent(of(job).memory))) },
    { id: 'nodes', name: 'Nodes', class: 'long', value: (job) => job.nodes.join(','), show: (job) => job.nodes.join(', ') || (job.node_count ? `${job.node_count} wanted` : '') },
    { id: 'reason', name: 'Reason', class: 'wide', value: (job) => job.reason, show: (job) => (isRunning(job) ? '' : reasonInWords(job.reason)) },
  ];
}

const rank = (job) => (isRunning(job) ? 0 : hasEnded(job) ? 2 : 1);

export function drawJobs(cluster, { now, onJob, redraw }) {
  const rows = [...cluster.jobs.values()].sort((a, b) => rank(a) - rank(b) || Number(b.id) - Number(a.id));
  drawTable('jobs', { rows, columns: jobColumns(now), caption: 'Jobs', keyOf: (job) => job.id, nameOf: (job) => job.shown_id, onOpen: onJob }, redraw);
}
