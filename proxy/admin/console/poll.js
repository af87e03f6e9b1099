// Asking again and again: not while nobody looks, later after failures, and never twice at once.

import { isPassing } from "./api.js";
import { Value } from "./value.js";

const FIRST_RETRY_MS = 2_000;
const LAST_RETRY_MS = 15_000;

/** How long to wait after so many failures in a row. */
export function retryMs(failures, error) {
  if (error.retryAfterS) return error.retryAfterS * 1000;
  return Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** (failures - 1));
}

/** What currently fails, for the banner: the soonest of `{message, retryAt}`, or null. */
export class Health {
  #failing = new Map();
  trouble = new Value(null);

  fails(who, message, retryAt) {
    this.#failing.set(who, { message, retryAt });
    this.#tell();
  }

  works(who) {
    if (this.#failing.delete(who)) this.#tell();
  }

  retryNow() {
    for (const who of this.#failing.keys()) who.now();
  }

  #tell() {
    const all = [...this.#failing.values()].sort((a, b) => a.retryAt - b.retryAt);
    this.trouble.set(all[0] ?? null);
  }
}

/**
 * Reads something every so often. `take(data)` gets what was read, `refused(error)` what will not
 * change by waiting; of passing failures `health` is told.
 */
export class Poll {
  #timer = null;
  #running = false;
  #again = false;
  #stopped = false;
  #failures = 0;
  #seen = () => this.#visibilityChanged();

  constructor(health, everyMs, read, take, refused) {
    Object.assign(this, { health, everyMs, read, take, refused });
    document.addEventListener("visibilitychange", this.#seen);
    this.now();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.#seen);
    this.health.works(this);
  }

  /**
   * Reads at once. An answer that is under way may be older than what was just done: another one
   * is asked for, and only that counts.
   */
  async now() {
    clearTimeout(this.#timer);
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#running = true;
    const wait = await this.#once();
    this.#running = false;
    if (this.#stopped) return;
    if (this.#again) {
      this.#again = false;
      this.now();
    } else if (wait !== null && !document.hidden) this.#timer = setTimeout(() => this.now(), wait);
  }

  async #once() {
    let data;
    try {
      data = await this.read();
    } catch (error) {
      return this.#stopped ? null : this.#failed(error);
    }
    if (this.#stopped) return null;
    this.#failures = 0;
    this.health.works(this);
    if (this.#again) return null;
    try {
      this.take(data);
    } catch (error) {
      // An answer that the page did not expect: told in the console, and the next may be better.
      reportError(error);
    }
    return this.everyMs;
  }

  #failed(error) {
    if (!isPassing(error)) {
      this.health.works(this);
      if (error.status !== 401) this.refused(error);
      return null;
    }
    this.#failures += 1;
    const wait = retryMs(this.#failures, error);
    this.health.fails(this, error.message, Date.now() + wait);
    return wait;
  }

  #visibilityChanged() {
    if (document.hidden) clearTimeout(this.#timer);
    else this.now();
  }
}
