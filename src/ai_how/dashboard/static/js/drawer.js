// A node or a job in detail, in a dialog at the side: what is known, its charts, its journal, and the
// console of the node if the server lets us.

import { consoleUrl, getJournal, now } from './api.js';
import { Chart } from './charts.js';
import { userClass } from './colours.js';
import { byId, h, render } from './dom.js';
import { about, bytes, duration, iso, isKnown, mib, moment, number, percent, plural, rate, UNKNOWN } from './format.js';
import { keyOf, severity, sorted } from './health.js';
import { efficiency, isOn, isWaiting, jobEnd, jobsOnNodes, memoryTotal, nodeState, reasonInWords, trouble } from './model.js';
import { chartsOfNode, Points } from './series.js';
import { changed, current, isLive, state } from './store.js';

const JOURNAL_LINES = 200;
const blank = () => ({ kind: null, name: null, points: new Points(), charts: new Map(), journal: null, console: null });
const view = { ...blank(), turn: 0 };

const dialog = () => byId('drawer');

export function openNode(name) {
  open('node', name);
  const cluster = current();
  if (cluster?.snapshot) {
    view.points.load(cluster.name, chartsOfNode(cluster.snapshot, name), `${cluster.name} ${name} ${state.range.id}`).then(changed);
  }
}

export const openJob = (id) => open('job', id);

function open(kind, name) {
  forget();
  Object.assign(view, { kind, name });
  drawDrawer();
  if (!dialog().open) dialog().showModal();
  byId('drawer-body').scrollTop = 0;
}

function forget() {
  view.console?.close();
  for (const chart of view.charts.values()) chart.close();
  byId('drawer-charts').replaceChildren();
  Object.assign(view, blank(), { turn: view.turn + 1 });
}

export function startDrawer() {
  dialog().addEventListener('close', () => {
    forget();
    drawDrawer();
  });
  byId('drawer-close').onclick = () => dialog().close();
  // A click beside it closes it, too.
  dialog().addEventListener('click', (event) => {
    if (event.target === dialog()) dialog().close();
  });
}

/** A snapshot has come. */
export function addToDrawer(snapshot) {
  if (view.kind === 'node' && isLive()) view.points.add(snapshot, chartsOfNode(snapshot, view.name));
}

export function drawDrawer() {
  const cluster = current();
  const snapshot = cluster?.snapshot;
  const isNode = view.kind === 'node' && snapshot;
  byId('drawer-charts').hidden = !isNode;
  byId('drawer-tools').hidden = !isNode;
  if (isNode) drawNode(snapshot, snapshot.nodes.find((one) => one.name === view.name));
  else if (view.kind === 'job') drawJob(cluster?.jobs.get(view.name));
  else {
    render(byId('drawer-facts'));
    render(byId('drawer-tools'));
    render(byId('drawer-journal'));
  }
}

const facts = (rows) => h('dl', { class: 'facts' }, rows.filter(Boolean).map(([name, ...value]) =>
  h('div', { key: name }, h('dt', null, name), h('dd', null, ...value))));

function title(text, sub) {
  byId('drawer-title').textContent = text;
  byId('drawer-sub').textContent = sub;
}

function drawNode(snapshot, node) {
  if (!node) {
    title(view.name, 'This node is no longer in the cluster.');
    render(byId('drawer-facts'));
    return;
  }
  title(node.name, `${node.role}, ${node.ip}`);
  const findings = sorted(snapshot.findings.filter((one) => one.subject === node.name));
  render(byId('drawer-facts'),
    findings.length > 0 && h('ul', { class: 'findings' }, findings.map((one) => {
      const kind = severity(one);
      return h('li', { key: keyOf(one), class: `finding ${kind.tone}` }, h('strong', null, `${kind.sign} ${one.severity}: `), one.text);
    })),
    facts([...vmFacts(node, snapshot), ...slurmFacts(node), ...guestFacts(node, snapshot)]),
    jobsOf(node, snapshot), fileSystems(node), gpus(node));
  drawCharts(snapshot, node);
  drawTools(node);
  drawJournal();
}

function vmFacts(node, snapshot) {
  const vm = node.vm;
  const state = nodeState(node, snapshot);
  const old = trouble(snapshot, 'libvirt');
  if (!vm) return [['State', 'libvirt has never told of it']];
  return [
    ['State', h('span', { class: `state ${state.tone}` }, `${state.sign} ${state.word}`)],
    ['VM', `${vm.domain}: ${vm.state}${vm.reason ? ` (${vm.reason})` : ''}`],
    old !== null && ['As of', `${moment(snapshot.sources.find((one) => one.name === 'libvirt')?.at, now())}: ${old}`],
    ['CPUs', `${number(vm.cpus_busy)} of ${vm.vcpus} busy, ${number(vm.cpus_waiting)} waiting for the host`],
    ['Memory', `${mib(vm.guest_memory_used_mib)} of ${mib(memoryTotal(node))} used by the guest; ${mib(vm.qemu_memory_mib)} in QEMU on the host`],
    isKnown(vm.balloon_mib) && vm.balloon_mib < vm.memory_mib && ['Balloon', `${mib(vm.balloon_mib)} of ${mib(vm.memory_mib)} left to the guest`],
    ['Disk', `${bytes(vm.disk_used_bytes)} of ${bytes(vm.disk_capacity_bytes)} on the host; read ${rate(vm.disk_read_bytes_s)}, written ${rate(vm.disk_written_bytes_s)}`],
    ['Network', `received ${rate(vm.net_received_bytes_s)}, sent ${rate(vm.net_sent_bytes_s)}`],
    ['Agent', vm.is_agent_connected ? 'connected' : 'not connected'],
  ];
}

