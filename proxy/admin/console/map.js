// The fleet on a map of the world: a circle a region, as large as its room, as full as it is.

import { h, keyed, setAttribute, setText, svg } from "./dom.js";
import {
  SERIOUS,
  heightFor,
  levelPath,
  placeLabels,
  project,
  radiusOf,
  spread,
} from "./geography.js";
import { stateShape } from "./icons.js";
import { many, stateWord } from "./words.js";
import { LAND, WIDTH } from "./world.js";

const LETTER_PX = 7.2;
const LONGEST_LABEL = 22;

/** The map; `chosen(name)` is told of a region that was pressed. */
export class RegionMap {
  #regions = [];
  #edgeRegion = null;
  #picked = null;

  constructor(chosen) {
    this.chosen = chosen;
    this.land = svg("path", { class: "map-land", d: LAND });
    this.circles = svg("g", {});
    this.drawing = svg(
      "svg",
      { class: "map-drawing", role: "group", "aria-label": "Regions on a map of the world" },
      this.land,
      this.circles,
    );
    this.elsewhere = h("ul", { class: "map-elsewhere" });
    this.element = h(
      "section",
      { class: "card map", "aria-label": "Map of regions" },
      this.drawing,
      h("div", { class: "map-foot" }, this.elsewhere, legend()),
    );
    this.sizes = new ResizeObserver(() => this.#draw());
    this.sizes.observe(this.drawing);
  }

  update(regions, edgeRegion, picked) {
    this.#regions = regions;
    this.#edgeRegion = edgeRegion;
    this.#picked = picked;
    this.#draw();
  }

  close() {
    this.sizes.disconnect();
  }

  #draw() {
    const width = Math.round(this.drawing.getBoundingClientRect().width);
    if (width === 0) return;
    const height = Math.round(heightFor(width));
    setAttribute(this.drawing, "viewBox", `0 0 ${width} ${height}`);
    setAttribute(this.land, "transform", `scale(${width / WIDTH})`);
    const placed = this.#regions.filter(({ place }) => place !== null);
    const circles = spread(
      placed.map((region) => ({
        region,
        r: radiusOf(region.limit, width),
        ...project(region.place.latitude, region.place.longitude, width),
      })),
      width,
      height,
    );
    const labels = placeLabels(
      circles,
      ({ region }) => LETTER_PX * labelOf(region).length,
      width,
      height,
    );
    keyed(
      this.circles,
      circles.map((circle, i) => ({ ...circle, label: labels[i] })),
      ({ region }) => region.name,
      ({ region }) => this.#circle(region.name),
    );
    keyed(
      this.elsewhere,
      this.#regions.filter(({ place }) => place === null),
      ({ name }) => name,
      ({ name }) => this.#chip(name),
    );
  }

  #circle(name) {
    const leader = svg("line", { class: "map-leader" });
    const touch = svg("circle", { class: "map-touch" });
    const disc = svg("circle", { class: "map-disc" });
    const level = svg("path", { class: "map-level" });
    const ring = svg("circle", { class: "map-ring" });
    const mark = svg("path", { class: "map-mark" });
    const home = svg("path", { class: "map-home" });
    const label = svg("text", { class: "map-label" });
    const press = () => this.chosen(name);
    const element = svg(
      "g",
      {
        class: "map-region",
        role: "button",
        tabindex: "0",
        click: press,
        keydown: (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          press();
        },
      },
      [leader, touch, disc, level, ring, mark, home, label],
    );
    const update = ({ region, x, y, r, home: at, label: spot }) => {
      const state = region.state ?? "none";
      element.dataset.state = state;
      mark.dataset.state = region.worst ?? "none";
      setAttribute(element, "aria-label", this.#words(region));
      setAttribute(element, "aria-pressed", String(this.#picked === name));
      for (const [circle, radius] of [
        [touch, Math.max(r + 4, 22)],
        [disc, r],
        [ring, r],
      ]) {
        setAttribute(circle, "cx", x);
        setAttribute(circle, "cy", y);
        setAttribute(circle, "r", radius);
      }
      const away = Math.hypot(at.x - x, at.y - y) > r / 2;
      for (const [key, value] of Object.entries(
        away ? { x1: at.x, y1: at.y, x2: x, y2: y } : { x1: x, y1: y, x2: x, y2: y },
      ))
        setAttribute(leader, key, value);
      setAttribute(
        level,
        "d",
        levelPath(x, y, r, region.limit ? region.sessions / region.limit : 0),
      );
      setAttribute(mark, "d", markOf(region.worst, x + r * 0.72, y - r * 0.72));
      const own = region.name === this.#edgeRegion;
      setAttribute(home, "d", own ? diamond(x, y, Math.min(6, r * 0.55)) : "");
      setText(label, spot ? labelOf(region) : "");
      if (spot) {
        setAttribute(label, "x", spot.x);
        setAttribute(label, "y", spot.y);
        setAttribute(label, "text-anchor", spot.anchor);
      }
    };
    return { element, update };
  }

  #chip(name) {
    const element = h("button", { type: "button", class: "chip", click: () => this.chosen(name) });
    const item = h("li", {}, element);
    const update = (region) => {
      setText(element, `${region.name} ${countOf(region)}`);
      setAttribute(element, "aria-pressed", String(this.#picked === name));
      setAttribute(element, "aria-label", this.#words(region));
    };
    return { element: item, update };
  }

  #words(region) {
    const own = region.name === this.#edgeRegion ? ", this edge's own" : "";
    if (region.state === null) return `Region ${region.name}${own}: no backends`;
    const backends = many(region.backends.length, "backend");
    return `Region ${region.name}${own}: ${region.sessions} of ${many(region.limit, "session")}, ${backends}, ${statesOf(region)}`;
  }
}

function statesOf({ state, backends }) {
  if (state !== "mixed") return stateWord(state).toLowerCase();
  const counts = SERIOUS.map((one) => [
    one,
    backends.filter((backend) => backend.state === one).length,
  ]);
  return counts
    .filter(([, count]) => count > 0)
    .map(([one, count]) => `${count} ${stateWord(one).toLowerCase()}`)
    .join(", ");
}

function countOf(region) {
  return region.state === null ? "" : `${region.sessions}/${region.limit}`;
}

function labelOf(region) {
  const name =
    region.name.length > LONGEST_LABEL
      ? `${region.name.slice(0, LONGEST_LABEL - 1)}…`
      : region.name;
  return `${name} ${countOf(region)}`.trim();
}

function diamond(x, y, r) {
  return `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}z`;
}

function markOf(state, x, y) {
  if (state === "unhealthy") return `M${x - 4} ${y - 4}l8 8M${x + 4} ${y - 4}l-8 8`;
  if (state === "degraded") return `M${x} ${y - 5}l5.5 9.5h-11z`;
  if (state === "draining") return diamond(x, y, 5);
  return "";
}

function legend() {
  const entry = (state) =>
    h("li", { class: "state", "data-state": state }, stateShape(state), stateWord(state));
  const own = svg(
    "svg",
    { class: "map-legend-home", viewBox: "0 0 20 20", "aria-hidden": "true" },
    svg("path", { d: diamond(10, 10, 6) }),
  );
  return h(
    "ul",
    { class: "map-legend", "aria-label": "Legend" },
    ["healthy", "degraded", "draining", "unhealthy", "mixed"].map(entry),
    h("li", { class: "state" }, own, "This edge"),
  );
}
