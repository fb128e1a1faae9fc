// The cluster as a picture: host, network, partitions, nodes, GPUs, and whose jobs are where.
// Many nodes become small cells.

import { letters, userClass, userPattern } from './colours.js';
import { byId, h, render } from './dom.js';
import { isKnown, mib, number, percent, plural } from './format.js';
import { cpuPercent, gpuCount, hostMemoryUsed, isOn, jobsOnNodes, memoryPercent, nodeState, trouble } from './model.js';
import { keepStop, rove, tabStop } from './roving.js';

const DENSE_FROM = 33;
const PAD = 12;
const GAP = 8;
const HEAD = 26;
const MOST_LABELS = 2;

/** Nodes by the partitions that they are in; the others by their role. */
function groupsOf(snapshot) {
  const groups = new Map();
  const partitions = new Map();
  for (const one of snapshot.slurm?.partitions || []) {
    for (const name of one.nodes) partitions.set(name, [...(partitions.get(name) || []), one]);
  }
  for (const node of snapshot.nodes) {
    const of = partitions.get(node.name) || [];
    const label = of.length ? of.map((one) => one.name).join(' + ') : node.role;
    const bad = of.filter((one) => one.state !== 'up').map((one) => `${one.name} is ${one.state}`).join(', ');
    if (!groups.has(label)) groups.set(label, { label, bad, isPartition: of.length > 0, nodes: [] });
    groups.get(label).nodes.push(node);
  }
  return [...groups.values()];
}

/** What nearly all names begin with, to the last dash: it is not repeated in small cells. */
function commonStart(names) {
  if (names.length < 2) return '';
  let start = names[0];
  for (const name of names) while (!name.startsWith(start)) start = start.slice(0, -1);
  return start.slice(0, start.lastIndexOf('-') + 1);
}

function cellShape(snapshot, width, inner) {
  const isDense = snapshot.nodes.length >= DENSE_FROM;
  const hasGpus = snapshot.nodes.some((node) => gpuCount(node).count || node.guest?.gpus.length);
  if (isDense) {
    const least = width < 600 ? 40 : 54;
    const columns = Math.max(1, Math.floor((inner + 4) / (least + 4)));
    return { isDense, hasGpus, gap: 4, width: Math.floor((inner + 4) / columns) - 4, height: 34 };
  }
  const columns = Math.max(1, Math.min(6, Math.floor((inner + GAP) / (196 + GAP))));
  const cell = Math.min(280, Math.floor((inner + GAP) / columns) - GAP);
  return { isDense, hasGpus, gap: GAP, width: cell, height: hasGpus ? 134 : 114 };
}

/** Places of groups and cells, in rows from left to right. */
function layOut(snapshot, width) {
  const inner = width - 2 * PAD - 18;
  const cell = cellShape(snapshot, width, inner - 2 * PAD);
  const groups = [];
  const rows = [];
  let x = 0;
  let y = 0;
  let tallest = 0;
  for (const group of groupsOf(snapshot)) {
    const most = Math.max(1, Math.floor((inner - 2 * PAD + cell.gap) / (cell.width + cell.gap)));
    const columns = Math.min(most, group.nodes.length);
    const lines = Math.ceil(group.nodes.length / columns);
    const wide = Math.max(columns * (cell.width + cell.gap) - cell.gap + 2 * PAD, cell.isDense ? 150 : 0);
    const tall = lines * (cell.height + cell.gap) - cell.gap + HEAD + PAD;
    if (x > 0 && x + wide > inner + 1) {
      y += tallest + 22;
      x = 0;
      tallest = 0;
    }
    if (x === 0) rows.push(y);
    groups.push({ ...group, x, y, width: Math.min(wide, inner), height: tall, columns });
    x += wide + 14;
    tallest = Math.max(tallest, tall);
  }
  return { cell, groups, rows, height: y + tallest };
}

const bar = (x, y, width, height, share) => [
  h('rect', { class: 'track', x, y, width, height, rx: Math.min(3, height / 2) }),
  isKnown(share) && h('rect', { class: 'fill use', x, y, width: Math.max(0, Math.min(1, share / 100)) * width, height, rx: Math.min(3, height / 2) }),
];

