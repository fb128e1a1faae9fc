// One tab stop for many things: arrow keys, Home and End go from one to the next.

const chosen = new Map();

/** 0 for the one of a group that Tab reaches, -1 for the others. */
export const tabStop = (group, key, isFirst) => {
  const now = chosen.get(group);
  return (now === undefined ? isFirst : now === key) ? 0 : -1;
};

/** If what was chosen is gone, the first is reached again. */
export function keepStop(group, keys) {
  if (chosen.has(group) && !keys.includes(chosen.get(group))) chosen.delete(group);
}

const BACK = ['ArrowLeft', 'ArrowUp'];
const ON = ['ArrowRight', 'ArrowDown'];

/** The onkeydown and onfocusin of a container whose items have data-roving="KEY". */
export function rove(group) {
  const go = (container, item) => {
    for (const one of container.querySelectorAll('[data-roving]')) one.setAttribute('tabindex', '-1');
    item.setAttribute('tabindex', '0');
    chosen.set(group, item.dataset.roving);
    if (document.activeElement !== item) item.focus();
  };
  return {
    onkeydown: (event) => {
      const items = [...event.currentTarget.querySelectorAll('[data-roving]')];
      const place = items.indexOf(event.target.closest('[data-roving]'));
      if (place < 0) return;
      if (['Enter', ' '].includes(event.key) && event.target.tagName !== 'BUTTON') {
        event.preventDefault();
        event.target.dispatchEvent(new MouseEvent('click', { bubbles: true }));
        return;
      }
      const next = BACK.includes(event.key) ? place - 1 : ON.includes(event.key) ? place + 1
        : event.key === 'Home' ? 0 : event.key === 'End' ? items.length - 1 : null;
      if (next === null) return;
      event.preventDefault();
      go(event.currentTarget, items[(next + items.length) % items.length]);
    },
    onclick: (event) => {
      const item = event.target.closest('[data-roving]');
      if (item) chosen.set(group, item.dataset.roving);
    },
  };
}
