// Jobs over time: a bar from when a job was submitted to its end, hollow while it waits.

import { userClass, userPattern } from './colours.js';
import { byId, h, render } from './dom.js';
import { duration, isKnown, plural } from './format.js';
import { hasEnded, isRunning, isWaiting, jobEnd } from './model.js';
import { keepStop, rove, tabStop } from './roving.js';
import { LEFT, RIGHT, scaleOf, tickText, ticks } from './timeaxis.js';

const ROW = 20;
const BAR = 13;
const MOST_ROWS = 200;

export const view = { by: 'job' };

/** When a job began to wait, ran and ended, cut to what is shown; null if it is not in it. */
function partsOf(job, since, until) {
  const submitted = job.submitted_at ?? job.started_at;
  if (!isKnown(submitted)) return null;
  const started = isWaiting(job) ? null : job.started_at;
  const ended = hasEnded(job) ? job.ended_at ?? started ?? submitted : until;
  if (ended < since || submitted > until) return null;
  const inside = (at) => Math.min(until, Math.max(since, at));
  const begins = isKnown(started) && started <= ended ? started : ended;
  return {
    waits: [inside(submitted), inside(begins)],
    runs: isKnown(started) && started < ended ? [inside(started), inside(ended)] : null,
    end: hasEnded(job) && ended >= since ? inside(ended) : null,
  };
}

const rank = (job) => (isRunning(job) ? 0 : isWaiting(job) ? 1 : 2);

function rowsByJob(jobs) {
  const sorted = [...jobs].sort((a, b) =>
    rank(a) - rank(b) || (b.started_at ?? b.submitted_at ?? 0) - (a.started_at ?? a.submitted_at ?? 0) || Number(b.id) - Number(a.id));
  return sorted.map((job) => ({ key: job.id, label: job.shown_id, jobs: [job] }));
}

/** Rows of each node, in as many lanes as jobs run at once; those that wait come last. */
function rowsByNode(jobs) {
  const lanes = new Map();
  const sorted = jobs.filter((job) => !isWaiting(job)).sort((a, b) => (a.started_at ?? 0) - (b.started_at ?? 0));
  for (const job of sorted) {
    for (const name of job.nodes) {
      if (!lanes.has(name)) lanes.set(name, []);
      const mine = lanes.get(name);
      const lane = mine.find((one) => one.until <= job.started_at) || mine[mine.push({ until: 0, jobs: [] }) - 1];
      lane.jobs.push(job);
      lane.until = job.ended_at ?? Infinity;
    }
  }
  const rows = [...lanes].sort((a, b) => a[0].localeCompare(b[0], 'en', { numeric: true })).flatMap(([name, mine]) =>
    mine.map((lane, place) => ({ key: `${name} ${place}`, label: place ? '' : name, jobs: lane.jobs, isByNode: true })));
  return [...rows, ...rowsByJob(jobs.filter(isWaiting))];
}

function jobWords(job, now) {
  const end = jobEnd(job);
  const ran = isKnown(job.started_at) && !isWaiting(job) ? `, ran ${duration((job.ended_at ?? now) - job.started_at)}` : '';
  const on = job.nodes.length ? ` on ${job.nodes.join(', ')}` : '';
  return `Job ${job.shown_id} ${job.name} of ${job.user}: ${end.word}${on}${ran}${job.reason && job.reason !== 'None' ? `, ${job.reason}` : ''}`;
}

