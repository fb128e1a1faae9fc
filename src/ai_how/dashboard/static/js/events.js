// What happened: as marks on the time axis, and as a list.

import { byId, h, render } from './dom.js';
import { iso, moment, plural } from './format.js';
import { eventKey } from './store.js';
import { LEFT, RIGHT, scaleOf, ticks } from './timeaxis.js';

const KINDS = {
  start: { sign: '▲', tone: 'good', word: 'start' },
  stop: { sign: '▼', tone: 'quiet', word: 'stop' },
  suspend: { sign: '‖', tone: 'quiet', word: 'suspend' },
  resume: { sign: '▲', tone: 'good', word: 'resume' },
  finding: { sign: '!', tone: 'bad', word: 'finding' },
  'finding-over': { sign: '✓', tone: 'good', word: 'finding over' },
  heal: { sign: '+', tone: 'good', word: 'heal' },
  gap: { sign: '?', tone: 'warning', word: 'gap' },
  'gap-over': { sign: '✓', tone: 'quiet', word: 'gap over' },
  collector: { sign: '◆', tone: 'quiet', word: 'collector' },
  'job-start': { sign: '▸', tone: 'quiet', word: 'job starts' },
  'job-end': { sign: '▪', tone: 'quiet', word: 'job ends' },
};
const CLOSE = 13;
const MOST_LISTED = 100;

const kindOf = (event) => KINDS[event.kind] || { sign: '·', tone: 'quiet', word: event.kind };
const isOfJobs = (event) => event.kind.startsWith('job-');

/** The times of the events that stand on every chart. */
export const marksOf = (events) => events.filter((one) => !isOfJobs(one)).map((one) => one.at);

/** Marks that would cover one another become one. */
function gathered(events, x) {
  const found = [];
  for (const event of events) {
    const at = x(event.at);
    const last = found.at(-1);
    if (last && at - last.x < CLOSE) last.events.push(event);
    else found.push({ x: at, events: [event] });
  }
  return found;
}

const worst = (events) => events.find((one) => kindOf(one).tone === 'bad')
  || events.find((one) => kindOf(one).tone === 'warning') || events[0];

export function drawEvents(events, { since, until, width, now }) {
  const seen = events.filter((one) => one.at >= since && one.at <= until && !isOfJobs(one));
  const x = scaleOf(since, until, width);
  render(byId('event-lane'),
    h('svg', { width, height: 26, role: 'img', 'aria-label': `${plural(seen.length, 'event')} in this time; the list of events has them` },
      ticks(since, until, width - LEFT - RIGHT).map((at) => h('line', { class: 'grid', x1: x(at), x2: x(at), y1: 0, y2: 26 })),
      h('text', { class: 'small', x: LEFT - 8, y: 17, 'text-anchor': 'end' }, 'Events'),
      gathered(seen, x).map((group) => {
        const kind = kindOf(worst(group.events));
        return h('g', { class: `event ${kind.tone}`, transform: `translate(${group.x} 13)` },
          h('title', null, group.events.slice(-6).map((one) => `${moment(one.at, now)} ${one.text}`).join('\n')),
          h('line', { class: 'mark', x1: 0, x2: 0, y1: -13, y2: 13 }),
          h('circle', { r: 8 }),
          h('text', { y: 4, 'text-anchor': 'middle' }, group.events.length > 1 ? Math.min(group.events.length, 99) : kind.sign));
      })));
}

export function listEvents(events, now) {
  const listed = events.slice(-MOST_LISTED).reverse();
  render(byId('events'), listed.length
    ? h('ol', { class: 'events' }, listed.map((one) => {
      const kind = kindOf(one);
      return h('li', { key: eventKey(one) },
        h('time', { datetime: iso(one.at) }, moment(one.at, now)),
        h('span', { class: `badge ${kind.tone}` }, h('span', { 'aria-hidden': 'true' }, kind.sign), ` ${kind.word}`),
        h('span', { class: 'event-text' }, one.text));
    }))
    : h('p', { class: 'hint' }, 'Nothing happened in this time.'));
}
