// Time series drawn by uPlot, each with a legend of its own and its figures as a table.

import uPlot from '../vendor/uPlot.esm.js';
import { h, render } from './dom.js';
import { isKnown, moment, UNKNOWN } from './format.js';
import { LEFT, RIGHT, tickText, ticks } from './timeaxis.js';

const HEIGHT = 116;
const DASHES = [[], [7, 3], [2, 2], [9, 3, 2, 3]];
const TABLE_ROWS = 24;
const GRID_ROWS = 4;

let theme = null;

/** Read the colours again: after the theme has changed. */
export function forgetTheme() {
  theme = null;
}

function colours() {
  if (!theme) {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    theme = {
      text: read('--ink-2'), grid: read('--line-soft'), event: read('--event-line'),
      lines: Array.from({ length: 8 }, (_, place) => read(`--line-${place}`)), host: read('--line-host'),
    };
  }
  return theme;
}

const lineColour = (chart, place) =>
  chart.lines[place].label === 'host' && chart.lines.length > 1 ? colours().host : colours().lines[hue(chart, place)];
const hue = (chart, place) => (chart.lines[0]?.label === 'host' && chart.lines.length > 1 ? place + 7 : place) % 8;
const dash = (chart, place) => DASHES[(hue(chart, place) >> 1) % DASHES.length];

/** Round values from 0 on, so that few stand on the axis. */
function splitsOf(unit, top) {
  const base = unit === 'mib' || unit === 'bytes' || unit === 'rate' ? 1024 : 10;
  let size = top / GRID_ROWS;
  let power = 1;
  while (size >= base) {
    size /= base;
    power *= base;
  }
  let step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((one) => one >= size) || base;
  if (top / GRID_ROWS < 1) {
    power = 10 ** Math.floor(Math.log10(top / GRID_ROWS));
    step = [1, 2, 5, 10].find((one) => one * power >= top / GRID_ROWS);
  }
  const found = [];
  for (let at = 0; at <= top * 1.0001; at += step * power) found.push(at);
  return found;
}

/** One chart, a figure: its head, and an uPlot that lives as long as its lines stay the same. */
export class Chart {
  constructor(onCursor) {
    this.figure = document.createElement('figure');
    this.figure.className = 'chart';
    this.head = document.createElement('figcaption');
    this.element = document.createElement('div');
    this.element.className = 'plot';
    this.element.setAttribute('role', 'img');
    this.figure.append(this.head, this.element);
    this.onCursor = onCursor;
    this.plot = null;
    this.key = '';
    this.marks = [];
    this.at = null;
  }

  update(spec, data, { since, until, width, marks, isLast }) {
    const key = `${spec.title} ${spec.unit} ${spec.lines.map((one) => one.id).join()} ${isLast}`;
    this.spec = spec;
    this.data = data;
    this.marks = marks;
    this.span = [since, until];
    if (!this.plot || key !== this.key) {
      this.close();
      this.key = key;
      this.plot = new uPlot(this.options(spec, width, isLast), data, this.element);
    } else {
      if (this.plot.width !== width) this.plot.setSize({ width, height: this.height(isLast) });
      this.plot.setData(data, false);
    }
    this.plot.batch(() => {
      this.plot.setScale('x', { min: since, max: until });
      this.plot.setScale('y', { min: 0, max: this.top() });
    });
    this.element.setAttribute('aria-label', describe(spec, data));
    this.drawHead();
  }

  drawHead() {
    render(this.head, h('span', { class: 'chart-title' }, this.spec.title), legend(this, this.spec));
  }

  close() {
    this.plot?.destroy();
    this.plot = null;
  }

  height(isLast) {
    return HEIGHT + (isLast ? 22 : 0);
  }

  top() {
    let most = 0;
    for (const column of this.data.slice(1)) for (const value of column) if (value > most) most = value;
    const wanted = this.spec.top && this.spec.unit !== 'mib' ? Math.max(this.spec.top, most) : most * 1.15;
    const least = { rate: 1024, mib: 64, bytes: 1024, percent: 1, number: 1 }[this.spec.unit] ?? 1;
    return Math.max(wanted, least);
  }