function drawBar(job, parts, { x, right, isByNode, words }) {
  const end = jobEnd(job);
  const runs = parts.runs;
  const edge = x(runs ? runs[1] : parts.waits[1]);
  const begin = x(runs && isByNode ? runs[0] : parts.waits[0]);
  const text = `${isByNode ? `${job.shown_id} ` : ''}${job.user} ${job.name}`;
  const size = text.length * 6.2;
  const body = runs || parts.waits;
  const room = x(body[1]) - x(body[0]) - 18;
  const isInside = room > Math.min(size, 60);
  const isAfter = !isInside && edge + 18 + size < right;
  const place = isInside ? x(body[0]) + 5 : isAfter ? edge + (parts.end !== null ? 17 : 6) : begin - 5;
  const fit = isInside ? room : Infinity;
  const shown = size > fit ? `${[...text].slice(0, Math.max(1, Math.floor(fit / 6.4) - 1)).join('')}…` : text;
  const box = ([from, to], least) => ({ x: x(from), y: 3.5, width: Math.max(least, x(to) - x(from)), height: BAR });
  return [
    h('title', null, words),
    !isByNode && parts.waits[1] > parts.waits[0] && h('rect', { class: 'waits', ...box(parts.waits, 1), rx: 2 }),
    runs && h('rect', { class: `hue ${end.tone === 'bad' ? 'failed' : ''}`, ...box(runs, 2), rx: 2 }),
    runs && userPattern(job.user) > 0 && h('rect', { ...box(runs, 2), fill: `url(#pattern-${userPattern(job.user)})` }),
    h('text', { class: isInside && runs ? 'on-hue' : 'small', x: place, y: 14, 'text-anchor': isInside || isAfter ? 'start' : 'end' }, shown),
    parts.end !== null && h('text', { class: `end ${end.tone}`, x: isInside ? edge - 5 : edge + 4, y: 14.5, 'text-anchor': isInside ? 'end' : 'start' }, end.sign),
  ];
}

export function drawGantt(cluster, { since, until, width, now, marks, onJob }) {
  const jobs = [...cluster.jobs.values()].map((job) => ({ job, parts: partsOf(job, since, until) })).filter((one) => one.parts);
  const parts = new Map(jobs.map((one) => [one.job.id, one.parts]));
  const all = (view.by === 'node' ? rowsByNode : rowsByJob)(jobs.map((one) => one.job));
  const rows = all.slice(0, MOST_ROWS);
  const x = scaleOf(since, until, width);
  const right = width - RIGHT;
  const tall = Math.max(1, rows.length) * ROW + 4;
  const keys = rows.flatMap((row) => row.jobs.map((job) => `${row.key}/${job.id}`));
  keepStop('gantt', keys);
  render(byId('gantt'),
    h('svg', { width, height: tall, role: 'group', 'aria-label': `${plural(jobs.length, 'job')} over time. Arrow keys go from job to job; the table of jobs below has the same.`, ...rove('gantt') },
      ticks(since, until, right - LEFT).map((at) => h('line', { class: 'grid', x1: x(at), x2: x(at), y1: 0, y2: tall })),
      marks.map((at) => h('line', { class: 'mark', x1: x(at), x2: x(at), y1: 0, y2: tall })),
      rows.map((row, place) => h('g', { key: row.key, transform: `translate(0 ${place * ROW + 2})` },
        place > 0 && row.label && row.isByNode && h('line', { class: 'grid', x1: 0, x2: right, y1: -1, y2: -1 }),
        h('text', { class: 'small', x: LEFT - 8, y: 14, 'text-anchor': 'end' }, row.label.length > 9 ? `…${row.label.slice(-8)}` : row.label),
        row.jobs.map((job) => {
          const key = `${row.key}/${job.id}`;
          const words = jobWords(job, now);
          const own = parts.get(job.id);
          const begin = x(own.waits[0]);
          return h('g', { key: job.id, class: `job ${userClass(job.user)}`, role: 'button', tabindex: tabStop('gantt', key, key === keys[0]), 'data-roving': key, 'aria-label': words, onclick: () => onJob(job.id) },
            h('rect', { class: 'hit', x: begin - 1, y: 0, width: Math.max(8, x(own.runs?.[1] ?? own.waits[1]) - begin + 2), height: ROW, rx: 3 }),
            drawBar(job, own, { x, right, isByNode: Boolean(row.isByNode), words }));
        }))),
      rows.length === 0 && h('text', { class: 'small', x: LEFT + 8, y: 16 }, 'No job in this time.')));
  render(byId('gantt-note'), all.length > rows.length && `${plural(all.length - rows.length, 'more row')} not drawn; the table of jobs has all.`);
}

export function drawAxis(since, until, width) {
  const x = scaleOf(since, until, width);
  render(byId('axis'), h('svg', { width, height: 20, 'aria-hidden': 'true' },
    ticks(since, until, width - LEFT - RIGHT).map((at) => h('text', { key: at, class: 'small', x: x(at), y: 14, 'text-anchor': 'middle' }, tickText(at)))));
}

