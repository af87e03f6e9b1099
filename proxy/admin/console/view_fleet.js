// The fleet: how full and how well it is, on a map and in a table.

import { list } from "./api.js";
import { backendDetail } from "./backend_detail.js";
import { h, replace, setText } from "./dom.js";
import { askToDrain, askToUndrain, agentOf, deadlineWords, drainsOf } from "./drain.js";
import { SERIOUS, regionsOf } from "./geography.js";
import { RegionMap } from "./map.js";
import { matching, sorted } from "./order.js";
import {
  bar,
  button,
  emptyState,
  filterField,
  frame,
  notAll,
  refusal,
  skeleton,
  stateBadge,
} from "./parts.js";
import { Poll } from "./poll.js";
import { OPERATORS, may } from "./scopes.js";
import { Table, text } from "./table.js";
import { NOTHING, milliseconds, percent, stateWord, troubleWord } from "./words.js";

const EVERY_MS = 5_000;

export function fleetView({ who, health, edge }) {
  const view = new Fleet(who, edge, () => poll.now());
  const poll = new Poll(
    health,
    EVERY_MS,
    async () => {
      const [backends, drains, sessions] = await Promise.all([
        list("/backends"),
        list("/drains"),
        list("/sessions"),
      ]);
      return { backends, drains: drains.items, sessions: sessions.items };
    },
    (data) => view.take(data),
    (error) => view.refuse(error),
  );
  const unwatch = edge.watch(() => view.show());
  return {
    element: view.element,
    close: () => {
      poll.stop();
      unwatch();
      view.map.close();
    },
  };
}

class Fleet {
  #data = null;
  #wanted = "";
  #region = null;

  constructor(who, edge, refresh) {
    this.edge = edge;
    this.refresh = refresh;
    const { element, body } = frame("Fleet");
    this.element = element;
    this.body = body;
    this.map = new RegionMap((name) => this.#pick(name));
    this.summary = summaryLine();
    this.more = h("div");
    this.none = h("p", { class: "muted none-match", hidden: true }, "No backend matches.");
    this.cleared = button("All regions", () => this.#allRegions(), {
      symbol: "cross",
      hidden: true,
    });
    this.table = new Table({
      caption: "Backends",
      columns: columns(
        may(who, OPERATORS),
        (backend) => this.#drain(backend),
        (backend) => this.#drainsOf(backend),
      ),
      keyOf: ({ id }) => id,
      nameOf: ({ id }) => id,
      sortBy: "state",
      detail: () => this.#detail(),
    });
    this.filter = filterField("backends", (wanted) => {
      this.#wanted = wanted;
      this.show();
    });
    this.content = [
      this.summary.element,
      this.map.element,
      h(
        "div",
        { class: "section-head" },
        h("h2", {}, "Backends"),
        h("div", { class: "tools" }, this.cleared, this.filter),
      ),
      this.table.element,
      this.none,
      this.more,
    ];
    this.body.append(skeleton(6));
  }

  take(data) {
    const first = this.#data === null || this.#data.backends.items.length === 0;
    this.#data = data;
    if (data.backends.items.length === 0) {
      replace(this.body, nothingYet());
      return;
    }
    if (first) replace(this.body, this.content);
    this.show();
  }

  refuse(error) {
    this.#data = null;
    replace(this.body, refusal(error));
  }

  show() {
    if (!this.#data || this.#data.backends.items.length === 0) return;
    const { items, more } = this.#data.backends;
    const known = this.edge.now;
    this.summary.update(items, known);
    this.map.update(
      regionsOf(items, known?.regions ?? []),
      known?.edge_region ?? null,
      this.#region,
    );
    const there =
      this.#region === null ? items : items.filter(({ region }) => region === this.#region);
    const shown = matching(
      sorted(there, ({ id }) => id),
      this.#wanted,
      (one) => [one.id, one.kind, one.region, stateWord(one.state), ...one.apps],
    );
    this.table.update(shown);
    this.none.hidden = shown.length > 0;
    this.cleared.hidden = this.#region === null;
    replace(this.more, more && notAll(items.length));
  }

  #pick(name) {
    this.#region = this.#region === name ? null : name;
    this.show();
  }

  /** The button goes, and leaves the focus to what is beside it. */
  #allRegions() {
    this.#pick(null);
    this.filter.querySelector("input").focus();
  }

  #drainsOf(backend) {
    return drainsOf(backend, this.#data.drains);
  }

  #drain(backend) {
    const drains = this.#drainsOf(backend);
    if (drains.length > 0) {
      askToUndrain(backend, drains, this.refresh);
      return;
    }
    const siblings = this.#data.backends.items.filter(
      (other) => agentOf(other) === agentOf(backend),
    );
    askToDrain(backend, siblings, this.refresh);
  }

  #detail() {
    const { element, update } = backendDetail();
    return {
      element,
      update: (backend) =>
        update({
          backend,
          sessions: this.#data.sessions.filter((session) => session.backend === backend.id),
        }),
    };
  }
}