function slurmFacts(node) {
  const slurm = node.slurm;
  if (!slurm) return [];
  return [
    ['SLURM', slurm.states.join('+').replaceAll('_', ' ')],
    slurm.reason && ['Reason', `${slurm.reason}${slurm.reason_user ? ` (${slurm.reason_user}${isKnown(slurm.reason_at) ? `, ${moment(slurm.reason_at, now())}` : ''})` : ''}`],
    ['Allotted', `${slurm.cpus_allotted} of ${plural(slurm.cpus, 'CPU')}, ${mib(slurm.memory_allotted_mib)} of ${mib(slurm.memory_mib)}`],
    ['Partitions', slurm.partitions.join(', ') || UNKNOWN],
  ];
}

function guestFacts(node, snapshot) {
  const guest = node.guest;
  const old = trouble(snapshot, `guest/${node.name}`);
  if (!guest) return [old !== null && ['Guest', old]];
  const bad = Object.entries(guest.services).filter(([, word]) => word !== 'active');
  return [
    old !== null && ['Guest', old],
    isKnown(guest.uptime_s) && ['Up for', about(guest.uptime_s)],
    isKnown(guest.skew_s) && ['Clock', `${Math.abs(guest.skew_s) < 0.005 ? 'as the host' : `${number(Math.abs(guest.skew_s))} s ${guest.skew_s > 0 ? 'ahead' : 'behind'}`}`],
    guest.load && ['Load', guest.load.map(number).join(', ')],
    ['Services', bad.length ? bad.map(([name, word]) => `${name} ${word}`).join(', ') : Object.keys(guest.services).join(', ') || UNKNOWN, bad.length ? '' : ' active'],
    guest.failed_units.length > 0 && ['Failed units', guest.failed_units.join(', ')],
    isKnown(guest.oom_kills) && guest.oom_kills > 0 && ['OOM kills', String(guest.oom_kills)],
    guest.is_home_there === false && ['Home', 'the shared home does not answer'],
  ];
}

function jobsOf(node, snapshot) {
  const held = jobsOnNodes(snapshot).get(node.name) || [];
  if (!held.length) return null;
  const use = new Map((node.guest?.jobs || []).map((one) => [one.job, one]));
  return h('section', null, h('h3', null, 'Jobs here'), h('ul', { class: 'lines' }, held.slice(0, 40).map(({ job, cpus }) =>
    h('li', { key: job.id }, h('span', { class: `dot ${userClass(job.user)}`, 'aria-hidden': 'true' }),
      h('button', { type: 'button', class: 'link', onclick: () => openJob(job.id) }, job.shown_id),
      ` ${job.user} ${job.name}, ${plural(Math.round(cpus * 10) / 10, 'CPU')}`,
      use.has(job.id) && h('span', { class: 'hint' }, `, peak ${mib(use.get(job.id).memory_peak_mib)}`)))));
}

function fileSystems(node) {
  const all = node.guest?.file_systems || [];
  if (!all.length) return null;
  return h('section', null, h('h3', null, 'File systems'), h('ul', { class: 'lines' }, all.slice(0, 20).map((one) =>
    h('li', { key: one.mount_point }, h('code', null, one.mount_point), ` ${mib(one.used_mib)} of ${mib(one.size_mib)} used (${percent((100 * one.used_mib) / (one.size_mib || 1))}), ${mib(one.free_mib)} free`))));
}

function gpus(node) {
  const all = node.guest?.gpus || [];
  if (!all.length) return null;
  return h('section', null, h('h3', null, 'GPUs'), h('ul', { class: 'lines' }, all.slice(0, 32).map((one) =>
    h('li', { key: one.index }, `${one.index}: ${one.name}, ${percent(one.busy_percent)} busy, ${mib(one.memory_used_mib)} of ${mib(one.memory_mib)}, ${isKnown(one.temperature_c) ? `${number(one.temperature_c)} °C` : UNKNOWN}, ${isKnown(one.power_w) ? `${number(one.power_w)} W` : UNKNOWN}`))));
}

function drawCharts(snapshot, node) {
  const box = byId('drawer-charts');
  const width = Math.floor(box.clientWidth);
  if (!width || !dialog().open) return;
  const until = now();
  const specs = chartsOfNode(snapshot, node.name);
  specs.forEach((spec, place) => {
    if (!view.charts.has(spec.id)) {
      const chart = new Chart(() => changed('clock'));
      view.charts.set(spec.id, chart);
      box.append(chart.figure);
    }
    view.charts.get(spec.id).update(spec, view.points.table(spec.lines), { since: until - state.range.seconds, until, width, marks: [], isLast: place === specs.length - 1 });
  });
}

