// The devices that are paired with this edge, and whose they are.

import { ask, list } from "./api.js";
import { askFirst } from "./dialog.js";
import { freshId, h } from "./dom.js";
import { filteredList } from "./filtered_list.js";
import { inlineEdit } from "./inline_edit.js";
import { agoTime, button, emptyState, offer, toast } from "./parts.js";
import { OPERATORS, may } from "./scopes.js";
import { Table, text } from "./table.js";
import { NOTHING } from "./words.js";

const EVERY_MS = 15_000;
const ID_SHOWN = 12;
const MOST_CHARACTERS = 64;

export function clientsView({ who, health }) {
  const users = h("datalist", { id: freshId("users") });
  const table = new Table({
    caption: "Paired clients",
    columns: columns(may(who, OPERATORS), users.id, () => page.now()),
    keyOf: ({ id }) => id,
    nameOf: ({ name }) => name,
    sortBy: "name",
  });
  const page = filteredList({
    title: "Clients",
    one: "client",
    health,
    everyMs: EVERY_MS,
    read: async () => {
      const [clients, sessions] = await Promise.all([list("/clients"), list("/sessions")]);
      return { ...clients, items: withApps(clients.items, sessions.items) };
    },
    textsOf: ({ name, user, id, app }) => [name, user, id, app],
    empty: nobody,
    content: [users, table.element],
    update: (shown) => table.update(shown),
    taken: (items) => offer(users, items),
  });
  return page;
}

function nobody() {
  return emptyState(
    "clients",
    "No paired clients",
    "Add this edge in Moonlight, then tell the PIN it shows on the page Pairings.",
  );
}

// The list of clients tells the id of what runs; its title is the session's.
function withApps(clients, sessions) {
  const titles = new Map(sessions.map(({ client, app }) => [client, app]));
  return clients.map((client) => ({ ...client, app: titles.get(client.id) ?? null }));
}

const path = (client) => `/clients/${encodeURIComponent(client.id)}`;

function columns(operator, users, refresh) {
  const found = [
    {
      id: "name",
      label: "Name",
      value: ({ name }) => name,
      make: (cell) => nameCell(cell, operator, refresh),
    },
    {
      id: "user",
      label: "User",
      value: ({ user }) => user,
      make: (cell) => userCell(cell, operator, users, refresh),
    },
    text(
      "app",
      "Plays",
      ({ app }) => app,
      ({ app }) => app ?? NOTHING,
    ),
    {
      id: "paired",
      label: "Paired",
      value: ({ paired_at }) => Date.parse(paired_at),
      make: pairedCell,
    },
    { id: "client", label: "Id", make: idCell },
  ];
  if (operator)
    found.push({
      id: "actions",
      label: "Actions",
      hidden: true,
      make: (cell) => unpairCell(cell, refresh),
    });
  return found;
}

function nameCell(cell, operator, refresh) {
  let current = null;
  const edit = inlineEdit({
    editable: operator,
    describe: () => `Rename ${current?.name ?? ""}`,
    none: "unnamed",
    maxLength: MOST_CHARACTERS,
    save: async (name) => {
      if (name === "") throw new Error("A name has at least one character.");
      await ask("PATCH", path(current), { body: { name } });
      toast(`Renamed to ${name}.`);
      refresh();
    },
  });
  edit.element.classList.add("strong");
  cell.append(edit.element);
  return (client) => {
    current = client;
    edit.update(client.name || null);
  };
}

function userCell(cell, operator, users, refresh) {
  let current = null;
  const edit = inlineEdit({
    editable: operator,
    describe: () => `Change whose device ${current?.name ?? "this"} is`,
    none: "nobody's",
    maxLength: MOST_CHARACTERS,
    list: users,
    save: async (user) => {
      await ask("PATCH", path(current), { body: { user: user || null } });
      toast(user ? `${current.name} is now ${user}'s.` : `${current.name} is nobody's now.`);
      refresh();
    },
  });
  cell.append(edit.element);
  return (client) => {
    current = client;
    edit.update(client.user);
  };
}

function pairedCell(cell) {
  const ago = agoTime();
  cell.append(ago.element);
  return (client) => ago.update(client.paired_at);
}

function idCell(cell) {
  const id = h("code", { class: "small" });
  cell.append(id);
  return (client) => {
    id.textContent = client.id.slice(0, ID_SHOWN);
    id.title = client.id;
  };
}

function unpairCell(cell, refresh) {
  let current = null;
  const press = button("Unpair", () => askToUnpair(current, refresh), { kind: "quiet-danger" });
  cell.append(press);
  return (client) => {
    current = client;
    press.setAttribute("aria-label", `Unpair ${client.name}`);
  };
}

function askToUnpair(client, refresh) {
  const playing = client.app ? ` It plays ${client.app} now; that session is ended.` : "";
  askFirst({
    title: `Unpair ${client.name}?`,
    body: h("p", {}, `The device can no longer play here until it is paired again.${playing}`),
    confirm: "Unpair",
    danger: true,
    action: () => ask("DELETE", path(client)),
    done: () => {
      toast(`${client.name} was unpaired.`);
      refresh();
    },
  });
}
