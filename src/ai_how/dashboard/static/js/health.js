// What is wrong now, with its evidence and the command that mends it; and how old what is seen is.

import { byId, h, render } from './dom.js';
import { about, clock, iso, isKnown, moment, plural } from './format.js';

const SEVERITIES = {
  critical: { sign: '✕', tone: 'bad', order: 0 },
  warning: { sign: '▲', tone: 'warning', order: 1 },
  notice: { sign: 'i', tone: 'quiet', order: 2 },
};
export const severity = (finding) => SEVERITIES[finding.severity] || SEVERITIES.notice;
const MOST_SHOWN = 60;

export const keyOf = (finding) => `${finding.id} ${finding.subject}`;
export const sorted = (findings) =>
  [...findings].sort((a, b) => severity(a).order - severity(b).order || a.since - b.since);

export function drawHealth(snapshot, now) {
  const findings = sorted(snapshot.findings);
  render(byId('health'), findings.length
    ? h('ul', { class: 'findings' }, findings.slice(0, MOST_SHOWN).map((one) => drawFinding(one, now)),
      findings.length > MOST_SHOWN && h('li', { class: 'hint' }, `and ${findings.length - MOST_SHOWN} more`))
    : h('p', { class: 'calm' }, h('span', { class: 'good', 'aria-hidden': 'true' }, '✓ '), 'Nothing is wrong.'));
}

function drawFinding(finding, now) {
  const kind = severity(finding);
  return h('li', { key: keyOf(finding), class: `finding ${kind.tone}` },
    h('div', { class: 'finding-head' },
      h('span', { class: `badge ${kind.tone}` }, h('span', { 'aria-hidden': 'true' }, kind.sign), ` ${finding.severity}`),
      h('code', { class: 'id' }, finding.id),
      h('span', { class: 'hint' }, 'since ', h('time', { datetime: iso(finding.since) }, moment(finding.since, now)), ` (${about(now - finding.since)})`)),
    h('p', { class: 'finding-text' }, finding.text),
    finding.evidence.length > 0 && h('ul', { class: 'evidence' }, finding.evidence.slice(0, 12).map((line) => h('li', null, line))),
    finding.remedy && h('div', { class: 'remedy' },
      h('code', null, finding.remedy),
      h('button', { type: 'button', class: 'copy', 'aria-label': `Copy the remedy of ${finding.id}: ${finding.remedy}`, onclick: (event) => copy(finding.remedy, event.currentTarget) }, 'Copy')),
    finding.heals && h('p', { class: 'hint' }, 'ai-how hpc check --heal does this.'));
}

async function copy(text, button) {
  let word = 'Copied';
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    word = copyOldWay(text) ? 'Copied' : 'Not copied';
  }
  button.textContent = word;
  setTimeout(() => {
    button.textContent = 'Copy';
  }, 1500);
}

// The clipboard is only there on https and loopback; the page may come through a port of ssh.
function copyOldWay(text) {
  const area = document.createElement('textarea');
  area.value = text;
  document.body.append(area);
  area.select();
  const isDone = document.execCommand('copy');
  area.remove();
  return isDone;
}

/** What to tell of a source: {sign, tone, word}. */
function sourceState(source, now) {
  if (source.trouble !== null) {
    return { sign: '?', tone: 'warning', word: source.at === null ? 'never answered' : `gap since ${clock(source.at)}` };
  }
  if (source.at === null) return { sign: '◌', tone: 'quiet', word: 'not asked yet' };
  const age = now - source.at;
  if (age > 3 * source.every_s + 10) return { sign: '◷', tone: 'warning', word: `${about(age)} old` };
  return { sign: '✓', tone: 'good', word: `${about(age)} old` };
}

export function drawSources(snapshot, now) {
  const rank = (one) => (one.trouble !== null ? 0 : 1);
  const all = [...snapshot.sources].sort((a, b) => rank(a) - rank(b));
  const guests = all.filter((one) => one.name.startsWith('guest/'));
  const calm = guests.filter((one) => sourceState(one, now).tone === 'good');
  // With many nodes, those that answer are one line.
  const shown = guests.length > 8 ? all.filter((one) => !calm.includes(one)) : all;
  render(byId('sources'),
    h('ul', { class: 'sources' }, shown.slice(0, 80).map((one) => {
      const state = sourceState(one, now);
      return h('li', { key: one.name },
        h('span', { class: 'source-name' }, one.name),
        h('span', { class: `source-state ${state.tone}` }, h('span', { 'aria-hidden': 'true' }, `${state.sign} `), state.word),
        h('span', { class: 'hint' }, `every ${about(one.every_s)}${isKnown(one.took_s) ? `, took ${one.took_s < 1 ? `${Math.round(one.took_s * 1000)} ms` : `${one.took_s.toFixed(1)} s`}` : ''}`),
        one.trouble !== null && h('p', { class: 'trouble' }, one.trouble));
    }),
    guests.length > 8 && calm.length > 0 && h('li', { key: ' calm' }, h('span', { class: 'source-name' }, 'guests'), h('span', { class: 'source-state good' }, h('span', { 'aria-hidden': 'true' }, '✓ '), `${plural(calm.length, 'more guest')} answer`))));
}
