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
  const words = h("span", { role: "status" });
  // What counts down is not read out every second.
  const left = h("span", { "aria-hidden": "true" });
  const status = h("p", { class: "stream-state" }, words, " ", left);
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
    if (held === null) {
      events = newestOf([...events.values(), ...batch]);
      show();
    } else held = newestOf([...held.values(), ...batch]);
    tell();
  }

  function setPaused(paused) {
    if (!paused) events = newestOf([...events.values(), ...held.values()]);
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
    const state = stream.state.now;
    if (state === "live" && !loaded) {
      loaded = true;
      replace(body, status, lines, none, quiet);
      show();
    }
    const waiting = held === null ? 0 : [...held.keys()].filter((id) => !events.has(id)).length;
    status.dataset.state =
      held === null && typeof state === "string" ? state : held === null ? "broken" : "held";
    setText(words, streamWords(state, held !== null, waiting));
    setText(left, held === null ? secondsLeft(state) : "");
  }

  function show() {
    if (!loaded) return;
    const told = [...events.values()].map((event) => ({ event, ...eventWords(event) }));
    const shown = matching(told, wanted, ({ event, sentence, details }) => [
      event.kind,
      spaced(event.kind),
      event.subject,
      sentence,
      details,
    ]);
    keyed(lines, shown, ({ event }) => event.id, eventLine);
    lines.hidden = shown.length === 0;
    none.hidden = shown.length > 0 || events.size === 0;
    quiet.hidden = events.size > 0;
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
  if (paused && waiting === MOST_EVENTS) return `Paused, ${many(waiting, "new event")} or more`;
  if (paused) return waiting === 0 ? "Paused" : `Paused, ${many(waiting, "new event")}`;
  if (state === "live") return "Live";
  if (state === "connecting") return "Connecting…";
  return "Connection lost.";
}

function secondsLeft({ retryAt }) {
  if (retryAt === undefined) return "";
  return `Connecting again in ${Math.max(0, Math.ceil((retryAt - Date.now()) / 1000))} s…`;
}

/** The newest of events, each once, by their ids. */
function newestOf(events) {
  const byId = new Map(events.map((event) => [event.id, event]));
  const newest = [...byId.values()].sort((a, b) => b.id - a.id).slice(0, MOST_EVENTS);
  return new Map(newest.map((event) => [event.id, event]));
}

function eventLine({ event, tone, sentence, details }) {
  const symbol = {
    good: "check",
    warning: "warning",
    bad: "cross",
    notice: "pairings",
    plain: "events",
  }[tone];
  const time = h("time", { class: "event-time", datetime: event.at });
  const element = h(
    "li",
    { class: "event", "data-tone": tone },
    time,
    h("span", { class: "event-mark" }, icon(symbol)),
    h(
      "div",
      { class: "event-text" },
      h("p", { class: "break" }, sentence),
      details && h("p", { class: "muted small break" }, details),
    ),
    h("span", { class: "event-kind muted small" }, spaced(event.kind)),
  );
  // What was today has a date tomorrow.
  return { element, update: () => setText(time, momentWords(event.at)) };
}