/** CPUs by job: who has them, as parts of a bar. */
function allotment(x, y, width, height, total, held) {
  let left = x;
  const each = width / Math.max(1, total);
  const parts = held.map(({ job, cpus }) => {
    const wide = Math.max(0, Math.min(cpus * each, x + width - left));
    const at = left;
    left += wide;
    if (wide < 1) return null;
    return h('g', { key: job.id, class: userClass(job.user) },
      h('title', null, `${job.shown_id} ${job.name}: ${job.user}, ${plural(Math.round(cpus * 10) / 10, 'CPU')}`),
      h('rect', { class: 'hue', x: at + 0.5, y, width: Math.max(1, wide - 1), height, rx: 2 }),
      userPattern(job.user) > 0 && h('rect', { x: at + 0.5, y, width: Math.max(1, wide - 1), height, rx: 2, fill: `url(#pattern-${userPattern(job.user)})` }),
      wide >= 18 && height >= 11 && h('text', { class: 'on-hue', x: at + wide / 2, y: y + height - 3.5, 'text-anchor': 'middle' }, letters(job.user)));
  });
  const marks = [];
  if (each >= 6) for (let slot = 1; slot < total; slot += 1) marks.push(h('line', { class: 'slot', x1: x + slot * each, x2: x + slot * each, y1: y, y2: y + height }));
  return [h('rect', { class: 'track', x, y, width, height, rx: 2 }), parts, marks];
}

function gpuBoxes(node, held, x, y, width) {
  const { count, allotted } = gpuCount(node);
  const total = Math.max(count, node.guest?.gpus.length || 0);
  const users = held.flatMap(({ job }) => Array.from({ length: Math.round((job.gpus || 0) / (job.nodes.length || 1)) }, () => job.user));
  const each = Math.min(56, (width - 4) / Math.max(1, total));
  return Array.from({ length: total }, (_, place) => {
    const user = users[place];
    const gpu = node.guest?.gpus.find((one) => one.index === place);
    const isHeld = place < Math.max(allotted, users.length);
    const text = isKnown(gpu?.busy_percent) ? `G${place} ${Math.round(gpu.busy_percent)}%` : `G${place}`;
    return h('g', { class: user ? userClass(user) : '' },
      h('title', null, `GPU ${place}${gpu ? ` ${gpu.name}` : ''}: ${user || (isHeld ? 'allotted' : 'free')}, ${percent(gpu?.busy_percent)} busy`),
      h('rect', { class: user ? 'hue' : isHeld ? 'fill quiet' : 'gpu-free', x: x + place * each, y, width: each - 3, height: 14, rx: 2 }),
      each >= 26 && h('text', { class: user ? 'on-hue' : 'small', x: x + place * each + (each - 3) / 2, y: y + 10.5, 'text-anchor': 'middle' }, each >= 54 ? text : `G${place}`));
  });
}

/** What the picture says of a node, in words. */
function nodeWords(node, state, held) {
  const jobs = held.map(({ job }) => `${job.shown_id} of ${job.user}`).join(', ');
  return `${node.name}, ${state.word}, CPU ${percent(cpuPercent(node))}, memory ${percent(memoryPercent(node))}, ${jobs ? `jobs ${jobs}` : 'no jobs'}`;
}

function cut(text, width, each = 6.4) {
  const most = Math.max(1, Math.floor(width / each));
  const all = [...text];
  return all.length > most ? `${all.slice(0, most - 1).join('')}…` : text;
}

