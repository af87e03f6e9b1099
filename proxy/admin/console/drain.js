// Asking before a backend is drained, or takes sessions again.

import { ask } from "./api.js";
import { askFirst } from "./dialog.js";
import { freshId, h } from "./dom.js";
import { momentWords, toast } from "./parts.js";
import { many } from "./words.js";

const DEADLINES = [
  ["", "No deadline: players stay as long as they like"],
  ["900", "In 15 minutes"],
  ["3600", "In an hour"],
  ["14400", "In 4 hours"],
  ["86400", "In a day"],
];

const path = (target) => `/drains/${target.split("/").map(encodeURIComponent).join("/")}`;

/** The drains that a backend is under: its own, or that of its whole agent. */
export function drainsOf(backend, drains) {
  return drains.filter(({ target }) => target === backend.id || target === agentOf(backend));
}

export function agentOf(backend) {
  return backend.agent ?? backend.id.split("/")[0];
}

/** Asks whether to drain; `siblings` are all backends of the same agent. */
export function askToDrain(backend, siblings, done) {
  const deadline = freshId("deadline");
  const choice = h(
    "select",
    { id: deadline, class: "input" },
    DEADLINES.map(([value, label]) => h("option", { value }, label)),
  );
  const agent = agentOf(backend);
  const whole = h("input", { type: "checkbox", id: freshId("whole") });
  askFirst({
    title: `Drain ${backend.id}?`,
    body: [
      h(
        "p",
        {},
        `It takes no new sessions until you end the drain; launches go to other backends. ${playing(backend.sessions)}`,
      ),
      siblings.length > 1 &&
        h(
          "div",
          { class: "check" },
          whole,
          h(
            "label",
            { for: whole.id },
            `Drain all ${many(siblings.length, "backend")} of agent ${agent}`,
          ),
        ),
      h(
        "div",
        { class: "field" },
        h("label", { for: deadline }, "End the sessions that are left"),
        choice,
      ),
    ],
    confirm: "Drain",
    action: () => {
      const body = choice.value === "" ? {} : { deadline_s: Number(choice.value) };
      return ask("PUT", path(whole.checked ? agent : backend.id), { body });
    },
    done: () => {
      toast(`${whole.checked ? agent : backend.id} is draining.`);
      done();
    },
  });
}

function playing(count) {
  if (count === 0) return "Nobody plays there now.";
  return `${many(count, "person plays", "people play")} there now and may go on.`;
}

/** Asks whether to end the drains that a backend is under. */
export function askToUndrain(backend, drains, done) {
  const agent = agentOf(backend);
  const wide = drains.some(({ target }) => target === agent);
  askFirst({
    title: `End the drain of ${wide ? agent : backend.id}?`,
    body: h(
      "p",
      {},
      wide
        ? `All of agent ${agent} drains, not this backend alone. All of its backends take new sessions again.`
        : "It takes new sessions again.",
    ),
    confirm: "End the drain",
    action: () => Promise.all(drains.map(({ target }) => ask("DELETE", path(target)))),
    done: () => {
      toast(`${wide ? agent : backend.id} takes sessions again.`);
      done();
    },
  });
}

/** When what is left on a draining backend is ended, in words. */
export function deadlineWords(drains) {
  const deadlines = drains
    .map(({ deadline }) => deadline)
    .filter(Boolean)
    .sort();
  return deadlines.length === 0 ? "no deadline" : `until ${momentWords(deadlines[0])}`;
}
