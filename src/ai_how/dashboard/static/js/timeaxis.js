// The time axis that events, jobs and charts share: the same gutter, the same ticks.

import { day, hour } from './format.js';

export const LEFT = 62;
export const RIGHT = 16;

const STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800];

/** Full times of the local clock between two moments, not closer than the width lets them. */
export function ticks(since, until, width) {
  const most = Math.max(2, Math.floor(width / 90));
  const step = STEPS.find((one) => (until - since) / one <= most) || STEPS.at(-1);
  const zone = -new Date(until * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((since + zone) / step) * step - zone; at <= until; at += step) found.push(at);
  return found;
}

/** The text of a tick: the day where a day begins, else the hour. */
export const tickText = (at) => (hour(at) === '00:00' ? day(at) : hour(at));

export const scaleOf = (since, until, width) => {
  const plot = Math.max(10, width - LEFT - RIGHT);
  return (at) => LEFT + (plot * (at - since)) / (until - since);
};

/** Runs `then(width)` when the width of an element changes, and once at the beginning. */
export function onWidth(element, then) {
  let last = 0;
  const tell = (width) => {
    const whole = Math.floor(width);
    if (whole > 0 && whole !== last) {
      last = whole;
      then(whole);
    }
  };
  new ResizeObserver((entries) => tell(entries[0].contentRect.width)).observe(element);
  tell(element.clientWidth);
}

