// The serial console of a node: xterm.js on a websocket. Loaded when it is first opened.

import { FitAddon } from '../vendor/addon-fit.mjs';
import { Terminal } from '../vendor/xterm.mjs';

/**
 * How elements are made while a console is open. xterm.js writes <style> elements and style
 * attributes, which our CSP forbids; constructed style sheets and CSSOM do the same and are allowed.
 * Its documentOverride does not reach all of its parts, so the document itself does it.
 */
function createElement(tag, options) {
  if (tag === 'style') return styleSheet();
  const element = Document.prototype.createElement.call(document, tag, options);
  if (tag === 'span') {
    const setAttribute = element.setAttribute.bind(element);
    element.setAttribute = (name, value) => {
      if (name === 'style') element.style.cssText = value;
      else setAttribute(name, value);
    };
  }
  return element;
}

/** Stands for a <style>: its text goes into a style sheet of the document, until it is removed. */
function styleSheet() {
  const sheet = new CSSStyleSheet();
  const element = document.createElement('template');
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  Object.defineProperty(element, 'textContent', {
    get: () => '',
    set: (text) => sheet.replaceSync(text),
  });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
}

export class Console {
  constructor(box, url, onEnd) {
    this.box = box;
    this.onEnd = onEnd;
    this.isOver = false;
    box.hidden = false;
    const colours = getComputedStyle(box);
    this.terminal = new Terminal({
      screenReaderMode: true, scrollback: 2000, fontSize: 13, convertEol: false,
      fontFamily: colours.getPropertyValue('--mono'), theme: { background: '#0b0e14', foreground: '#d8dee9' },
    });
    const fit = new FitAddon();
    this.terminal.loadAddon(fit);
    const area = document.createElement('div');
    area.className = 'terminal-area';
    this.note = document.createElement('p');
    this.note.className = 'hint';
    this.note.setAttribute('role', 'status');
    this.note.textContent = 'Connecting… Escape, then Tab leaves the console.';
    box.replaceChildren(area, this.note);
    document.createElement = createElement;
    this.terminal.open(area);
    this.resizing = new ResizeObserver(() => fit.fit());
    this.resizing.observe(area);
    this.connect(url);
    this.leaving();
  }

  connect(url) {
    this.socket = new WebSocket(url);
    this.socket.binaryType = 'arraybuffer';
    this.socket.onmessage = ({ data }) => {
      // The first message is text: it says that the line is open.
      if (typeof data === 'string') {
        this.note.textContent = 'Connected to the serial line. Enter shows a login prompt. Escape, then Tab leaves the console.';
        this.terminal.focus();
      } else {
        this.terminal.write(new Uint8Array(data));
      }
    };
    this.socket.onclose = ({ reason, code }) => this.end(reason || (code === 1000 ? 'The console ended.' : 'The console is not available.'));
    const encoder = new TextEncoder();
    this.terminal.onData((text) => {
      if (this.socket.readyState === WebSocket.OPEN) this.socket.send(encoder.encode(text));
    });
    this.terminal.onBinary((text) => {
      if (this.socket.readyState === WebSocket.OPEN) this.socket.send(Uint8Array.from(text, (one) => one.charCodeAt(0)));
    });
  }

  // A console takes Tab and Escape; so that a keyboard is not caught in it, Tab after Escape goes on.
  leaving() {
    let isAfterEscape = false;
    this.terminal.attachCustomKeyEventHandler((event) => {
      if (event.type !== 'keydown') return true;
      if (event.key === 'Tab' && isAfterEscape) return false;
      isAfterEscape = event.key === 'Escape';
      return true;
    });
    // Escape is the guest's, not the dialog's.
    this.box.addEventListener('keydown', this.keep = (event) => {
      if (event.key === 'Escape') event.preventDefault();
    }, true);
  }

  end(why) {
    if (this.isOver) return;
    this.isOver = true;
    this.note.textContent = why;
    this.resizing.disconnect();
    this.terminal.options.disableStdin = true;
    this.onEnd();
  }

  close() {
    this.end('');
    this.socket.onmessage = null;
    this.socket.close();
    this.terminal.dispose();
    delete document.createElement;
    this.box.removeEventListener('keydown', this.keep, true);
    this.box.replaceChildren();
    this.box.hidden = true;
  }
}
