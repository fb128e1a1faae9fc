// The page: it follows the server, keeps what it hears, and draws.

import { follow, getAbout, getEvents, getJobs, logIn, now } from './api.js';
import { asTable, Chart, forgetTheme } from './charts.js';
import { byId, h, render } from './dom.js';
import { addToDrawer, drawDrawer, openJob, openNode, startDrawer } from './drawer.js';
import { drawEvents, listEvents, marksOf } from './events.js';
import { about, clock, isKnown, mib, number, plural } from './format.js';
import { drawAxis, drawGantt, view as ganttView } from './gantt.js';
import { drawHealth, drawSources, keyOf } from './health.js';
import { hostMemoryUsed, gpuCount, isOn, isRunning, isWaiting } from './model.js';
import { drawPicture } from './picture.js';
import { chartsOf, Points } from './series.js';
import { changed, current, isLive, onChange, putEvents, putJobs, putSnapshot, RANGES, removeCluster, setClusters, state } from './store.js';
import { drawJobs, drawNodes, sorting } from './tables.js';
import { startTheme } from './theme.js';
import { onWidth } from './timeaxis.js';

const STALE_S = 20;
const points = new Points();
const charts = new Map();
const tables = new Set();
const width = { picture: 0, timeline: 0 };
let specs = [];
let known = null;

// --- What was before ---

const idsOf = (charts) => JSON.stringify(charts.map((one) => one.lines.map((line) => line.id)));
const viewKey = () => `${state.selected} ${state.range.id} ${state.subject} ${idsOf(specs)}`;

/** Ask for jobs, events and points of the time that is shown. */
async function reload() {
  const cluster = current();
  if (!cluster) return;
  const until = now() + 1;
  const since = until - state.range.seconds;
  const [jobs, events] = await Promise.allSettled([getJobs(cluster.name, since, until), getEvents(cluster.name, since, until)]);
  if (jobs.status === 'fulfilled') putJobs(cluster, jobs.value);
  if (events.status === 'fulfilled') putEvents(cluster, events.value);
  changed();
  await reloadPoints();
}

async function reloadPoints() {
  const cluster = current();
  if (!cluster?.snapshot) return;
  specs = chartsOf(cluster.snapshot, state.subject);
  await points.load(cluster.name, specs, viewKey());
  changed();
}

// --- What is new ---

function hear(snapshot) {
  const isFirst = !state.clusters.get(snapshot.cluster)?.snapshot;
  const cluster = putSnapshot(snapshot);
  if (cluster === current()) {
    tellHealth(snapshot);
    if (isFirst) reload();
    else if (isLive()) points.add(snapshot, specs);
    if (now() - points.loadedAt > Math.max(60, state.range.step) && (!isLive() || isOtherView(snapshot))) reloadPoints();
    addToDrawer(snapshot);
  }
  changed();
}

/** Nodes have come or gone, or others are the busiest now. */
const isOtherView = (snapshot) => idsOf(chartsOf(snapshot, state.subject)) !== idsOf(specs);

/** Say what has become wrong, or is right again: in words, for a screen reader. */
function tellHealth(snapshot) {
  const found = new Map(snapshot.findings.map((one) => [keyOf(one), one]));
  if (known && known.cluster === snapshot.cluster) {
    const fresh = [...found].filter(([key]) => !known.found.has(key)).map(([, one]) => `${one.severity}: ${one.text}`);
    const over = [...known.found].filter(([key]) => !found.has(key)).map(([, one]) => `over: ${one.text}`);
    if (fresh.length || over.length) say([...fresh, ...over].slice(0, 3).join('. '));
  }
  known = { cluster: snapshot.cluster, found };
}

function say(text) {
  byId('said').textContent = text;
}

function connect() {
  const { connection } = state;
  return follow({
    open: () => {
      const wasLost = connection.wasOpen;
      Object.assign(connection, { isOpen: true, wasOpen: true, lostAt: null });
      state.refusal = null;
      if (wasLost) {
        say('Live again.');
        // What was missed meanwhile is fetched.
        reload();
      }
      changed();
    },
    lost: (why) => {
      if (connection.isOpen) say('The connection to the server is lost.');
      Object.assign(connection, { isOpen: false, why, lostAt: connection.lostAt ?? now() });
      // EventSource does not tell why; an ordinary request does.
      getAbout().then((found) => { state.about = found; state.refusal = null; }, (error) => { state.refusal = error.status === 401 ? error : null; }).finally(changed);
      changed();
    },
    clusters: (listed) => {
      const before = state.selected;
      setClusters(listed);
      if (before !== state.selected) select(state.selected);
      changed();
    },
    snapshot: hear,
    event: (event) => {
      const cluster = state.clusters.get(event.cluster);
      if (cluster) putEvents(cluster, [event]);
      changed();
    },
    gone: ({ cluster }) => {
      const wasShown = cluster === state.selected;
      removeCluster(cluster);
      if (wasShown) select(state.selected);
      changed();
    },
  });
}

