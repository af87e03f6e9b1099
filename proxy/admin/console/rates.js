// Rates and their recent past, from counters that are read every few seconds. No I/O.

/** How far back a chart shows at first, and in the end. */
const FIRST_WINDOW_MS = 30_000;
const WINDOW_MS = 180_000;
/** Readings further apart than this say nothing of what was between. */
const GAP_MS = 10_000;

/** What a counter grew a second; null where it cannot be told, as after a restart. */
function rate(before, after, elapsedMs) {
  const counted = growth(before, after);
  return counted === null || elapsedMs <= 0 ? null : (counted * 1000) / elapsedMs;
}

/** What a counter grew; null if it is not known, or went backwards because it began anew. */
function growth(before, after) {
  if (!Number.isFinite(before) || !Number.isFinite(after) || after < before) return null;
  return after - before;
}

/** The share of packets that did not come, in per cent; null where none was sent. */
function lossPercent(before, after) {
  const missing = growth(before?.rtp_missing, after?.rtp_missing);
  const received = growth(before?.rtp_packets, after?.rtp_packets);
  if (missing === null || received === null || missing + received === 0) return null;
  return (100 * missing) / (missing + received);
}

/** What two readings of a session show: null for what they do not. */
function figures(before, after, elapsedMs) {
  return {
    bitrate: bitrate(before, after, elapsedMs),
    rttClient: number(after.rtt_ms?.client),
    rttHost: number(after.rtt_ms?.host),
    loss: before === null ? null : lossPercent(before.flows.video, after.flows.video),
    backlog: largest(Object.values(after.flows).map((flow) => number(flow.backlog_age_ms))),
  };
}

function bitrate(before, after, elapsedMs) {
  if (before === null) return null;
  const rates = Object.entries(after.flows).map(([kind, flow]) =>
    rate(before.flows[kind]?.bytes_to_client, flow.bytes_to_client, elapsedMs),
  );
  const known = rates.filter((one) => one !== null);
  return known.length === 0 ? null : 8 * known.reduce((sum, one) => sum + one, 0);
}

function largest(values) {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : Math.max(...known);
}

function number(value) {
  return Number.isFinite(value) ? value : null;
}

/** The recent past of all sessions. */
export class History {
  #bySession = new Map();

  /** Takes a reading of all sessions; what it does not name any more is forgotten. */
  take(sessions, nowMs) {
    const kept = new Map();
    for (const session of sessions) {
      const past = this.#bySession.get(session.id) ?? { reading: null, samples: [] };
      const former = past.reading !== null && nowMs - past.at <= GAP_MS ? past.reading : null;
      const sample = { at: nowMs, ...figures(former, session, nowMs - (past.at ?? nowMs)) };
      // Somewhat longer than is shown: lines go on beyond the edge.
      const samples = past.samples.filter((one) => nowMs - one.at <= WINDOW_MS + GAP_MS);
      kept.set(session.id, { reading: session, at: nowMs, samples: [...samples, sample] });
    }
    this.#bySession = kept;
  }

  /** The samples of a session, oldest first: `{at, bitrate, rttClient, rttHost, loss, backlog}`. */
  of(id) {
    return this.#bySession.get(id)?.samples ?? [];
  }
}

/** How far back a chart of these samples shows: it grows with them, so that few can be seen, too. */
export function windowOf(samples, nowMs) {
  const past = samples.length === 0 ? 0 : nowMs - samples[0].at;
  return Math.max(FIRST_WINDOW_MS, Math.min(WINDOW_MS, past));
}

/** Splits samples into runs without holes: lists of `[at, value]`. */
export function runs(samples, name) {
  const found = [];
  let last = null;
  for (const sample of samples) {
    const value = sample[name];
    if (value === null) last = null;
    else {
      if (last === null || sample.at - last > GAP_MS) found.push([]);
      found.at(-1).push([sample.at, value]);
      last = sample.at;
    }
  }
  return found;
}
