// What happened, as sentences; and how much it matters. No I/O.

import { capital, own, spaced, stateWord, troubleWord } from "./words.js";

const reason = (event) => (event.reason ? `: ${spaced(event.reason)}` : "");
const named = (event) => event.name || event.device || `Client ${short(event.subject)}`;
const short = (subject) => (/^[0-9a-f]{32,}$/.test(subject) ? subject.slice(0, 12) : subject);

// `said` are the details that the sentence holds already.
const KINDS = {
  backend_state: {
    tone: (event) => own(TONES, event.state) ?? "plain",
    words: (event) => backendWords(event),
    said: ["state", "before", "trouble"],
  },
  drain_began: { words: (event) => `${event.subject} takes no new sessions: a drain began` },
  drain_ended: { words: (event) => `${event.subject} takes sessions again: its drain ended` },
  drain_overdue: {
    tone: "warning",
    words: (event) => `${event.subject} drains past its deadline: a session there is ended`,
  },
  launch_failed: {
    tone: "bad",
    words: (event) => `A launch failed on ${event.subject}${reason(event)}`,
    said: ["reason"],
  },
  launch_without_backend: {
    tone: "bad",
    words: (event) => `No backend for client ${short(event.subject)}${reason(event)}`,
    said: ["reason"],
  },
  session_lost: { tone: "bad", words: (event) => `A session on ${event.subject} was lost` },
  wake: {
    words: (event) => `Waking ${event.subject}: ${spaced(event.outcome ?? "asked for")}`,
    said: ["outcome"],
  },
  events_missed: {
    tone: "warning",
    words: () => "Some events were missed: there were too many, or the edge began anew",
  },
  host_tells_sessions_apart: {
    words: (event) =>
      `How ${event.subject} tells its sessions apart changed: ${spaced(event.how ?? "")}`,
    said: ["how"],
  },
  pairing_asked: {
    tone: "notice",
    words: (event) =>
      `A device wants to be paired: ${event.device || event.address || short(event.subject)}`,
    said: ["device"],
  },
  pairing_ended: {
    words: (event) => `A pairing ended${event.how ? `: ${spaced(event.how)}` : ""}`,
    said: ["how"],
  },
  session_started: {
    tone: "good",
    words: (event) =>
      `A session began${event.app ? `: ${event.app}` : ""}${event.backend ? ` on ${event.backend}` : ""}`,
    said: ["app", "backend"],
  },
  session_state: {
    words: (event) =>
      `A session is now ${event.state ? stateWord(event.state).toLowerCase() : "in another state"}`,
    said: ["state"],
  },
  session_ended: {
    words: (event) => `A session ended${event.why ? `: ${spaced(event.why)}` : ""}`,
    said: ["why"],
  },
  client_paired: {
    tone: "good",
    words: (event) => `${named(event)} was paired`,
    said: ["name", "device"],
  },
  client_changed: {
    words: (event) => `${named(event)} was renamed or given to another user`,
    said: ["name"],
  },
  client_unpaired: {
    tone: "warning",
    words: (event) => `${named(event)} was unpaired`,
    said: ["name"],
  },
};
const TONES = {
  healthy: "good",
  degraded: "warning",
  draining: "plain",
  unhealthy: "bad",
  gone: "bad",
};
const OWN = new Set(["id", "at", "kind", "subject"]);

function backendWords(event) {
  const trouble = event.trouble ? `: ${troubleWord(event.trouble)}` : "";
  if (event.state === "gone") return `${event.subject} is gone`;
  const state = stateWord(event.state ?? "in another state").toLowerCase();
  if (event.before === "new") return `${event.subject} is here, ${state}${trouble}`;
  return `${event.subject} is ${state}${trouble}`;
}

/** An event in words: `{tone, sentence, details}`; any kind has some. */
export function eventWords(event) {
  const known = own(KINDS, event.kind);
  const tone = known?.tone ?? "plain";
  return {
    tone: typeof tone === "function" ? tone(event) : tone,
    sentence: known
      ? known.words(event)
      : `${capital(spaced(event.kind))}: ${short(event.subject)}`,
    details: detailsOf(event, known?.said ?? []),
  };
}

function detailsOf(event, said) {
  const others = Object.entries(event).filter(
    ([name, value]) => !OWN.has(name) && !said.includes(name) && value !== null && value !== "",
  );
  return others.map(([name, value]) => `${spaced(name)} ${String(value)}`).join(" · ");
}
