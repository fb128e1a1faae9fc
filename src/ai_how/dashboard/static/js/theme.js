// Dark, light, or as the system has it; remembered by the browser if it lets us.

import { byId } from './dom.js';

const KEY = 'ai-how-theme';
const ORDER = ['system', 'light', 'dark'];
const SIGNS = { system: '◐', light: '☀', dark: '☾' };

const read = () => {
  try {
    const value = localStorage.getItem(KEY);
    return ORDER.includes(value) ? value : 'system';
  } catch {
    return 'system';
  }
};

function apply(value) {
  if (value === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = value;
  const button = byId('theme');
  button.textContent = SIGNS[value];
  button.setAttribute('aria-label', `Colours: ${value}`);
  button.title = `Colours: ${value}`;
}

export function startTheme(then) {
  let value = read();
  apply(value);
  byId('theme').onclick = () => {
    value = ORDER[(ORDER.indexOf(value) + 1) % ORDER.length];
    try {
      localStorage.setItem(KEY, value);
    } catch {
      // Private windows may not keep it; it holds for this page.
    }
    apply(value);
    then();
  };
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', then);
}
