// Figures, times and what happened, in words. No I/O.

const STATES = {
  healthy: "Healthy",
  degraded: "Degraded",
  draining: "Draining",
  unhealthy: "Unhealthy",
  mixed: "Mixed",
  launched: "Starting",
  streaming: "Streaming",
  paused: "Paused",
};
const TROUBLES = {
  tunnel_down: "its agent is not connected",
  telemetry_stale: "no telemetry lately",
};
const SCOPES = {
  read: "see everything but tokens",
  pair: "confirm and refuse new devices",
  operate: "what read may; drain, end sessions, change clients",
  admin: "everything, tokens included",
};

export const NOTHING = "–";

/** What an object holds itself: every object knows "constructor", and peers choose some names. */
export function own(table, name) {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

export function stateWord(state) {
  return own(STATES, state) ?? spaced(state);
}

export function troubleWord(trouble) {
  return own(TROUBLES, trouble) ?? `${spaced(trouble)} does not answer`;
}

export function scopeWord(scope) {
  return own(SCOPES, scope) ?? "";
}

/** A token of the API, as a person would write it. */
export function spaced(token) {
  return String(token).replaceAll("_", " ");
}

export function capital(text) {
  return text.charAt(0).toLocaleUpperCase() + text.slice(1);
}

function rounded(value, digits) {
  return value.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

export function percent(value, digits = 0) {
  return value === null ? NOTHING : `${rounded(value, digits)} %`;
}

export function milliseconds(value) {
  return value === null ? NOTHING : `${rounded(value, value < 10 ? 1 : 0)} ms`;
}

export function bitsPerSecond(value) {
  return value === null ? NOTHING : scaled(value, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]);
}

export function bytes(value) {
  return value === null ? NOTHING : scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
}

function scaled(value, step, units) {
  let unit = 0;
  let left = value;
  while (left >= step && unit < units.length - 1) {
    left /= step;
    unit += 1;
  }
  return `${rounded(left, unit === 0 || left >= 100 ? 0 : 1)} ${units[unit]}`;
}

/** ``1920x1080x60`` as people say it. */
export function mode(text) {
  const found = /^(\d+)x(\d+)x(\d+)$/.exec(text ?? "");
  return found === null ? (text ?? NOTHING) : `${found[1]}×${found[2]} at ${found[3]}`;
}

/** A span of time, its largest two units. */
export function span(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  const days = Math.floor(hours / 24);
  return days === 1 ? "1 day" : `${days} days`;
}

/** The same to the second: for what people count with. */
export function stopwatch(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** Whose session it is: the client's name, or where it has none the beginning of its id. */
export function clientOf(session) {
  return session.client_name || `Client ${session.client.slice(0, 12)}`;
}

export function many(count, one, more = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : more}`;
}

export function coordinates({ latitude, longitude }) {
  const north = `${rounded(Math.abs(latitude), 1)}° ${latitude < 0 ? "S" : "N"}`;
  return `${north}, ${rounded(Math.abs(longitude), 1)}° ${longitude < 0 ? "W" : "E"}`;
}

/** Where a device is, as far as its address tells; `nearest` is `{name, km}` or null. */
export function placeWords(place, nearest) {
  if (!place || place.located_by === "nothing") return "Place not known";
  if (place.located_by === "pinned_network") return `In ${place.region}, by its network`;
  if (place.located_by === "edge_region") {
    return place.region ? `Place not known; counts as ${place.region}` : "Place not known";
  }
  if (nearest) return `About ${rounded(nearest.km, 0)} km from ${nearest.name}`;
  if (Number.isFinite(place.latitude)) return `Near ${coordinates(place)}`;
  return place.region ? `In ${place.region}` : "Place not known";
}

const PAIRINGS = {
  paired: "Paired. The device can play now.",
  wrong_pin:
    "That was not the PIN on the device. Start the pairing again on the device: it shows a new PIN.",
  wrong_signature: "The device could not prove who it is. Start the pairing again on the device.",
  broken_off: "The device broke off. Start the pairing again on the device.",
};

export function pairingWords(outcome) {
  return own(PAIRINGS, outcome) ?? `${capital(spaced(outcome))}. Start the pairing again on the device.`;
}