function drawTools(node) {
  const isHere = isOn(node);
  render(byId('drawer-tools'),
    h('button', { type: 'button', onclick: loadJournal, disabled: !isHere || view.journal?.isLoading === true }, view.journal ? 'Read the journal again' : 'Read the journal'),
    state.about.has_console && h('button', { type: 'button', onclick: openConsole, disabled: !isHere || view.console !== null }, 'Open the console'),
    view.console && h('button', { type: 'button', onclick: () => view.console?.close() }, 'Close the console'),
    !isHere && h('span', { class: 'hint' }, 'The node is not on.'));
}

async function loadJournal() {
  const turn = view.turn;
  const cluster = current();
  view.journal = { isLoading: true, entries: view.journal?.entries || [], failed: null };
  changed();
  const found = { isLoading: false, entries: [], failed: null };
  try {
    found.entries = await getJournal(cluster.name, view.name, JOURNAL_LINES);
  } catch (error) {
    found.failed = error.message;
  }
  if (turn === view.turn) view.journal = found;
  changed();
}

function drawJournal() {
  const journal = view.journal;
  render(byId('drawer-journal'), journal && h('section', null,
    h('h3', null, 'Journal'),
    journal.isLoading && h('p', { class: 'hint', role: 'status' }, 'Reading…'),
    journal.failed && h('p', { class: 'trouble', role: 'alert' }, journal.failed),
    !journal.isLoading && !journal.failed && !journal.entries.length && h('p', { class: 'hint' }, 'It has no entries.'),
    journal.entries.length > 0 && h('div', { class: 'journal', tabindex: 0, role: 'region', 'aria-label': 'The last entries of the journal' },
      journal.entries.map((one, place) => h('p', { key: place, class: isKnown(one.priority) && one.priority <= 3 ? 'bad' : isKnown(one.priority) && one.priority === 4 ? 'warning' : '' },
        h('time', { datetime: iso(one.at) }, moment(one.at, now())), ' ', one.identifier && h('b', null, `${one.identifier}: `), one.message)))));
}

async function openConsole() {
  const turn = view.turn;
  const cluster = current();
  const { Console } = await import('./console.js');
  if (turn !== view.turn) return;
  view.console = new Console(byId('console'), consoleUrl(cluster.name, view.name), () => {
    view.console = null;
    changed();
  });
  changed();
}

function drawJob(job) {
  if (!job) {
    title(`Job ${view.name}`, 'SLURM has forgotten this job.');
    render(byId('drawer-facts'));
    return;
  }
  const at = now();
  const end = jobEnd(job);
  const used = efficiency(job, at);
  title(`Job ${job.shown_id}`, job.name);
  const time = (value) => (isKnown(value) ? h('time', { datetime: iso(value) }, moment(value, at)) : UNKNOWN);
  render(byId('drawer-facts'), facts([
    ['State', h('span', { class: `state ${end.tone}` }, `${end.sign} ${end.word}`)],
    job.reason && job.reason !== 'None' && ['Reason', reasonInWords(job.reason)],
    ['User', h('span', { class: `dot ${userClass(job.user)}`, 'aria-hidden': 'true' }), job.user, job.account ? ` (account ${job.account})` : ''],
    ['Partition', `${job.partition}${job.qos ? `, QOS ${job.qos}` : ''}`],
    ['Nodes', job.nodes.join(', ') || (job.node_count ? `${plural(job.node_count, 'node')} wanted` : UNKNOWN)],
    ['Asked for', `${plural(job.cpus ?? 0, 'CPU')}, ${mib(job.memory_mib)}${job.gpus ? `, ${plural(job.gpus, 'GPU')}` : ''}`],
    ['CPU used', used.cpu === null ? UNKNOWN : `${percent(used.cpu)} of what was asked for (${duration(job.cpu_used_s)} of CPU time)`],
    ['Memory used', used.memory === null ? UNKNOWN : `${percent(used.memory)} of what was asked for (peak ${mib(job.memory_peak_mib)})`],
    ['Submitted', time(job.submitted_at)],
    [isWaiting(job) ? 'Expected to start' : 'Started', time(job.started_at)],
    ['Ended', time(job.ended_at)],
    ['Ran', `${duration(used.runs)}${isKnown(job.limit_s) ? ` of at most ${duration(job.limit_s)}` : ', without a limit'}`],
    isKnown(job.priority) && ['Priority', String(job.priority)],
    job.dependency && ['Depends on', job.dependency],
    isKnown(job.exit_code) && ['Exit code', `${job.exit_code}${job.signal ? `, signal ${job.signal}` : ''}`],
    isKnown(job.restarts) && job.restarts > 0 && ['Restarts', String(job.restarts)],
    job.command && ['Command', h('code', null, job.command)],
    job.work_directory && ['Directory', h('code', null, job.work_directory)],
    job.output && ['Output', h('code', null, job.output)],
  ]));
  render(byId('drawer-journal'));
  render(byId('drawer-tools'));
}