function largeCell(node, { state, held, cell, isStale }) {
  const wide = cell.width - 2 * PAD;
  const total = node.slurm?.cpus ?? node.vm?.vcpus ?? 1;
  const labelsAt = cell.hasGpus ? 106 : 86;
  const jobs = held.slice(0, held.length > MOST_LABELS ? MOST_LABELS - 1 : MOST_LABELS);
  const word = `${state.sign} ${state.word}`;
  const wordWidth = Math.min(wide * 0.6, word.length * 6.2 + 4);
  return [
    h('text', { class: 'name', x: PAD, y: 20 }, cut(node.name, wide - wordWidth, 7.4)),
    h('text', { class: `state ${state.tone}`, x: PAD + wide, y: 20, 'text-anchor': 'end' }, cut(word, wide * 0.6, 6.2)),
    node.slurm
      ? allotment(PAD, 30, wide, 15, total, held)
      : h('text', { class: 'small', x: PAD, y: 42 }, `${plural(total, 'CPU')}, no jobs here`),
    h('text', { class: 'small', x: PAD, y: 60 }, 'CPU'),
    bar(PAD + 32, 54, wide - 32 - 40, 6, isStale ? null : cpuPercent(node)),
    h('text', { class: 'small figure', x: PAD + wide, y: 60, 'text-anchor': 'end' }, percent(cpuPercent(node))),
    h('text', { class: 'small', x: PAD, y: 74 }, 'Mem'),
    bar(PAD + 32, 68, wide - 32 - 40, 6, isStale ? null : memoryPercent(node)),
    h('text', { class: 'small figure', x: PAD + wide, y: 74, 'text-anchor': 'end' }, percent(memoryPercent(node))),
    cell.hasGpus && gpuBoxes(node, held, PAD, 82, wide),
    jobs.map(({ job }, place) => h('g', { key: `label-${job.id}`, class: userClass(job.user) },
      h('rect', { class: 'hue', x: PAD, y: labelsAt + place * 14, width: 9, height: 9, rx: 2 }),
      h('text', { class: 'small', x: PAD + 14, y: labelsAt + 8 + place * 14 }, cut(`${job.shown_id} ${job.user} ${job.name}`, wide - 14, 6)))),
    held.length > MOST_LABELS && h('text', { class: 'small', x: PAD + 14, y: labelsAt + 8 + jobs.length * 14 }, `and ${held.length - jobs.length} more jobs`),
  ];
}

function smallCell(node, { state, held, cell, isStale, start }) {
  const total = node.slurm?.cpus ?? node.vm?.vcpus ?? 1;
  const wide = cell.width - 8;
  return [
    h('text', { class: 'tiny', x: 4, y: 12 }, cut(node.name.slice(node.name.startsWith(start) ? start.length : 0), wide - 12, 5.8)),
    h('text', { class: `tiny ${state.tone}`, x: cell.width - 4, y: 12, 'text-anchor': 'end' }, state.sign),
    allotment(4, 17, wide, 6, total, held),
    bar(4, 26, wide, 3, isStale ? null : cpuPercent(node)),
  ];
}

function drawNode(node, place, { snapshot, held, cell, group, start, onNode, isFirst, isStale }) {
  const x = PAD + (place % group.columns) * (cell.width + cell.gap);
  const y = HEAD + Math.floor(place / group.columns) * (cell.height + cell.gap);
  const state = nodeState(node, snapshot);
  const mine = held.get(node.name) || [];
  const words = nodeWords(node, state, mine);
  const look = { state, held: mine, cell, isStale, start };
  return h('g', {
    key: node.name, class: `node ${state.tone} ${isOn(node) ? '' : 'off'}`, transform: `translate(${x} ${y})`, role: 'button',
    tabindex: tabStop('picture', node.name, isFirst), 'data-roving': node.name,
    'aria-label': words, onclick: () => onNode(node.name),
  },
  h('title', null, words),
  h('rect', { class: 'box', width: cell.width, height: cell.height, rx: cell.isDense ? 4 : 7 }),
  cell.isDense ? smallCell(node, look) : largeCell(node, look));
}

function drawHost(snapshot, width) {
  const host = snapshot.host;
  if (!snapshot.is_up) return h('text', { class: 'name', x: PAD, y: 22 }, 'The host of the VMs is down');
  const words = host ? [
    `${number(host.cpus_busy)} of ${plural(host.cpus, 'CPU')} busy`,
    `${mib(hostMemoryUsed(host))} of ${mib(host.memory_mib)} used`,
    host.storage ? `${mib(host.storage.free_mib)} of storage free` : '',
    host.is_kvm === false ? 'emulated, without KVM' : '',
  ].filter(Boolean) : ['not known'];
  const isWide = width > 640;
  return [
    h('text', { class: 'name', x: PAD, y: 22 }, 'Host'),
    isWide
      ? h('text', { class: 'small', x: PAD + 44, y: 22 }, words.join('  ·  '))
      : words.map((one, place) => h('text', { class: 'small', x: PAD + (place % 2 ? width / 2 - PAD : 0), y: 40 + Math.floor(place / 2) * 16 }, one)),
  ];
}

