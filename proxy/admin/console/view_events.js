// What happened, as it happens.

import { h, keyed, replace, setText } from "./dom.js";
import { EventStream } from "./event_stream.js";
import { eventWords } from "./event_words.js";
import { icon } from "./icons.js";
import { matching } from "./order.js";
import { button, emptyState, filterField, frame, momentWords, refusal, skeleton } from "./parts.js";
import { many, spaced } from "./words.js";

/** How many are kept in the page. */
const MOST_EVENTS = 500;
const CLOCK_MS = 1_000;

export function eventsView() {
  let wanted = "";
  let held = null;
  let events = new Map();
  const filter = filterField("events", (next) => {
    wanted = next;
    show();
  });
  const pause = button("Pause", () => setPaused(held === null), {
    symbol: "pause",
    "aria-pressed": "false",
  });
  const { element, body } = frame("Events", filter, pause);
  const status = h("p", { class: "stream-state", role: "status" });
  const lines = h("ol", { class: "card events", reversed: true });
  const none = h("p", { class: "muted none-match", hidden: true }, "No event matches.");
  const quiet = emptyState(
    "events",
    "Nothing has happened yet",
    "Launches, pairings, drains and changes of backends appear here at once.",
  );
  body.append(status, skeleton(6));
  let loaded = false;

  const stream = new EventStream(take, (error) => replace(body, refusal(error)));
  const unwatch = stream.state.watch(tell);
  const clock = setInterval(() => tell(), CLOCK_MS);

  function take(batch) {
    const target = held ?? events;
    for (const event of batch) target.set(event.id, event);
    if (held === null) show();
    tell();
  }

  function setPaused(paused) {
    if (!paused) events = new Map([...events, ...held]);
    held = paused ? new Map() : null;
    pause.setAttribute("aria-pressed", String(paused));
    pause.replaceChildren(
      icon(paused ? "play" : "pause"),
      h("span", {}, paused ? "Go on" : "Pause"),
    );
    if (!paused) show();
    tell();
  }

  function tell() {
    const state = stream?.state.now ?? "connecting";
    if (state === "live" && !loaded) {
      loaded = true;
      replace(body, status, lines, none, quiet);
      show();
    }
    const waiting = held === null ? 0 : [...held.keys()].filter((id) => !events.has(id)).length;
    status.dataset.state =
      held === null && typeof state === "string" ? state : held === null ? "broken" : "held";
    setText(status, streamWords(state, held !== null, waiting));
  }

  function show() {
    if (!loaded) return;
    const newest = [...events.values()].sort((a, b) => b.id - a.id).slice(0, MOST_EVENTS);
    events = new Map(newest.map((event) => [event.id, event]));
    const told = newest.map((event) => ({ event, ...eventWords(event) }));
    const shown = matching(told, wanted, ({ event, sentence, details }) => [
      event.kind,
      spaced(event.kind),
      event.subject,
      sentence,
      details,
    ]);
    keyed(lines, shown, ({ event }) => event.id, eventLine);
    lines.hidden = shown.length === 0;
    none.hidden = shown.length > 0 || newest.length === 0;
    quiet.hidden = newest.length > 0;
  }

  return {
    element,
    close: () => {
      stream.stop();
      unwatch();
      clearInterval(clock);
    },
  };
}

function streamWords(state, paused, waiting) {
  if (paused) return waiting === 0 ? "Paused" : `Paused, ${many(waiting, "new event")}`;
  if (state === "live") return "Live";
  if (state === "connecting") return "Connecting…";
  const left = Math.max(0, Math.ceil((state.retryAt - Date.now()) / 1000));
  return `Connection lost. Connecting again in ${left} s…`;
}

function eventLine({ event, tone, sentence, details }) {
  const symbol = {
    good: "check",
    warning: "warning",
    bad: "cross",
    notice: "pairings",
    plain: "events",
  }[tone];
  const element = h(
    "li",
    { class: "event", "data-tone": tone },
    h("time", { class: "event-time figures", datetime: event.at }, momentWords(event.at)),
    h("span", { class: "event-mark" }, icon(symbol)),
    h(
      "div",
      { class: "event-text" },
      h("p", { class: "break" }, sentence),
      details && h("p", { class: "muted small break" }, details),
    ),
    h("span", { class: "event-kind muted small" }, spaced(event.kind)),
  );
  return { element, update: () => {} };
}
