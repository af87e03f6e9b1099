// What happened, as sentences; and how much it matters. No I/O.

import { capital, spaced, stateWord, troubleWord } from "./words.js";

const reason = (event) => (event.reason ? `: ${spaced(event.reason)}` : "");
const named = (event) => event.name || event.client_name || short(event.subject);
const short = (subject) => (/^[0-9a-f]{32,}$/.test(subject) ? subject.slice(0, 12) : subject);

const KINDS = {
  backend_state: {
    tone: (event) => TONES[event.state] ?? "plain",
    words: (event) => backendWords(event),
  },
  drain_began: { words: (event) => `${event.subject} takes no new sessions: a drain began` },
  drain_ended: { words: (event) => `${event.subject} takes sessions again: its drain ended` },
  drain_overdue: {
    tone: "warning",
    words: (event) => `${event.subject} drains past its deadline: a session there is ended`,
  },
  launch_failed: { tone: "bad", words: (event) => `A launch failed on ${event.subject}${reason(event)}` },
  launch_without_backend: {
    tone: "bad",
    words: (event) => `No backend for client ${short(event.subject)}${reason(event)}`,
  },
  session_lost: { tone: "bad", words: (event) => `A session on ${event.subject} was lost` },
  wake: {
    words: (event) => `Waking ${event.subject}: ${spaced(event.outcome ?? "asked for")}`,
  },
  host_tells_sessions_apart: {
    words: (event) => `How ${event.subject} tells its sessions apart changed: ${spaced(event.how ?? "")}`,
  },
  pairing_asked: { tone: "notice", words: (event) => `A device wants to be paired: ${named(event)}` },
  pairing_ended: {
    words: (event) => `A pairing ended${event.outcome ? `: ${spaced(event.outcome)}` : ""}`,
  },
  session_started: {
    tone: "good",
    words: (event) => `A session began${event.app ? `: ${event.app}` : ""}${event.backend ? ` on ${event.backend}` : ""}`,
  },
  session_state: {
    words: (event) => `A session is now ${event.state ? stateWord(event.state).toLowerCase() : "in another state"}`,
  },
  session_ended: { words: (event) => `A session ended${reason(event)}` },
  client_paired: { tone: "good", words: (event) => `${capital(named(event))} was paired` },
  client_changed: { words: (event) => `${capital(named(event))} was renamed or given to another user` },
  client_unpaired: { tone: "warning", words: (event) => `${capital(named(event))} was unpaired` },
};
const TONES = { healthy: "good", degraded: "warning", draining: "plain", unhealthy: "bad", gone: "bad" };
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
  const known = Object.hasOwn(KINDS, event.kind) ? KINDS[event.kind] : null;
  const tone = known?.tone ?? "plain";
  return {
    tone: typeof tone === "function" ? tone(event) : tone,
    sentence: known ? known.words(event) : `${capital(spaced(event.kind))}: ${short(event.subject)}`,
    details: detailsOf(event),
  };
}

function detailsOf(event) {
  const others = Object.entries(event).filter(([name, value]) => !OWN.has(name) && value !== null);
  return others.map(([name, value]) => `${spaced(name)} ${String(value)}`).join(" · ");
}