function drawWires(groups, rows, top, width, network) {
  const x = PAD + 4;
  const isWide = width > 640;
  const drop = (one) => PAD + 18 + one.x + Math.min(60, one.width / 2);
  return [
    rows.length > 1 && h('path', { class: 'wire', d: `M ${x} ${top - 9} V ${top + rows.at(-1) - 9}` }),
    rows.map((y, place) => {
      const of = groups.filter((one) => one.y === y);
      return h('g', { key: `row-${y}` },
        h('path', { class: 'wire', d: `M ${rows.length > 1 ? x : drop(of[0])} ${top + y - 9} H ${place === 0 ? width - PAD : drop(of.at(-1))}` }),
        of.map((one) => h('path', { class: 'wire', d: `M ${drop(one)} ${top + y - 9} v 9` })));
    }),
    h('text', { class: 'small', x: width - PAD, y: isWide ? 36 : top - 16, 'text-anchor': 'end' }, `network ${network || 'not known'}`),
  ];
}

const PATTERNS = h('defs', null,
  h('pattern', { id: 'pattern-1', width: 6, height: 6, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' }, h('rect', { class: 'hatch', width: 2, height: 6 })),
  h('pattern', { id: 'pattern-2', width: 5, height: 5, patternUnits: 'userSpaceOnUse' }, h('circle', { class: 'hatch', cx: 2.5, cy: 2.5, r: 1.2 })));

export function drawPicture(snapshot, width, onNode) {
  const top = width > 640 ? 54 : 104;
  const { cell, groups, rows, height } = layOut(snapshot, width);
  const held = jobsOnNodes(snapshot);
  const names = groups.flatMap((one) => one.nodes.map((node) => node.name));
  keepStop('picture', names);
  const start = commonStart(snapshot.nodes.filter((node) => node.slurm).map((node) => node.name));
  const isStale = trouble(snapshot, 'libvirt') !== null;
  const tall = top + height + PAD;
  render(byId('picture'),
    h('svg', { width, height: tall, viewBox: `0 0 ${width} ${tall}`, role: 'group', 'aria-label': pictureWords(snapshot), ...rove('picture') },
      PATTERNS,
      h('rect', { class: 'host', x: 0.5, y: 0.5, width: width - 1, height: tall - 1, rx: 10 }),
      drawHost(snapshot, width),
      rows.length > 0 && drawWires(groups, rows, top, width, snapshot.network),
      groups.map((group) => h('g', { key: group.label, transform: `translate(${PAD + 18 + group.x} ${top + group.y})` },
        h('rect', { class: 'group', width: group.width, height: group.height, rx: 8 }),
        h('text', { class: 'label', x: PAD, y: 17 }, `${group.label}${cell.isDense && start && group.isPartition ? `, ${plural(group.nodes.length, 'node')}: ${start}…` : ''}`, group.bad && h('tspan', { class: 'warning' }, `  ▲ ${group.bad}`)),
        group.nodes.map((node, place) => drawNode(node, place, { snapshot, held, cell, group, start, onNode, isStale, isFirst: node.name === names[0] }))))));
  render(byId('picture-key'), drawKey(held));
}

function pictureWords(snapshot) {
  const jobs = (snapshot.slurm?.jobs || []).filter((job) => job.state === 'running').length;
  return `${plural(snapshot.nodes.length, 'node')}, ${plural(jobs, 'running job')}. Arrow keys go from node to node; the table of nodes below has the same.`;
}

function drawKey(held) {
  const users = new Map();
  for (const list of held.values()) {
    for (const { job, cpus } of list) {
      const one = users.get(job.user) || { jobs: new Set(), cpus: 0 };
      one.jobs.add(job.id);
      one.cpus += cpus;
      users.set(job.user, one);
    }
  }
  const sorted = [...users].sort((a, b) => b[1].cpus - a[1].cpus);
  if (!sorted.length) return h('p', { class: 'hint' }, 'No job runs.');
  return h('ul', { class: 'key', 'aria-label': 'Users with running jobs' }, sorted.slice(0, 24).map(([user, one]) =>
    h('li', { key: user },
      h('span', { class: `swatch ${userClass(user)} pattern-${userPattern(user)}`, 'aria-hidden': 'true' }, letters(user)),
      h('span', { class: 'who' }, user), h('span', { class: 'hint' }, `${plural(one.jobs.size, 'job')}, ${plural(Math.round(one.cpus), 'CPU')}`))),
  sorted.length > 24 && h('li', { class: 'hint' }, `and ${sorted.length - 24} more`));
}
