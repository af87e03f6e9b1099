// Who plays, and how well it arrives: figures with their last minutes.

import { ask, list } from "./api.js";
import { askFirst } from "./dialog.js";
import { h, keyed, setText } from "./dom.js";
import { filteredList } from "./filtered_list.js";
import { agoTime, button, emptyState, stateBadge, toast } from "./parts.js";
import { OPERATORS, may } from "./scopes.js";
import { sparkline } from "./sparkline.js";
import { bitsPerSecond, clientOf, milliseconds, mode, percent } from "./words.js";

const EVERY_MS = 2_000;

const FIGURES = [
  { title: "Bitrate", series: [{ name: "bitrate" }], words: bitsPerSecond, least: 1_000_000 },
  {
    title: "Round trip",
    series: [
      { name: "rttClient", label: "client" },
      { name: "rttHost", label: "host" },
    ],
    words: milliseconds,
    least: 40,
    alarm: 100,
  },
  {
    title: "Loss",
    series: [{ name: "loss" }],
    words: (value) => percent(value, 1),
    least: 2,
    alarm: 5,
  },
  { title: "Backlog", series: [{ name: "backlog" }], words: milliseconds, least: 50, alarm: 50 },
];

export function sessionsView({ who, health, history }) {
  const cards = h("ul", { class: "session-list" });
  const page = filteredList({
    title: "Sessions",
    one: "session",
    health,
    everyMs: EVERY_MS,
    read: () => list("/sessions"),
    textsOf: (one) => [
      one.app,
      clientOf(one),
      one.client_address,
      one.backend,
      one.region,
      one.codec,
      one.id,
    ],
    empty: nobody,
    content: [cards],
    update: (shown) =>
      keyed(
        cards,
        shown,
        ({ id }) => id,
        () => sessionCard(may(who, OPERATORS), history, page.now),
      ),
    taken: (items) => history.take(items, Date.now()),
  });
  return page;
}

function nobody() {
  return emptyState(
    "sessions",
    "Nobody plays",
    "Sessions appear here as soon as somebody launches an app.",
  );
}

function sessionCard(operator, history, refresh) {
  const app = h("h2", { class: "session-app" });
  const badge = stateBadge();
  const client = h("span", { class: "session-client" });
  const facts = h("p", { class: "muted small break" });
  const where = h("p", { class: "muted small break" });
  const address = h("p", { class: "muted small break figures" });
  const since = agoTime((words) => `for ${words}`);
  const figures = FIGURES.map(sparkline);
  let current = null;
  const end = operator
    ? button("End", () => askToEnd(current, refresh), { kind: "quiet-danger" })
    : null;
  const element = h(
    "li",
    { class: "card session" },
    h(
      "div",
      { class: "session-who" },
      app,
      h("p", { class: "session-title" }, badge.element, client),
      facts,
      where,
      address,
    ),
    h(
      "div",
      { class: "figure-row" },
      figures.map((figure) => figure.element),
    ),
    h("div", { class: "session-side" }, h("span", { class: "muted small" }, since.element), end),
  );

  function update(session) {
    current = session;
    setText(app, session.app);
    badge.update(session.state);
    setText(client, clientOf(session));
    setText(
      facts,
      [mode(session.mode), session.codec, session.video_encrypted_by !== "nobody" && "encrypted"]
        .filter(Boolean)
        .join(" · "),
    );
    setText(where, [session.backend, session.region].filter(Boolean).join(" · "));
    setText(address, session.client_address);
    since.update(session.started_at);
    end?.setAttribute("aria-label", `End ${session.app} of ${clientOf(session)}`);
    const samples = history.of(session.id);
    for (const figure of figures) figure.update(samples);
  }

  return { element, update };
}

function askToEnd(session, refresh) {
  askFirst({
    title: `End ${session.app}?`,
    body: h(
      "p",
      {},
      `${clientOf(session)} is thrown out and the app is closed on ${session.backend}. What was not saved there is lost.`,
    ),
    confirm: "End the session",
    danger: true,
    action: () => ask("DELETE", `/sessions/${encodeURIComponent(session.id)}`),
    done: () => {
      toast(`The session of ${clientOf(session)} was ended.`);
      refresh();
    },
  });
}
