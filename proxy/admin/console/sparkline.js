// Small charts of the last minutes, drawn as SVG.

import { h, setAttribute, setText, svg } from "./dom.js";
import { WINDOW_MS, runs } from "./rates.js";
import { NOTHING } from "./words.js";

const WIDE = 120;
const HIGH = 32;
const HEADROOM = 1.1;

/** Paths for runs of `[at, value]` that end at `nowMs`: the lines, and the area below them. */
function paths(found, nowMs, top) {
  const x = ([at]) => (WIDE * (1 - (nowMs - at) / WINDOW_MS)).toFixed(1);
  const y = ([, value]) => (HIGH - 1 - (HIGH - 2) * Math.min(1, value / top)).toFixed(1);
  const lines = found.map((run) =>
    run.map((point, i) => `${i ? "L" : "M"}${x(point)} ${y(point)}`).join(""),
  );
  const areas = found.map((run, i) => `${lines[i]}L${x(run.at(-1))} ${HIGH}L${x(run[0])} ${HIGH}z`);
  return { line: lines.join(""), area: areas.join("") };
}

/**
 * A figure with its past. `series` are `{name, label?}` of the samples, `least` is what the scale
 * shows at least, so that noise does not look like news.
 */
export function sparkline({ title, series, words, least, alarm = Infinity }) {
  const parts = series.map(({ label }, i) => ({
    area: i === 0 ? svg("path", { class: "spark-area" }) : null,
    line: svg("path", { class: `spark-line spark-${i}` }),
    value: h("span", { class: "spark-value" }),
    label: label && h("span", { class: `spark-label spark-label-${i}` }, label),
  }));
  const chart = svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img" },
    svg("path", { class: "spark-floor", d: `M0 ${HIGH - 0.5}H${WIDE}` }),
    parts.map(({ area, line }) => [area, line]),
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

  function update(samples, nowMs) {
    const known = series
      .flatMap(({ name }) => samples.map((sample) => sample[name]))
      .filter((value) => value !== null);
    const top = Math.max(least, HEADROOM * Math.max(0, ...known));
    const told = series.map(({ name, label }, i) => {
      const drawn = paths(runs(samples, name), nowMs, top);
      setAttribute(parts[i].line, "d", drawn.line);
      if (parts[i].area) setAttribute(parts[i].area, "d", drawn.area);
      const now = samples.at(-1)?.[name] ?? null;
      setAttribute(parts[i].value, "data-alarm", now !== null && now >= alarm);
      setText(parts[i].value, words(now));
      return `${label ? `${label} ` : ""}${now === null ? "not known" : words(now)}`;
    });
    const range =
      known.length === 0
        ? ""
        : `; between ${words(Math.min(...known))} and ${words(Math.max(...known))} lately`;
    setAttribute(
      chart,
      "aria-label",
      `${title}: ${told.join(", ")}${range}`.replaceAll(NOTHING, "nothing"),
    );
  }

  return { element, update };
}
