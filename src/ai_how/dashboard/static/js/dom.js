// A small virtual DOM. Text becomes text nodes and attributes, never markup: what a guest or a user
// wrote cannot become an element. Styles are set by CSSOM, which a strict CSP allows.

const SVG = 'http://www.w3.org/2000/svg';
const AS_PROPERTY = new Set(['value', 'checked', 'disabled', 'hidden', 'selected', 'indeterminate']);

/** h('td', {class: 'number'}, 'text', child, [more]); null and false children are left out. */
export function h(tag, props, ...children) {
  return { tag, props: props || {}, key: props?.key ?? null, children: flat(children, []), el: null };
}

function flat(children, into) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) flat(child, into);
    else if (typeof child === 'object') into.push(child);
    else into.push({ tag: '#text', text: String(child), key: null, el: null });
  }
  return into;
}

const shown = new WeakMap();

/** Makes the children of `parent` those of `vnodes`; what stays keeps its element and its focus. */
export function render(parent, ...vnodes) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const news = flat(vnodes, []);
  reconcile(parent, shown.get(parent) || [], news);
  shown.set(parent, news);
  // An element that moved loses the focus.
  if (focused && focused.isConnected && document.activeElement !== focused) {
    focused.focus({ preventScroll: true });
  }
}

// The usual case: nothing has come, gone or moved.
function areAlike(olds, news) {
  if (olds.length !== news.length) return false;
  for (let at = 0; at < olds.length; at++) {
    if (olds[at].tag !== news[at].tag || olds[at].key !== news[at].key) return false;
  }
  return true;
}

function reconcile(parent, olds, news) {
  if (areAlike(olds, news)) {
    for (let at = 0; at < olds.length; at++) update(olds[at], news[at]);
    return;
  }
  const keyed = new Map();
  const free = [];
  for (const old of olds) {
    if (old.key !== null) keyed.set(old.key, old);
    else free.push(old);
  }
  const kept = new Map();
  let at = 0;
  for (const vnode of news) {
    let old = null;
    if (vnode.key !== null) {
      old = keyed.get(vnode.key) || null;
      keyed.delete(vnode.key);
    } else if (at < free.length) {
      old = free[at++];
    }
    if (old && old.tag === vnode.tag) kept.set(vnode, old);
    else if (old) old.el.remove();
  }
  for (const old of keyed.values()) old.el.remove();
  for (; at < free.length; at++) free[at].el.remove();

  let next = parent.firstChild;
  for (const vnode of news) {
    const old = kept.get(vnode);
    if (old) update(old, vnode);
    else create(vnode, parent);
    if (vnode.el === next) next = next.nextSibling;
    else parent.insertBefore(vnode.el, next);
  }
}

function create(vnode, parent) {
  if (vnode.tag === '#text') {
    vnode.el = document.createTextNode(vnode.text);
    return;
  }
  const inSvg = vnode.tag === 'svg' || parent.namespaceURI === SVG;
  vnode.el = inSvg ? document.createElementNS(SVG, vnode.tag) : document.createElement(vnode.tag);
  for (const child of vnode.children) {
    create(child, vnode.el);
    vnode.el.appendChild(child.el);
  }
  // After the children: the value of a select needs its options.
  for (const [name, value] of Object.entries(vnode.props)) set(vnode.el, name, value, undefined);
}

function update(old, vnode) {
  vnode.el = old.el;
  if (vnode.tag === '#text') {
    if (old.text !== vnode.text) vnode.el.data = vnode.text;
    return;
  }
  reconcile(vnode.el, old.children, vnode.children);
  for (const name of Object.keys(old.props)) {
    if (!(name in vnode.props)) set(vnode.el, name, null, old.props[name]);
  }
  for (const [name, value] of Object.entries(vnode.props)) set(vnode.el, name, value, old.props[name]);
}

function set(el, name, value, before) {
  if (name === 'key' || (value === before && !AS_PROPERTY.has(name))) return;
  if (name.startsWith('on')) {
    el[name] = value;
  } else if (name === 'style') {
    for (const [property, one] of Object.entries(value || {})) el.style.setProperty(property, one);
    for (const property of Object.keys(before || {})) {
      if (!value || !(property in value)) el.style.removeProperty(property);
    }
  } else if (AS_PROPERTY.has(name) && name in el) {
    if (el[name] !== value) el[name] = value ?? '';
  } else if (value === null || value === undefined || value === false) {
    el.removeAttribute(name);
  } else {
    el.setAttribute(name, value === true ? '' : String(value));
  }
}

/** The element of this id; it is in index.html. */
export const byId = (id) => document.getElementById(id);
