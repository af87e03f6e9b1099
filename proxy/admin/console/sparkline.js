// Small charts of the last minutes, drawn as SVG.

import { h, setAttribute, setText, svg } from "./dom.js";
import { runs, windowOf } from "./rates.js";
import { NOTHING, span } from "./words.js";

const WIDE = 120;
const HIGH = 32;
/** Room for the dot that the newest value is. */
const MARGIN = 3;
const HEADROOM = 1.1;

/**
 * Paths for runs of `[at, value]` that end at `nowMs`: the lines, the area below them, and a dot
 * for what was read last.
 */
function paths(found, { nowMs, windowMs, top }) {
  const wide = WIDE - MARGIN;
  const high = HIGH - 2 * MARGIN;
  const x = ([at]) => (wide * (1 - (nowMs - at) / windowMs)).toFixed(1);
  const y = ([, value]) => (HIGH - MARGIN - high * Math.min(1, value / top)).toFixed(1);
  const lines = found.map((run) =>
    run.map((point, i) => `${i ? "L" : "M"}${x(point)} ${y(point)}`).join(""),
  );
  const areas = found.map((run, i) => `${lines[i]}L${x(run.at(-1))} ${HIGH}L${x(run[0])} ${HIGH}z`);
  const last = found.at(-1)?.at(-1);
  const dot = last && last[0] === nowMs ? `M${x(last)} ${y(last)}h0` : "";
  return { line: lines.join(""), area: areas.join(""), dot };
}

/**
 * A figure with its past. `series` are `{name, label?}` of the samples, `least` is what the scale
 * shows at least, so that noise does not look like news.
 */
export function sparkline({ title, series, words, least, alarm = Infinity }) {
  const parts = series.map(({ label }, i) => ({
    area: i === 0 ? svg("path", { class: "spark-area" }) : null,
    line: svg("path", { class: `spark-line spark-${i}` }),
    dot: svg("path", { class: `spark-dot spark-${i}` }),
    value: h("span", { class: "spark-value" }),
    label: label && h("span", { class: `spark-label spark-label-${i}` }, label),
  }));
  const reach = svg("title");
  const chart = svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img" },
    reach,
    svg("path", { class: "spark-floor", d: `M0 ${HIGH - 0.5}H${WIDE}` }),
    parts.map(({ area, line, dot }) => [area, line, dot]),
  );
  const element = h(
    "div",
    { class: "figure" },
    h("h3", { class: "figure-title" }, title),
    h(
      "div",
      { class: "figure-values" },
      parts.map(({ value, label }) =>
        h(
          "span",
          { class: "figure-value" },
          label,
          value,
          h("span", { class: "figure-high" }, "high"),
        ),
      ),
    ),
    chart,
  );

  /** Shows samples up to the newest. */
  function update(samples) {
    const nowMs = samples.at(-1)?.at ?? 0;
    const windowMs = windowOf(samples, nowMs);
    const known = series
      .flatMap(({ name }) => samples.map((sample) => sample[name]))
      .filter((value) => value !== null);
    const top = Math.max(least, HEADROOM * Math.max(0, ...known));
    const told = series.map(({ name, label }, i) => {
      const drawn = paths(runs(samples, name), { nowMs, windowMs, top });
      setAttribute(parts[i].line, "d", drawn.line);
      setAttribute(parts[i].dot, "d", drawn.dot);
      if (parts[i].area) setAttribute(parts[i].area, "d", drawn.area);
      const now = samples.at(-1)?.[name] ?? null;
      setAttribute(parts[i].value, "data-alarm", now !== null && now >= alarm);
      setText(parts[i].value, words(now));
      return `${label ? `${label} ` : ""}${now === null ? "not known" : words(now)}`;
    });
    const range =
      known.length === 0
        ? ""
        : `; between ${words(Math.min(...known))} and ${words(Math.max(...known))} in the last ${span(windowMs)}`;
    setText(reach, `The last ${span(windowMs)}`);
    setAttribute(
      chart,
      "aria-label",
      `${title}: ${told.join(", ")}${range}`.replaceAll(NOTHING, "nothing"),
    );
  }

  return { element, update };
}