// --- What is chosen ---

function select(name) {
  state.selected = name;
  state.subject = '';
  known = null;
  for (const how of Object.values(sorting)) how.all = false;
  try {
    if (name) sessionStorage.setItem('ai-how-cluster', name);
  } catch {
    // It is only a convenience.
  }
  reload();
  changed();
}

function startRanges() {
  byId('ranges').append(...RANGES.map((one) => {
    const label = document.createElement('label');
    const input = Object.assign(document.createElement('input'), { type: 'radio', name: 'range', value: one.id, checked: one === state.range });
    input.onchange = () => {
      state.range = one;
      reload();
      changed();
    };
    const text = document.createElement('span');
    text.textContent = one.name;
    label.append(input, text);
    return label;
  }));
  for (const input of document.querySelectorAll('input[name=gantt-by]')) {
    input.onchange = () => {
      ganttView.by = input.value;
      changed();
    };
  }
  byId('subject').onchange = (event) => {
    state.subject = event.target.value;
    reloadPoints();
    changed();
  };
  for (const name of ['nodes', 'jobs']) {
    byId(`${name}-filter`).oninput = (event) => {
      sorting[name].filter = event.target.value;
      changed();
    };
  }
}

// --- Drawing ---

function drawTabs() {
  const names = [...state.clusters.keys()];
  byId('tabs').hidden = names.length < 2;
  render(byId('tabs'), names.map((name) => {
    const { snapshot } = state.clusters.get(name);
    const bad = snapshot?.findings.length || 0;
    return h('button', {
      key: name, type: 'button', role: 'tab', id: `tab-${name}`, 'aria-selected': String(name === state.selected), 'aria-controls': 'content',
      tabindex: name === state.selected ? 0 : -1, onclick: () => select(name),
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        const next = event.key === 'Home' ? names[0] : event.key === 'End' ? names.at(-1) : step ? names[(names.indexOf(name) + step + names.length) % names.length] : null;
        if (!next) return;
        event.preventDefault();
        select(next);
        byId(`tab-${next}`)?.focus();
      },
    }, h('span', { class: snapshot ? (snapshot.is_up ? 'good' : 'quiet') : 'quiet', 'aria-hidden': 'true' }, snapshot?.is_up ? '● ' : '○ '), bad > 0 ? `${name} ` : name,
    bad > 0 && h('span', { class: 'count', title: plural(bad, 'finding') }, bad, h('span', { class: 'hidden' }, bad === 1 ? ' finding' : ' findings')));
  }));
}

/** Whether what is shown is live, and since when not. */
function liveness() {
  const { connection, refusal } = state;
  const cluster = current();
  const at = cluster?.snapshot?.at;
  if (refusal) return { tone: 'bad', sign: '✕', text: `Not live: ${refusal.message}` };
  if (!connection.isOpen) {
    return connection.wasOpen || connection.lostAt
      ? { tone: 'bad', sign: '○', text: `Not live since ${clock(at ?? connection.lostAt)}: ${connection.why}; trying again` }
      : { tone: 'quiet', sign: '◌', text: 'Connecting…' };
  }
  if (!cluster) return { tone: 'good', sign: '●', text: 'Live' };
  if (!at) return { tone: 'quiet', sign: '◌', text: 'Waiting for the first look at the cluster' };
  const late = now() - at;
  const least = Math.min(...cluster.snapshot.sources.map((one) => one.every_s), 15);
  if (late > Math.max(STALE_S, 4 * least)) return { tone: 'warning', sign: '◷', text: `Not live since ${clock(at)}: nothing new is seen of this cluster` };
  const first = cluster.snapshot.sources.find((one) => one.trouble !== null);
  if (first) return { tone: 'warning', sign: '◐', text: `Live, with gaps: ${first.name}` };
  return { tone: 'good', sign: '●', text: 'Live' };
}

let toldLive = '';

function drawLive() {
  const live = liveness();
  const at = current()?.snapshot?.at;
  render(byId('live'), h('span', { class: `live ${live.tone}` }, h('span', { class: 'pulse', 'aria-hidden': 'true' }, live.sign), ' ', live.text));
  render(byId('live-at'), at ? clock(at) : '');
  byId('live-at').dataset.at = at ? Math.floor(at) : '';
  if (toldLive && toldLive !== live.text && live.tone !== 'good') say(live.text);
  toldLive = live.text;
  document.body.classList.toggle('stale', live.text.startsWith('Not live'));
}

