// Which colour stands for whom. The palette is Okabe and Ito's, which all kinds of colour blindness
// can tell apart; beyond eight, a pattern is added. No colour is the only sign of anything: what is
// drawn in one has its name or letters beside it.

const COLOURS = 8;
const PATTERNS = 3;
const LIMIT = 4096;
const places = new Map();

/** The place of a user: always the same while the page is open. */
function place(user) {
  if (!places.has(user)) {
    if (places.size >= LIMIT) places.clear();
    places.set(user, places.size);
  }
  return places.get(user);
}

export const userClass = (user) => `hue-${place(user) % COLOURS}`;
export const userPattern = (user) => Math.floor(place(user) / COLOURS) % PATTERNS;

/** Two letters that stand in small boxes. */
export const letters = (user) => [...(user || '?')].slice(0, 2).join('');
