// What the page knows, bounded: the newest snapshot of each cluster, its jobs and events in the time
// range, and which of it is looked at. Whoever changes something calls `changed`.

import { now } from './api.js';

export const RANGES = [
  { id: '15m', name: '15 min', seconds: 900, step: 10 },
  { id: '1h', name: '1 h', seconds: 3600, step: 15 },
  { id: '6h', name: '6 h', seconds: 21600, step: 60 },
  { id: '1d', name: '1 d', seconds: 86400, step: 300 },
  { id: '7d', name: '7 d', seconds: 604800, step: 1800 },
];
const MOST_JOBS = 2000;
const MOST_EVENTS = 1000;

export const state = {
  about: { version: '', has_console: false },
  clusters: new Map(),
  selected: null,
  wanted: null,
  range: RANGES[1],
  subject: '',
  connection: { isOpen: false, lostAt: null, why: '', wasOpen: false },
  refusal: null,
};

/** Whether the points of each snapshot are shown; in a longer range they are fetched. */
export const isLive = () => state.range.step <= 15;

export const current = () => state.clusters.get(state.selected) || null;

function addCluster(name) {
  let one = state.clusters.get(name);
  if (!one) {
    one = { name, snapshot: null, jobs: new Map(), events: [], trouble: null };
    state.clusters.set(name, one);
  }
  if (!state.selected) state.selected = name;
  return one;
}

/** Make the clusters those that are listed. */
export function setClusters(listed) {
  const names = new Set(listed.map((one) => one.name));
  for (const name of [...state.clusters.keys()]) if (!names.has(name)) removeCluster(name);
  for (const one of listed) addCluster(one.name).trouble = one.trouble ?? null;
  // What was looked at before the page was loaded again.
  if (names.has(state.wanted)) state.selected = state.wanted;
  state.wanted = null;
}

export function removeCluster(name) {
  state.clusters.delete(name);
  if (state.selected === name) state.selected = state.clusters.keys().next().value ?? null;
}

export function putSnapshot(snapshot) {
  const one = addCluster(snapshot.cluster);
  one.snapshot = snapshot;
  one.trouble = null;
  for (const job of snapshot.slurm?.jobs || []) one.jobs.set(job.id, job);
  forgetOld(one);
  return one;
}

export function putJobs(one, jobs) {
  // The snapshot has the newer word of a job that both have.
  const fresh = new Set((one.snapshot?.slurm?.jobs || []).map((job) => job.id));
  for (const job of jobs) if (!fresh.has(job.id)) one.jobs.set(job.id, job);
  forgetOld(one);
}

export const eventKey = (event) => `${event.at} ${event.kind} ${event.subject} ${event.text}`;

export function putEvents(one, events) {
  const known = new Set(one.events.map(eventKey));
  for (const event of events) {
    if (known.has(eventKey(event))) continue;
    known.add(eventKey(event));
    const { at, kind, subject, text } = event;
    one.events.push({ at, kind, subject, text });
  }
  one.events.sort((a, b) => a.at - b.at);
  forgetOld(one);
}

function forgetOld(one) {
  const since = now() - state.range.seconds;
  for (const [id, job] of one.jobs) {
    if (typeof job.ended_at === 'number' && job.ended_at < since) one.jobs.delete(id);
  }
  if (one.jobs.size > MOST_JOBS) {
    const ended = [...one.jobs.values()].filter((job) => typeof job.ended_at === 'number');
    ended.sort((a, b) => a.ended_at - b.ended_at);
    for (const job of ended.slice(0, one.jobs.size - MOST_JOBS)) one.jobs.delete(job.id);
  }
  for (const id of [...one.jobs.keys()].slice(0, Math.max(0, one.jobs.size - MOST_JOBS))) one.jobs.delete(id);
  let first = 0;
  while (first < one.events.length && one.events[first].at < since) first += 1;
  first = Math.max(first, one.events.length - MOST_EVENTS);
  if (first > 0) one.events.splice(0, first);
}

const listeners = [];
let asked = null;

/** `listener` gets the set of what has changed: `all`, `clock` (time went on), `legend`. */
export const onChange = (listener) => listeners.push(listener);

/** Draw once, in the next frame, however much has changed; a page that nobody sees waits. */
export function changed(what = 'all') {
  if (document.hidden) return;
  if (asked) {
    asked.add(what);
    return;
  }
  asked = new Set([what]);
  requestAnimationFrame(() => {
    const now = asked;
    asked = null;
    for (const one of listeners) one(now);
  });
}