function drawHead(snapshot) {
  const words = [
    snapshot.slurm?.version && `SLURM ${snapshot.slurm.version}`,
    snapshot.network && `network ${snapshot.network}`,
    snapshot.host_uri && `host ${snapshot.host_uri}`,
    snapshot.host?.is_kvm === false && 'emulated',
  ].filter(Boolean);
  const isAnyOn = snapshot.nodes.some(isOn);
  const [sign, word, tone] = !snapshot.is_up ? ['○', 'host down', 'quiet'] : isAnyOn ? ['●', 'up', 'good'] : ['○', 'stopped', 'quiet'];
  render(byId('cluster-name'), snapshot.cluster);
  render(byId('cluster-words'), h('span', { class: `badge ${tone}` }, h('span', { 'aria-hidden': 'true' }, `${sign} `), word),
    snapshot.doing && h('span', { class: 'badge warning' }, `ai-how ${snapshot.doing} works on it`), h('span', null, words.join(' · ')));
  document.title = `${snapshot.findings.length ? `(${snapshot.findings.length}) ` : ''}${snapshot.cluster} · ai-how`;
}

function figures(snapshot) {
  const slurm = snapshot.slurm;
  const host = snapshot.host;
  const compute = slurm?.nodes || [];
  const working = compute.filter((one) => ['idle', 'mixed', 'allocated'].includes(one.states[0]) && !one.states.some((word) => ['drain', 'not_responding', 'fail', 'maint'].includes(word)));
  const total = (all, field) => all.reduce((sum, one) => sum + one[field], 0);
  const vms = snapshot.nodes.map((one) => one.vm).filter(Boolean);
  const used = vms.map((one) => one.guest_memory_used_mib).filter(isKnown);
  const gpus = snapshot.nodes.map(gpuCount).reduce((a, b) => ({ count: a.count + b.count, allotted: a.allotted + b.allotted }), { count: 0, allotted: 0 });
  return [
    ['Nodes working', slurm ? `${working.length}` : '–', slurm ? `of ${compute.length}` : '', slurm && working.length < compute.length ? 'warning' : ''],
    ['CPUs allotted', slurm ? String(total(compute, 'cpus_allotted')) : '–', slurm ? `of ${total(compute, 'cpus')}` : ''],
    gpus.count > 0 && ['GPUs allotted', String(gpus.allotted), `of ${gpus.count}`],
    ['Jobs running', slurm ? String(slurm.jobs.filter(isRunning).length) : '–', ''],
    ['Jobs waiting', slurm ? String(slurm.jobs.filter(isWaiting).length) : '–', ''],
    ['Guests’ memory', used.length ? mib(used.reduce((a, b) => a + b, 0)) : '–', used.length ? `of ${mib(total(vms, 'memory_mib'))}` : ''],
    ['Host CPUs busy', number(host?.cpus_busy), host ? `of ${host.cpus}` : ''],
    ['Host memory', mib(hostMemoryUsed(host)), host ? `of ${mib(host.memory_mib)}` : ''],
    ['Storage free', mib(host?.storage?.free_mib), host?.storage ? `of ${mib(host.storage.size_mib)}` : '', isKnown(host?.storage?.free_mib) && host.storage.free_mib < host.storage.size_mib * 0.05 ? 'warning' : ''],
  ].filter(Boolean);
}

function drawSummary(snapshot) {
  render(byId('summary'), figures(snapshot).map(([name, value, of, tone]) =>
    h('div', { key: name, class: tone || '' }, h('dt', null, name), h('dd', null, h('span', { class: 'big' }, value), ' ', h('span', { class: 'of' }, of)))));
}

function drawSubjects(snapshot) {
  if (state.subject && state.subject !== 'host' && !snapshot.nodes.some((one) => one.name === state.subject)) state.subject = '';
  const all = snapshot.nodes.length > 7 ? 'Host and the busiest nodes' : 'Host and all nodes';
  render(byId('subject'), [['', all], ['host', 'Host'], ...snapshot.nodes.map((one) => [one.name, one.name])].map(([value, name]) =>
    h('option', { key: value, value, selected: value === state.subject }, name)));
}

function chartOf(spec) {
  if (!charts.has(spec.id)) {
    const chart = new Chart(() => changed('legend'));
    chart.table = document.createElement('details');
    const summary = document.createElement('summary');
    summary.textContent = 'As a table';
    summary.setAttribute('aria-label', `${spec.title} as a table`);
    chart.rows = document.createElement('div');
    chart.table.append(summary, chart.rows);
    chart.table.ontoggle = () => {
      if (chart.table.open) tables.add(spec.id);
      else tables.delete(spec.id);
      changed();
    };
    chart.figure.append(chart.table);
    charts.set(spec.id, chart);
  }
  return charts.get(spec.id);
}