  options(spec, width, isLast) {
    return {
      width, height: this.height(isLast), padding: [8, RIGHT, isLast ? 0 : 6, 0],
      legend: { show: false },
      cursor: { sync: { key: 'time' }, y: false, points: { size: 6 }, drag: { x: false, y: false } },
      scales: { x: { time: true, auto: false }, y: { auto: false } },
      axes: [
        {
          show: true, size: isLast ? 24 : 0, gap: 4, font: '11px system-ui, sans-serif',
          stroke: () => colours().text,
          grid: { stroke: () => colours().grid, width: 1 }, ticks: { show: false },
          splits: (self, axis, min, max) => ticks(min, max, self.width - LEFT - RIGHT),
          values: (self, splits) => splits.map((at) => (isLast ? tickText(at) : '')),
        },
        {
          size: LEFT, gap: 6, font: '11px system-ui, sans-serif', stroke: () => colours().text,
          grid: { stroke: () => colours().grid, width: 1 }, ticks: { show: false },
          splits: (self, axis, min, max) => splitsOf(spec.unit, max),
          values: (self, splits) => splits.map((one) => spec.format(one)),
        },
      ],
      series: [
        {},
        ...spec.lines.map((one, place) => ({
          label: one.label, stroke: () => lineColour(this.spec, place), width: 1.6, dash: dash(spec, place),
          points: { show: false }, spanGaps: false,
        })),
      ],
      hooks: {
        drawAxes: [(self) => this.drawMarks(self)],
        setCursor: [(self) => {
          const at = self.cursor.idx ?? null;
          if (at !== this.at) {
            this.at = at;
            this.onCursor();
          }
        }],
      },
    };
  }

  drawMarks(self) {
    const { ctx, bbox } = self;
    const [since, until] = this.span;
    ctx.save();
    ctx.strokeStyle = colours().event;
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const at of this.marks) {
      if (at < since || at > until) continue;
      const x = Math.round(self.valToPos(at, 'x', true));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** The value that the legend shows of a line: under the pointer, else the newest. */
  shownValue(place) {
    const column = this.data[place + 1];
    if (this.at !== null) return column[this.at] ?? null;
    return newest(column);
  }
}

// The step that goes on has no point yet, perhaps; two without one are not now.
const newest = (column) => column.at(-1) ?? column.at(-2) ?? null;

/** One sentence with what the picture shows, for those who cannot see it. */
function describe(spec, data) {
  const parts = spec.lines.map((one, place) => {
    const known = data[place + 1].filter(isKnown);
    if (!known.length) return `${one.label}: nothing known`;
    const now = newest(data[place + 1]);
    const least = known.reduce((a, b) => Math.min(a, b));
    const most = known.reduce((a, b) => Math.max(a, b));
    return `${one.label}: now ${spec.format(now)}, from ${spec.format(least)} to ${spec.format(most)}`;
  });
  return `${spec.title}. ${parts.join('; ')}.`;
}

function legend(chart, spec) {
  return h('ul', { class: 'legend', 'aria-hidden': 'true' }, spec.lines.map((one, place) =>
    h('li', { key: one.id },
      h('svg', { width: 20, height: 8, class: 'stroke' },
        h('line', { x1: 0, y1: 4, x2: 20, y2: 4, 'stroke-width': 2, stroke: lineColour(spec, place), 'stroke-dasharray': dash(spec, place).join(' ') || null })),
      h('span', { class: 'legend-name' }, one.label),
      h('span', { class: 'figure' }, spec.format(chart.shownValue(place))))));
}

/** The figures of a chart, thinned out. */
export function asTable(spec, data, now) {
  const [xs, ...columns] = data;
  const every = Math.max(1, Math.ceil(xs.length / TABLE_ROWS));
  const rows = [];
  for (let at = xs.length - 1; at >= 0; at -= every) rows.push(at);
  return h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `${spec.title} as a table` },
    h('table', { class: 'plain' },
      h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'Time'),
        spec.lines.map((one) => h('th', { scope: 'col', class: 'figure' }, one.label)))),
      h('tbody', null, rows.map((at) => h('tr', { key: xs[at] },
        h('th', { scope: 'row' }, moment(xs[at], now)),
        columns.map((column) => h('td', { class: 'figure' },
          isKnown(column[at]) ? spec.format(column[at]) : column[at] === null ? 'gap' : UNKNOWN)))))));
}

