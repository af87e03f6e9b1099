// Small parts that several pages are made of.

import { freshId, h, keyed, setAttribute, setText } from "./dom.js";
import { icon, stateShape } from "./icons.js";
import { span, stateWord } from "./words.js";

/** A page: its heading, tools beside it, and room for what it shows. */
export function frame(title, ...tools) {
  const body = h("div", { class: "page-body" });
  const element = h(
    "div",
    { class: "page" },
    h(
      "div",
      { class: "page-head" },
      h("h1", { tabindex: "-1" }, title),
      h("div", { class: "tools" }, tools),
    ),
    body,
  );
  return { element, body };
}

export function button(label, click, { kind = "", symbol = null, ...attributes } = {}) {
  return h(
    "button",
    { type: "button", class: `button ${kind}`, click, ...attributes },
    symbol && icon(symbol),
    h("span", {}, label),
  );
}

/** A field with its label above it; gives `{element, input}`. */
export function field(label, attributes, hint = null) {
  const id = freshId("field");
  const hintId = hint && `${id}-hint`;
  const input = h("input", { id, class: "input", "aria-describedby": hintId, ...attributes });
  const element = h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    input,
    hint && h("p", { class: "hint", id: hintId }, hint),
  );
  return { element, input };
}

/** Offers the users that clients belong to, for fields that name one. */
export function offer(datalist, clients) {
  const users = [...new Set(clients.map(({ user }) => user).filter(Boolean))].sort();
  keyed(
    datalist,
    users,
    (user) => user,
    (value) => ({ element: h("option", { value }), update: () => {} }),
  );
}

/** A field that filters a list as one types. */
export function filterField(what, changed) {
  const input = h("input", {
    class: "input",
    type: "search",
    placeholder: `Filter ${what}`,
    "aria-label": `Filter ${what}`,
    autocomplete: "off",
    spellcheck: "false",
    input: () => changed(input.value),
  });
  return h("div", { class: "search" }, icon("search"), input);
}

/** A state in one word, with a shape of its own. */
export function stateBadge() {
  const word = h("span");
  const element = h("span", { class: "state" }, word);
  let shown = null;
  return {
    element,
    update(state) {
      if (state === shown) return;
      shown = state;
      element.dataset.state = state;
      element.replaceChildren(stateShape(state), word);
      setText(word, stateWord(state));
    },
  };
}

const NEARLY_FULL = 0.9;

/** A bar beside a figure that says the same: nothing for those who hear the page. */
export function bar() {
  const fill = h("span", { class: "bar-fill" });
  const element = h("span", { class: "bar", "aria-hidden": "true" }, fill);
  return {
    element,
    update(share) {
      element.hidden = share === null;
      const shown = Math.max(0, Math.min(1, share ?? 0));
      fill.style.setProperty("width", `${(100 * shown).toFixed(1)}%`);
      setAttribute(element, "data-full", shown >= NEARLY_FULL);
    },
  };
}

const day = new Intl.DateTimeFormat(undefined, {
  month: "short",
  day: "numeric",
  hour: "numeric",
  minute: "2-digit",
});
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const today = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

/** A moment as a time of day, with the date where that is another. */
export function momentWords(moment) {
  const at = new Date(moment);
  return at.toDateString() === new Date().toDateString() ? today.format(at) : day.format(at);
}

/** How long ago something was. */
export function agoTime(wording = (words) => `${words} ago`) {
  const element = h("time");
  return {
    element,
    update(moment) {
      setAttribute(element, "datetime", moment);
      setAttribute(element, "title", exact.format(new Date(moment)));
      setText(element, wording(span(Date.now() - Date.parse(moment))));
    },
  };
}

export function emptyState(symbol, title, ...text) {
  return h(
    "div",
    { class: "empty" },
    h("div", { class: "empty-icon" }, icon(symbol)),
    h("h2", {}, title),
    h("p", {}, text),
  );
}

/** What is shown until the first answer: as high as a few rows. */
export function skeleton(rows = 4) {
  return h(
    "div",
    { class: "skeleton" },
    h("p", { class: "visually-hidden", role: "status" }, "Loading"),
    Array.from({ length: rows }, () => h("div", { class: "skeleton-row", "aria-hidden": "true" })),
  );
}

/** A sentence where something cannot be shown or done. */
export function refusal(error) {
  const title = error.status === 403 ? "Your token does not allow this" : "This cannot be shown";
  return emptyState("warning", title, error.message);
}

/** A line for errors that is read out when it changes. */
export function errorLine() {
  const element = h("p", { class: "error-line", role: "alert", hidden: true });
  return {
    element,
    show(message) {
      element.hidden = message === "";
      if (message === "") setText(element, "");
      else element.replaceChildren(icon("warning"), h("span", {}, message));
    },
  };
}

export function notAll(count) {
  return h(
    "p",
    { class: "hint" },
    `Only the first ${count.toLocaleString("en")} are shown; there are more.`,
  );
}

const TOAST_MS = 6_000;

/** Tells of something that was done, or could not be, in passing. */
export function toast(text, { bad = false } = {}) {
  const element = h(
    "p",
    { class: bad ? "toast bad" : "toast" },
    icon(bad ? "warning" : "check"),
    h("span", {}, text),
  );
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), TOAST_MS);
}
