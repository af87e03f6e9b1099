// All that is known of one backend, below its row.

import { h, keyed, setText } from "./dom.js";
import { agoTime, bar } from "./parts.js";
import { NOTHING, bitsPerSecond, bytes, clientOf, mode, percent, stateWord } from "./words.js";

/** The panel; `update({backend, sessions})`. */
export function backendDetail() {
  const gpus = h("ul", { class: "plain" });
  const machine = h("dl", { class: "facts" });
  const apps = h("ul", { class: "chips" });
  const sessions = h("ul", { class: "plain" });
  const none = {
    gpus: absent("No GPU is reported."),
    machine: absent("Nothing is reported: its agent is away."),
    apps: absent("It offers no apps."),
    sessions: absent("Nobody plays here."),
  };
  const element = h(
    "div",
    { class: "detail" },
    part("GPUs", gpus, none.gpus),
    part("Machine", machine, none.machine),
    part("Sessions here", sessions, none.sessions),
    part("Apps", apps, none.apps),
  );

  function update({ backend, sessions: here }) {
    keyed(
      gpus,
      backend.gpus.map((gpu, number) => ({ ...gpu, number })),
      ({ number }) => number,
      gpuLine,
    );
    keyed(machine, machineFacts(backend.machine), ([name]) => name, fact);
    keyed(apps, backend.apps, (app) => app, appChip);
    keyed(sessions, here, ({ id }) => id, sessionLine);
    none.gpus.hidden = backend.gpus.length > 0;
    none.machine.hidden = Boolean(backend.machine);
    none.apps.hidden = backend.apps.length > 0;
    none.sessions.hidden = here.length > 0;
  }

  return { element, update };
}

function part(title, ...content) {
  return h("section", { class: "detail-part" }, h("h3", {}, title), content);
}

function absent(text) {
  return h("p", { class: "muted" }, text);
}

function gpuLine() {
  const name = h("span", { class: "grow" });
  const used = h("span", { class: "figures" });
  const fill = bar();
  return {
    element: h("li", { class: "gpu" }, h("div", { class: "line" }, name, used), fill.element),
    update(gpu) {
      const share = gpu.memory_total_bytes
        ? (gpu.memory_used_bytes ?? null) / gpu.memory_total_bytes
        : null;
      const known = Number.isFinite(gpu.memory_used_bytes) && share !== null;
      setText(name, gpu.name);
      setText(
        used,
        known
          ? `${bytes(gpu.memory_used_bytes)} of ${bytes(gpu.memory_total_bytes)}`
          : "memory not known",
      );
      fill.update(known ? share : null);
    },
  };
}

function machineFacts(machine) {
  if (!machine) return [];
  const memory = machine.memory_total_bytes
    ? `${bytes(machine.memory_used_bytes ?? null)} of ${bytes(machine.memory_total_bytes)}`
    : NOTHING;
  return [
    ["CPU", percent(machine.cpu_percent ?? null)],
    ["Memory", memory],
    ["Receives", bitsPerSecond(machine.network_receive_bits_per_s ?? null)],
    ["Sends", bitsPerSecond(machine.network_send_bits_per_s ?? null)],
  ];
}

function fact([name]) {
  const value = h("dd", { class: "figures" });
  return {
    element: h("div", {}, h("dt", {}, name), value),
    update: ([, words]) => setText(value, words),
  };
}

function appChip() {
  const element = h("li", { class: "chip still" });
  return { element, update: (app) => setText(element, app) };
}

function sessionLine() {
  const what = h("span", { class: "grow" });
  const since = agoTime((words) => `for ${words}`);
  return {
    element: h("li", { class: "line" }, what, h("span", { class: "muted" }, since.element)),
    update(session) {
      setText(
        what,
        `${session.app} · ${clientOf(session)} · ${mode(session.mode)} · ${stateWord(session.state)}`,
      );
      since.update(session.started_at);
    },
  };
}