function nothingYet() {
  return emptyState(
    "fleet",
    "No backends yet",
    "Make a token for an agent with ",
    h("code", {}, "moonhost token agent NAME"),
    " or on the page Tokens, and start ",
    h("code", {}, "moonhost agent"),
    " beside your host. It appears here within seconds.",
  );
}

function summaryLine() {
  const figure = (label) => {
    const value = h("dd");
    return { value, element: h("div", {}, h("dt", {}, label), value) };
  };
  const parts = {
    sessions: figure("Sessions"),
    healthy: figure("Healthy backends"),
    agents: figure("Agents"),
    clients: figure("Paired clients"),
  };
  const element = h(
    "dl",
    { class: "summary" },
    Object.values(parts).map((part) => part.element),
  );
  return {
    element,
    update(backends, edge) {
      const sum = (name) => backends.reduce((total, backend) => total + backend[name], 0);
      const healthy = backends.filter(({ state }) => state === "healthy").length;
      setText(parts.sessions.value, `${sum("sessions")} of ${sum("max_sessions")}`);
      setText(parts.healthy.value, `${healthy} of ${backends.length}`);
      setText(parts.agents.value, String(edge?.agents ?? NOTHING));
      setText(parts.clients.value, String(edge?.clients ?? NOTHING));
    },
  };
}

function columns(operator, drain, drains) {
  const found = [
    { id: "id", label: "Backend", value: ({ id }) => id, make: nameCell },
    {
      id: "state",
      label: "State",
      value: ({ state }) => SERIOUS.indexOf(state),
      make: (cell) => stateCell(cell, drains),
    },
    {
      id: "sessions",
      label: "Sessions",
      numeric: true,
      value: (one) => one.sessions / (one.max_sessions || 1),
      make: sessionsCell,
    },
    {
      id: "gpu",
      label: "GPU memory",
      numeric: true,
      value: (one) => one.gpu_memory_percent,
      make: gpuCell,
    },
    text(
      "cpu",
      "CPU",
      (one) => one.machine?.cpu_percent ?? null,
      (one) => percent(one.machine?.cpu_percent ?? null),
      { numeric: true },
    ),
    text(
      "rtt",
      "Tunnel RTT",
      (one) => one.rtt_ms,
      (one) => milliseconds(one.rtt_ms),
      { numeric: true },
    ),
  ];
  if (operator)
    found.push({
      id: "actions",
      label: "Actions",
      hidden: true,
      make: (cell) => drainCell(cell, drain, drains),
    });
  return found;
}

function nameCell(cell) {
  const id = h("span", { class: "strong break" });
  const where = h("span", { class: "muted small" });
  cell.append(id, where);
  return (backend) => {
    setText(id, backend.id);
    setText(where, `${backend.region} · ${backend.kind}`);
  };
}

function stateCell(cell, drains) {
  const badge = stateBadge();
  const why = h("span", { class: "muted small" });
  cell.append(badge.element, why);
  return (backend) => {
    badge.update(backend.state);
    const reasons = [
      backend.trouble && troubleWord(backend.trouble),
      backend.draining &&
        (backend.state === "draining" ? deadlineWords(drains(backend)) : "draining"),
    ];
    setText(why, reasons.filter(Boolean).join("; "));
  };
}

function sessionsCell(cell) {
  const words = h("span");
  const fill = bar();
  cell.append(words, fill.element);
  return (backend) => {
    setText(words, `${backend.sessions} / ${backend.max_sessions}`);
    fill.update(backend.max_sessions ? backend.sessions / backend.max_sessions : null);
  };
}

function gpuCell(cell) {
  const words = h("span");
  const fill = bar();
  cell.append(words, fill.element);
  return (backend) => {
    setText(words, percent(backend.gpu_memory_percent));
    fill.update(backend.gpu_memory_percent === null ? null : backend.gpu_memory_percent / 100);
  };
}

function drainCell(cell, drain, drains) {
  let current = null;
  const press = button("Drain", () => drain(current));
  cell.append(press);
  return (backend) => {
    current = backend;
    const under = drains(backend).length > 0;
    setText(press.lastChild, under ? "End drain" : "Drain");
    press.setAttribute("aria-label", `${under ? "End the drain of" : "Drain"} ${backend.id}`);
  };
}
