// The server's answers: JSON by GET, and what is new by server-sent events. Nothing else is asked.

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

const path = (cluster, rest, query) => {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query || {})) {
    if (value !== null && value !== undefined) words.set(name, String(value));
  }
  const tail = words.size ? `?${words}` : '';
  return `api/clusters/${encodeURIComponent(cluster)}/${rest}${tail}`;
};

async function getJson(url) {
  const answer = await fetch(url, { headers: { Accept: 'application/json' }, cache: 'no-store' });
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

async function refusal(answer) {
  try {
    const { error } = await answer.json();
    return new Refused(answer.status, String(error.brief));
  } catch {
    return new Refused(answer.status, answer.statusText || `status ${answer.status}`);
  }
}

/**
 * Exchange the token of the address (`#token=…&cluster=NAME`) for a cookie, and take both out of the
 * address. `onCluster` gets the cluster that is to be shown first, if there is one.
 */
export async function logIn(onCluster) {
  const told = new URLSearchParams(location.hash.slice(1));
  const token = told.get('token');
  if (!token) return;
  if (told.get('cluster')) onCluster(told.get('cluster'));
  history.replaceState(null, '', location.pathname + location.search);
  const answer = await fetch('api/login', {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ token }),
  });
  if (!answer.ok) throw await refusal(answer);
}

let ahead = 0;
const newest = new Map();

// The page may be seen from another machine, through ssh, whose clock differs. Only a snapshot that
// follows another one is as new as it looks.
function noteClock({ cluster, at }) {
  const before = newest.get(cluster);
  newest.set(cluster, at);
  if (before === undefined || at <= before) return;
  const differs = at - Date.now() / 1000;
  ahead = Math.abs(differs) > 5 ? differs : 0;
}

/** The time of the clusters' host, in Unix seconds. */
export const now = () => Date.now() / 1000 + ahead;

export const getAbout = () => getJson('api/about');
export const getJobs = async (cluster, since, until) => (await getJson(path(cluster, 'jobs', { since, until }))).jobs;
export const getEvents = async (cluster, since, until) => (await getJson(path(cluster, 'events', { since, until }))).events;
export const getJournal = async (cluster, node, lines) =>
  (await getJson(path(cluster, `nodes/${encodeURIComponent(node)}/journal`, { lines }))).entries;
export const getSeries = (cluster, query) => getJson(path(cluster, 'series', query));

export function consoleUrl(cluster, node) {
  const url = new URL(path(cluster, `nodes/${encodeURIComponent(node)}/console`), document.baseURI);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  return url;
}

const SILENT_MS = 45_000;
const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 15_000;

/** Follows the stream, and connects again whenever it ends; `on` has open, lost, clusters, snapshot, event, gone. */
export function follow(on) {
  let source = null;
  let retry = FIRST_RETRY_MS;
  let watch = 0;
  let timer = 0;

  // A connection can be dead without an error: a laptop that slept. Or nothing happens: so ask.
  const heard = () => {
    clearTimeout(watch);
    watch = setTimeout(() => getAbout().then(heard, () => again('the server is silent')), SILENT_MS);
  };
  const again = (why) => {
    source?.close();
    source = null;
    clearTimeout(watch);
    clearTimeout(timer);
    newest.clear();
    on.lost(why);
    timer = setTimeout(connect, retry);
    retry = Math.min(retry * 2, LAST_RETRY_MS);
  };
  const listen = (name, then) => {
    source.addEventListener(name, (message) => {
      heard();
      let data = null;
      try {
        data = JSON.parse(message.data);
      } catch {
        return;
      }
      then(data);
    });
  };
  const connect = () => {
    clearTimeout(timer);
    source = new EventSource('api/stream');
    source.onopen = () => {
      retry = FIRST_RETRY_MS;
      heard();
      on.open();
    };
    source.onerror = () => again('the server does not answer');
    listen('snapshot', (snapshot) => {
      noteClock(snapshot);
      on.snapshot(snapshot);
    });
    listen('event', on.event);
    listen('gone', on.gone);
    listen('clusters', on.clusters);
    heard();
  };
  connect();
  return () => {
    if (source === null) connect();
  };
}
