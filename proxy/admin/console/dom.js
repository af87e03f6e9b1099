// Building and updating the page. What comes from the API goes in as text or attribute values only.

const SVG = "http://www.w3.org/2000/svg";

/** An element; attributes that are null or false are left out, functions are listeners. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else setAttribute(element, name, value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** Writes only what differs, so that selections and screen readers are left in peace. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

const known = new WeakMap();

/**
 * Keeps one child an item, in the items' order. `make(item)` gives `{element, update}`; `update(item)`
 * is called every time. Elements stay the same as long as their key is there, and keep the focus.
 * They come after `head`, where the parent has other children.
 */
export function keyed(parent, items, keyOf, make, head = null) {
  const before = known.get(parent) ?? new Map();
  const after = new Map();
  const focused = document.activeElement;
  for (const item of items) {
    const key = keyOf(item);
    const child = before.get(key) ?? make(item);
    child.update(item);
    after.set(key, child);
  }
  for (const [key, child] of before) if (!after.has(key)) child.element.remove();
  let next = head === null ? parent.firstChild : head.nextSibling;
  for (const { element } of after.values()) {
    if (element === next) next = next.nextSibling;
    else parent.insertBefore(element, next);
  }
  known.set(parent, after);
  if (focused !== document.activeElement) focusAgain(focused);
}

/** Returns the focus, to the page's heading where the element is gone. */
export function focusAgain(element) {
  if (element?.isConnected && element !== document.body) element.focus();
  else document.querySelector("main h1")?.focus({ preventScroll: true });
}

let numbers = 0;

/** An id that no other element has. */
export function freshId(prefix) {
  numbers += 1;
  return `${prefix}-${numbers}`;
}