function drawCharts({ since, until, marks }) {
  const ids = specs.map((one) => one.id);
  for (const [id, chart] of charts) {
    if (ids.includes(id)) continue;
    chart.close();
    chart.figure.remove();
    charts.delete(id);
  }
  specs.forEach((spec, place) => {
    const chart = chartOf(spec);
    const data = points.table(spec.lines);
    if (byId('charts').children[place] !== chart.figure) byId('charts').insertBefore(chart.figure, byId('charts').children[place] || null);
    chart.update(spec, data, { since, until, width: width.timeline, marks, isLast: place === specs.length - 1 });
    render(chart.rows, tables.has(spec.id) && asTable(spec, data, until));
  });
}

function drawTimeline(cluster) {
  if (!width.timeline) return;
  const until = now();
  const since = until - state.range.seconds;
  const marks = marksOf(cluster.events);
  const span = { since, until, width: width.timeline, marks, now: until };
  if (!specs.length) specs = chartsOf(cluster.snapshot, state.subject);
  drawAxis(since, until, width.timeline);
  drawEvents(cluster.events, span);
  drawGantt(cluster, { ...span, onJob: openJob });
  drawCharts(span);
  render(byId('series-note'), points.failed && `Not all of what was before could be read: ${points.failed.message}`);
}

function drawGapNote(snapshot) {
  const gaps = snapshot.sources.filter((one) => one.trouble !== null);
  const named = gaps.slice(0, 3).map((one) => `${one.name} (${one.trouble}${one.at === null ? '' : `; last seen ${about(now() - one.at)} ago`})`).join(', ');
  byId('gaps').hidden = gaps.length === 0;
  render(byId('gaps'), gaps.length > 0 && [h('strong', null, '? Gap: '), `no newer answer of ${named}${gaps.length > 3 ? ` and ${gaps.length - 3} more` : ''}. What is shown of it is old.`]);
}

function drawLegends() {
  for (const chart of charts.values()) chart.drawHead();
}

/** What changes while time goes on and nothing new is seen. */
function drawClock() {
  drawLive();
  const cluster = current();
  if (!cluster?.snapshot) return;
  drawGapNote(cluster.snapshot);
  drawTimeline(cluster);
  drawSources(cluster.snapshot, now());
  drawDrawer();
}

function draw(what) {
  if (what.has('all')) drawAll();
  else if (what.has('clock')) drawClock();
  else drawLegends();
}

function drawAll() {
  drawTabs();
  drawLive();
  const cluster = current();
  const snapshot = cluster?.snapshot;
  byId('content').hidden = !snapshot;
  byId('empty').hidden = Boolean(snapshot);
  byId('content').setAttribute('aria-labelledby', byId('tabs').hidden ? 'cluster-name' : `tab-${state.selected}`);
  if (!snapshot) {
    render(byId('empty'), state.refusal
      ? [h('h1', null, 'This page needs its token'), h('p', null, `${state.refusal.message}.`)]
      : cluster
        ? [h('h1', null, cluster.name), h('p', null, cluster.trouble ? `Nothing is seen of it: ${cluster.trouble}.` : 'Nothing is seen of it yet.')]
        : [h('h1', null, 'No cluster'), h('p', null, 'A cluster that is started appears here: ', h('code', null, 'ai-how hpc start FILE'))]);
    return;
  }
  drawHead(snapshot);
  drawGapNote(snapshot);
  drawSummary(snapshot);
  drawHealth(snapshot, now());
  if (width.picture) drawPicture(snapshot, width.picture, openNode);
  drawSubjects(snapshot);
  drawTimeline(cluster);
  listEvents(cluster.events, now());
  drawSources(snapshot, now());
  drawNodes(snapshot, { onNode: openNode, redraw: changed });
  drawJobs(cluster, { now: now(), onJob: openJob, redraw: changed });
  drawDrawer();
}

async function start() {
  startTheme(() => {
    forgetTheme();
    changed();
  });
  startRanges();
  startDrawer();
  onChange(draw);
  onWidth(byId('picture'), (found) => { width.picture = found; changed(); });
  onWidth(byId('timeline-body'), (found) => { width.timeline = found; changed(); });
  try {
    state.wanted = sessionStorage.getItem('ai-how-cluster');
  } catch {
    // Then the first cluster is shown.
  }
  try {
    await logIn((name) => { state.wanted = name; });
    state.about = await getAbout();
    byId('version').textContent = `ai-how ${state.about.version}`;
  } catch (error) {
    if (error.status) state.refusal = error;
  }
  const again = connect();
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) return;
    again();
    reload();
    changed();
  });
  // Ages and the axis go on between two snapshots.
  setInterval(() => changed('clock'), 3000);
  changed();
}

start();

