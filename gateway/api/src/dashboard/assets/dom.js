// Draws trees of plain objects and changes only what differs, so that focus, selection and scrolling stay where they are.
//
// Text reaches the document as text nodes and attributes alone: nothing is ever parsed as markup, whatever it is called.

const SVG = 'http://www.w3.org/2000/svg';
/** Attributes that could load, run or style something; `href` is let through where it stays within the page. */
const FORBIDDEN = /^(on|src|style|action|formaction|xlink)/i;

/** A node to be: `h('td', { class: 'n', key: 'a' }, 'text', child, [more])`; what is null or false is left out. */
export function h(tag, props, ...children) {
  const list = [];
  collect(children, list);
  return { tag, key: props?.key, props: props ?? {}, list, node: null, text: null };
}

function collect(children, list) {
  for (const child of children) {
    if (child === null || child === undefined || child === false || child === true) continue;
    if (Array.isArray(child)) collect(child, list);
    else if (typeof child === 'object') list.push(child);
    else list.push({ tag: '#', key: undefined, props: {}, list: [], node: null, text: plain(child) });
  }
}

/** Without the signs that turn the direction of writing: they would make a name look like another. */
const plain = (text) => String(text).replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, '\ufffd');

const shown = new WeakMap();
const fresh = [];

/** Makes the children of a container what `nodes` say. */
export function draw(container, ...nodes) {
  const after = [];
  collect(nodes, after);
  patchChildren(container, shown.get(container) ?? [], after, container.namespaceURI === SVG);
  shown.set(container, after);
  // Only now are they where they can take the focus.
  for (const node of fresh.splice(0)) node.props.created(node.node);
}

function patchChildren(parent, before, after, svg) {
  if (before === after) return;
  const keyed = new Map();
  const plain = [];
  for (const old of before) old.key === undefined ? plain.push(old) : keyed.set(old.key, old);
  let next = 0;
  const olds = after.map((node) => {
    const old = node.key === undefined ? plain[next++] : keyed.get(node.key);
    return old && old.tag === node.tag ? old : null;
  });
  // First what goes, so that what stays need not be moved: a node that moves loses the focus.
  const kept = new Set(olds);
  for (const old of before) if (!kept.has(old)) old.node.remove();
  let at = parent.firstChild;
  after.forEach((node, index) => {
    const old = olds[index];
    if (old) patch(old, node, svg);
    else create(node, svg);
    if (node.node === at) at = at.nextSibling;
    else parent.insertBefore(node.node, at);
  });
}

function create(node, svg) {
  if (node.tag === '#') {
    node.node = document.createTextNode(node.text);
    return;
  }
  const within = svg || node.tag === 'svg';
  node.node = within ? document.createElementNS(SVG, node.tag) : document.createElement(node.tag);
  for (const [name, value] of Object.entries(node.props)) set(node.node, name, undefined, value);
  patchChildren(node.node, [], node.list, within);
  // A choice is made once the choices are there.
  if (node.tag === 'select' && 'value' in node.props) node.node.value = node.props.value;
  if (node.props.created) fresh.push(node);
}

function patch(old, node, svg) {
  node.node = old.node;
  if (old === node) return;
  if (node.tag === '#') {
    if (old.text !== node.text) node.node.data = node.text;
    return;
  }
  const within = svg || node.tag === 'svg';
  for (const name of Object.keys(old.props)) {
    if (!(name in node.props)) set(node.node, name, old.props[name], undefined);
  }
  for (const [name, value] of Object.entries(node.props)) {
    if (old.props[name] !== value) set(node.node, name, old.props[name], value);
  }
  patchChildren(node.node, old.list, node.list, within);
}

function set(node, name, before, value) {
  if (name === 'key' || name === 'created') return;
  if (typeof value === 'function' || typeof before === 'function') {
    if (before) node.removeEventListener(name.slice(2), before);
    if (value) node.addEventListener(name.slice(2), value);
  } else if (name === 'value' && node.localName !== 'option') {
    // What somebody is typing is theirs.
    if (node.value !== value && document.activeElement !== node) node.value = value ?? '';
  } else if (name === 'checked') {
    node.checked = Boolean(value);
  } else if (FORBIDDEN.test(name) || (name === 'href' && value && !String(value).startsWith('#'))) {
    throw new Error(`the attribute ${name} is not set from here`);
  } else if (value === undefined || value === null || value === false) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? '' : plain(value));
  }
}
