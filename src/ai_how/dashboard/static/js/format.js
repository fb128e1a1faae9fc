// Figures and times as text. What is not known is a dash, never a zero.

export const UNKNOWN = '–';

export const isKnown = (value) => typeof value === 'number' && Number.isFinite(value);

/** Three significant digits at most, without an exponent. */
export function number(value) {
  if (!isKnown(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size >= 100) return String(Math.round(value));
  return value.toFixed(size >= 10 ? 1 : 2).replace(/\.?0+$/, '');
}

export const percent = (value) => (isKnown(value) ? `${value < 10 && value > 0 ? number(value) : Math.round(value)} %` : UNKNOWN);

const scaled = (value, units) => {
  if (!isKnown(value)) return UNKNOWN;
  let place = 0;
  let size = value;
  while (Math.abs(size) >= 1024 && place < units.length - 1) {
    size /= 1024;
    place += 1;
  }
  return `${number(size)} ${units[place]}`;
};

export const bytes = (value) => scaled(value, ['B', 'KiB', 'MiB', 'GiB', 'TiB']);
export const mib = (value) => scaled(value, ['MiB', 'GiB', 'TiB']);
export const rate = (value) => (isKnown(value) ? `${bytes(value)}/s` : UNKNOWN);

/** 1:05, 2:03:04, 3-02:03:04: as SLURM writes times. */
export function duration(seconds) {
  if (!isKnown(seconds)) return UNKNOWN;
  const whole = Math.max(0, Math.round(seconds));
  const two = (part) => String(part).padStart(2, '0');
  const [days, hours, minutes, rest] = [
    Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60,
  ];
  if (days) return `${days}-${two(hours)}:${two(minutes)}:${two(rest)}`;
  if (hours) return `${hours}:${two(minutes)}:${two(rest)}`;
  return `${minutes}:${two(rest)}`;
}

/** "4 s", "3 min", "2 h", "5 d". */
export function about(seconds) {
  if (!isKnown(seconds)) return UNKNOWN;
  const size = Math.max(0, seconds);
  if (size < 90) return `${Math.round(size)} s`;
  if (size < 5400) return `${Math.round(size / 60)} min`;
  if (size < 129600) return `${Math.round(size / 3600)} h`;
  return `${Math.round(size / 86400)} d`;
}

const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const SHORT = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const DAY = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });

export const clock = (at) => (isKnown(at) ? CLOCK.format(at * 1000) : UNKNOWN);
export const hour = (at) => (isKnown(at) ? SHORT.format(at * 1000) : UNKNOWN);
export const day = (at) => (isKnown(at) ? DAY.format(at * 1000) : UNKNOWN);

/** The clock, with the day if that is not today's. */
export function moment(at, now) {
  if (!isKnown(at)) return UNKNOWN;
  return day(at) === day(now) ? clock(at) : `${day(at)} ${clock(at)}`;
}

export const iso = (at) => (isKnown(at) ? new Date(at * 1000).toISOString() : null);

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
