// The icons: strokes on a grid of 20, drawn in the text's colour.

import { svg } from "./dom.js";

const STROKES = {
  fleet: "M3 4.5h14v4.5H3zM3 11h14v4.5H3zM6 6.8h.01M6 13.2h.01M9 6.8h4M9 13.2h4",
  sessions: "M10 2.8a7.2 7.2 0 1 0 0 14.4 7.2 7.2 0 0 0 0-14.4zM8.2 7.2l4.6 2.8-4.6 2.8z",
  pairings:
    "M8.2 11.8a3.2 3.2 0 0 0 4.6 0l2.8-2.8a3.25 3.25 0 0 0-4.6-4.6L9.9 5.5M11.8 8.2a3.2 3.2 0 0 0-4.6 0L4.4 11A3.25 3.25 0 0 0 9 15.6l1.1-1.1",
  clients: "M2.8 4.2h11.4v8H2.8zM6 15.6h4.5M13.5 8.6h4v7.2h-4zM15.5 13.7h.01",
  events: "M2.8 10h3l2.2-5.6 4 11.2L14.2 10h3",
  tokens:
    "M12.6 3.2a4.2 4.2 0 1 0 0 8.4 4.2 4.2 0 0 0 0-8.4zM9.6 10.4L3 17M5.4 14.6l2 2M13.4 6.4h.01",
  system: "M3 4h14v9.5H3zM7 16.5h6M10 13.5v3",
  light:
    "M10 6.6a3.4 3.4 0 1 0 0 6.8 3.4 3.4 0 0 0 0-6.8zM10 2v1.6M10 16.4V18M2 10h1.6M16.4 10H18M4.3 4.3l1.2 1.2M14.5 14.5l1.2 1.2M15.7 4.3l-1.2 1.2M5.5 14.5l-1.2 1.2",
  dark: "M16.4 12.1A6.9 6.9 0 0 1 7.9 3.6a6.9 6.9 0 1 0 8.5 8.5z",
  account:
    "M10 3.2a3.2 3.2 0 1 0 0 6.4 3.2 3.2 0 0 0 0-6.4zM3.8 16.8c.6-3 3.1-4.8 6.2-4.8s5.6 1.8 6.2 4.8",
  chevron: "M7.5 5l5 5-5 5",
  edit: "M12.6 4.4l3 3L7.4 15.6l-3.6.6.6-3.6zM11 6l3 3",
  check: "M4.5 10.5l3.6 3.6 7.4-8",
  cross: "M5 5l10 10M15 5L5 15",
  warning: "M10 3.4l7.4 13H2.6zM10 8.2v3.8M10 14.2h.01",
  search: "M9 3.8a5.2 5.2 0 1 0 0 10.4A5.2 5.2 0 0 0 9 3.8zM12.8 12.8l3.7 3.7",
  pause: "M7 4.5v11M13 4.5v11",
  play: "M6.5 4.5l9 5.5-9 5.5z",
  copy: "M7 7h9.5v9.5H7zM13 7V3.5H3.5V13H7",
  plus: "M10 4v12M4 10h12",
};

// A shape of its own for each state: nobody has to tell colours apart.
const STATES = {
  healthy: { d: "M10 4a6 6 0 1 0 0 12 6 6 0 0 0 0-12z" },
  streaming: { d: "M10 4a6 6 0 1 0 0 12 6 6 0 0 0 0-12z" },
  degraded: { d: "M10 3.5l7 12.5H3z" },
  launched: { d: "M10 4a6 6 0 1 0 0 12 6 6 0 0 0 0-12z", hollow: true },
  draining: { d: "M10 3.5l6.5 6.5-6.5 6.5L3.5 10z", hollow: true },
  paused: { d: "M5.5 4.5h3v11h-3zM11.5 4.5h3v11h-3z" },
  unhealthy: { d: "M4.5 4.5l11 11M15.5 4.5l-11 11", stroke: true },
  mixed: { d: "M10 4a6 6 0 1 0 0 12 6 6 0 0 0 0-12z", dashed: true },
};

export function icon(name) {
  return svg(
    "svg",
    { class: "icon", viewBox: "0 0 20 20", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: STROKES[name] }),
  );
}

export function stateShape(state) {
  const { d, hollow, stroke, dashed } = STATES[state] ?? STATES.mixed;
  const kind = dashed ? "state-line dashed" : hollow || stroke ? "state-line" : "";
  return svg(
    "svg",
    {
      class: `state-shape ${kind}`,
      viewBox: "0 0 20 20",
      "aria-hidden": "true",
      focusable: "false",
    },
    svg("path", { d }),
  );
}
