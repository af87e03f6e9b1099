// Tokens of people, services and agents: made, shown once, revoked.

import { ask, list } from "./api.js";
import { askFirst, showUntil } from "./dialog.js";
import { freshId, h, keyed, replace } from "./dom.js";
import {
  button,
  agoTime,
  emptyState,
  field,
  frame,
  notAll,
  refusal,
  skeleton,
  toast,
} from "./parts.js";
import { Poll } from "./poll.js";
import { Table, text } from "./table.js";
import { NOTHING, scopeWord } from "./words.js";

const EVERY_MS = 30_000;
const SCOPES = ["read", "pair", "operate", "admin"];
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

export function tokensView({ who, health }) {
  const create = button("New token", () => askToCreate(() => poll.now()), {
    kind: "primary",
    symbol: "plus",
  });
  const { element, body } = frame("Tokens", create);
  body.append(skeleton(3));
  let shown = false;
  const more = h("div");
  const table = new Table({
    caption: "Tokens",
    columns: [
      text("name", "Name", ({ name }) => name, undefined, { strong: true }),
      text(
        "kind",
        "For",
        ({ kind }) => kind,
        ({ kind }) => (kind === "agent" ? "Agent" : "API"),
      ),
      { id: "scopes", label: "Scopes", make: scopesCell },
      {
        id: "created",
        label: "Created",
        value: ({ created_at }) => Date.parse(created_at),
        make: createdCell,
      },
      text(
        "tokens",
        "Tokens",
        ({ tokens }) => tokens,
        ({ tokens }) => tokens,
        { numeric: true },
      ),
      {
        id: "actions",
        label: "Actions",
        hidden: true,
        make: (cell) => revokeCell(cell, who, () => poll.now()),
      },
    ],
    keyOf: ({ kind, name }) => `${kind}/${name}`,
    nameOf: ({ name }) => name,
    sortBy: "name",
  });
  const poll = new Poll(
    health,
    EVERY_MS,
    () => list("/tokens"),
    (data) => {
      if (data.items.length === 0)
        replace(body, emptyState("tokens", "No tokens", "Make one for yourself, or for an agent."));
      else if (!shown) replace(body, table.element, more);
      shown = data.items.length > 0;
      if (shown) table.update(data.items);
      replace(more, data.more && notAll(data.items.length));
    },
    (error) => {
      shown = false;
      replace(body, refusal(error));
    },
  );
  return { element, close: () => poll.stop() };
}

function scopesCell(cell) {
  const chips = h("ul", { class: "chips" });
  const none = h("span", {}, NOTHING);
  cell.append(chips, none);
  return ({ scopes }) => {
    keyed(
      chips,
      scopes,
      (scope) => scope,
      (scope) => ({ element: h("li", { class: "chip still" }, scope), update: () => {} }),
    );
    chips.hidden = scopes.length === 0;
    none.hidden = scopes.length > 0;
  };
}

function createdCell(cell) {
  const ago = agoTime();
  cell.append(ago.element);
  return (token) => ago.update(token.created_at);
}

function revokeCell(cell, who, refresh) {
  let current = null;
  const press = button("Revoke", () => askToRevoke(current, who, refresh), {
    kind: "quiet-danger",
  });
  cell.append(press);
  return (token) => {
    current = token;
    press.setAttribute("aria-label", `Revoke ${token.name}`);
  };
}

function askToRevoke({ kind, name }, who, refresh) {
  const own = kind === "api" && name === who.name;
  const what =
    kind === "agent"
      ? "The agent's tunnel ends at once, and what is played through it."
      : "Whoever uses it is logged out at once.";
  askFirst({
    title: `Revoke ${name}?`,
    body: [
      h("p", {}, `${what} This cannot be undone.`),
      own &&
        h(
          "p",
          { class: "notice" },
          "It is the token that you are logged in with: this logs you out.",
        ),
    ],
    confirm: "Revoke",
    danger: true,
    action: () => ask("DELETE", `/tokens/${encodeURIComponent(kind)}/${encodeURIComponent(name)}`),
    done: () => {
      toast(`${name} was revoked.`);
      refresh();
    },
  });
}

function askToCreate(refresh) {
  const kind = freshId("kind");
  const choice = h(
    "select",
    { id: kind, class: "input", change: () => (scopes.hidden = choice.value === "agent") },
    h("option", { value: "api" }, "A person or a service"),
    h("option", { value: "agent" }, "An agent beside a host"),
  );
  const name = field(
    "Name",
    { autocomplete: "off", spellcheck: "false", maxlength: 64, autofocus: true },
    "Letters, digits, dots and dashes",
  );
  const boxes = SCOPES.map((scope) => ({
    scope,
    box: h("input", {
      type: "checkbox",
      id: freshId("scope"),
      value: scope,
      checked: scope === "read",
    }),
  }));
  const scopes = h(
    "fieldset",
    { class: "scopes" },
    h("legend", {}, "It may"),
    boxes.map(({ scope, box }) =>
      h(
        "div",
        { class: "check" },
        box,
        h("label", { for: box.id }, h("strong", {}, scope), ` – ${scopeWord(scope)}`),
      ),
    ),
  );
  let made = null;
  askFirst({
    title: "New token",
    body: [
      h("div", { class: "field" }, h("label", { for: kind }, "For"), choice),
      name.element,
      scopes,
    ],
    confirm: "Create",
    action: async () => {
      const text = name.input.value.trim();
      const wanted = boxes.filter(({ box }) => box.checked).map(({ scope }) => scope);
      if (!NAME.test(text))
        throw new Error("A name is 1 to 64 letters, digits, dots, dashes or underscores.");
      if (choice.value === "api" && wanted.length === 0)
        throw new Error("Choose at least one thing that it may do.");
      const body =
        choice.value === "agent"
          ? { kind: "agent", name: text }
          : { kind: "api", name: text, scopes: wanted };
      made = await ask("POST", "/tokens", { body });
    },
    done: () => {
      refresh();
      showOnce(made);
    },
  });
}

function showOnce({ name, token }) {
  const shown = field(
    "Token",
    {
      class: "input token",
      value: token,
      readonly: true,
      autocomplete: "off",
      spellcheck: "false",
    },
    "It is shown this once. Keep it in a safe place.",
  );
  const said = h("span", { class: "muted small", role: "status" });
  const copy = button("Copy", copied, { symbol: "copy", autofocus: true });

  async function copied() {
    try {
      await navigator.clipboard.writeText(token);
      said.textContent = "Copied.";
    } catch {
      shown.input.focus();
      shown.input.select();
      said.textContent = "Selected: copy it by hand.";
    }
  }

  showUntil({
    title: `Token of ${name}`,
    body: [shown.element, h("div", { class: "line" }, copy, said)],
    confirm: "I have kept it",
  });
}
