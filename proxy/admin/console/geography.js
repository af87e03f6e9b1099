// Where regions are drawn on a flat map, and how. No I/O.

import { HEIGHT, NORTH, WIDTH } from "./world.js";

const EARTH_KM = 6371;
const radians = (degrees) => (degrees * Math.PI) / 180;

/** The point of a place on a map that is `width` wide. */
export function project(latitude, longitude, width) {
  const scale = (10 * width) / WIDTH;
  return { x: (longitude + 180) * scale, y: (NORTH - latitude) * scale };
}

export function heightFor(width) {
  return (width * HEIGHT) / WIDTH;
}

/** The way between two places over the ground. */
export function kilometres(a, b) {
  const across = Math.sin(radians(b.latitude - a.latitude) / 2) ** 2;
  const along = Math.sin(radians(b.longitude - a.longitude) / 2) ** 2;
  const both = Math.cos(radians(a.latitude)) * Math.cos(radians(b.latitude));
  return 2 * EARTH_KM * Math.asin(Math.min(1, Math.sqrt(across + both * along)));
}

/** Gathers backends by region, with the regions that are configured and have none. */
export function regionsOf(backends, configured) {
  const regions = new Map();
  const region = (name) => {
    if (!regions.has(name)) {
      regions.set(name, { name, place: null, sessions: 0, limit: 0, backends: [] });
    }
    return regions.get(name);
  };
  for (const known of configured) region(known.name).place = placeOf(known);
  for (const backend of backends) {
    const found = region(backend.region);
    found.place ??= placeOf(backend);
    found.sessions += backend.sessions;
    found.limit += backend.max_sessions;
    found.backends.push(backend);
  }
  return [...regions.values()].map((found) => ({ ...found, ...stateOf(found.backends) }));
}

function placeOf({ latitude, longitude }) {
  return Number.isFinite(latitude) && Number.isFinite(longitude) ? { latitude, longitude } : null;
}

/** States, the most serious first. */
export const SERIOUS = ["unhealthy", "draining", "degraded", "healthy"];

/** A region's `state`, as its backends are or "mixed", and the `worst` of them; null without any. */
export function stateOf(backends) {
  const states = new Set(backends.map((backend) => backend.state));
  const worst = SERIOUS.find((state) => states.has(state)) ?? null;
  return { state: states.size > 1 ? "mixed" : worst, worst };
}

/** A circle's radius in pixels: its area grows with the number of sessions there is room for. */
export function radiusOf(limit, width) {
  const most = Math.max(14, Math.min(30, width / 28));
  return Math.max(limit === 0 ? 4 : 8, Math.min(most, 5 + 2.2 * Math.sqrt(limit)));
}

const ROUNDS = 60;

/** Pushes overlapping circles apart, within the map; each keeps where it belongs as `home`. */
export function spread(circles, width, height, gap = 3) {
  const placed = circles.map((circle) => ({ ...circle, home: { x: circle.x, y: circle.y } }));
  for (let round = 0; round < ROUNDS; round += 1) {
    let moved = false;
    for (let i = 0; i < placed.length; i += 1) {
      for (let j = i + 1; j < placed.length; j += 1)
        moved = pushed(placed[i], placed[j], gap, i + j) || moved;
    }
    for (const circle of placed) {
      circle.x = Math.max(circle.r + 2, Math.min(width - circle.r - 2, circle.x));
      circle.y = Math.max(circle.r + 2, Math.min(height - circle.r - 2, circle.y));
    }
    if (!moved) break;
  }
  return placed;
}

function pushed(a, b, gap, turn) {
  const wanted = a.r + b.r + gap;
  let dx = b.x - a.x;
  let dy = b.y - a.y;
  let distance = Math.hypot(dx, dy);
  if (distance >= wanted - 0.01) return false;
  if (distance < 0.01) {
    // The very same place: any direction will do, if not the same for all.
    dx = Math.cos(turn * 2.4);
    dy = Math.sin(turn * 2.4);
    distance = 1;
  }
  const half = (wanted - Math.min(distance, wanted)) / 2;
  a.x -= (dx / distance) * half;
  a.y -= (dy / distance) * half;
  b.x += (dx / distance) * half;
  b.y += (dy / distance) * half;
  return true;
}

/** The part of a circle that is below a level, as a path; "" where it is empty. */
export function levelPath(x, y, r, share) {
  const full = Math.max(0, Math.min(1, share));
  if (full === 0) return "";
  if (full > 0.999) return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`;
  const level = y + r - 2 * r * full;
  const half = Math.sqrt(Math.max(0, r * r - (level - y) ** 2));
  const large = full > 0.5 ? 1 : 0;
  return `M${x - half} ${level}A${r} ${r} 0 ${large} 0 ${x + half} ${level}z`;
}

const LINE = 15;

/** Finds room for each circle's label: `{x, y, anchor}`, or null where it would cover something. */
export function placeLabels(circles, widthOf, width, height) {
  const taken = circles.map(({ x, y, r }) => box(x - r, y - r, 2 * r, 2 * r));
  return circles.map((circle, own) => {
    const wide = widthOf(circle);
    for (const spot of spotsFor(circle, wide)) {
      const inside =
        spot.box.x >= 0 && spot.box.right <= width && spot.box.y >= 0 && spot.box.bottom <= height;
      if (inside && taken.every((other, i) => i === own || !overlap(spot.box, other))) {
        taken.push(spot.box);
        return { x: spot.x, y: spot.y, anchor: spot.anchor };
      }
    }
    return null;
  });
}

function spotsFor({ x, y, r }, wide) {
  const away = r + 6;
  return [
    { x: x + away, y: y + 4, anchor: "start", box: box(x + away, y - LINE / 2, wide, LINE) },
    { x: x - away, y: y + 4, anchor: "end", box: box(x - away - wide, y - LINE / 2, wide, LINE) },
    { x, y: y + away + 9, anchor: "middle", box: box(x - wide / 2, y + away - 2, wide, LINE) },
    { x, y: y - away, anchor: "middle", box: box(x - wide / 2, y - away - LINE + 3, wide, LINE) },
  ];
}

function box(x, y, wide, high) {
  return { x, y, right: x + wide, bottom: y + high };
}

function overlap(a, b) {
  return a.x < b.right && b.x < a.right && a.y < b.bottom && b.y < a.bottom;
}
