// Events as they happen: the newest ones, then those that the stream brings; connects again by itself.

import { list, openEvents } from "./api.js";
import { retryMs } from "./poll.js";
import { EventReader } from "./sse.js";
import { Value } from "./value.js";

/** The edge says something every 15 s; after this long without, the connection is as good as gone. */
const SILENCE_MS = 40_000;
const PAUSE_MS = 2_000;

/**
 * Calls `got(events)` with batches that may repeat what was given before, and tells by `state` how
 * it goes: "connecting", "live", or `{retryAt}`. `refused(error)` gets what waiting will not change.
 */
export class EventStream {
  state = new Value("connecting");
  #failures = 0;
  #stopped = false;
  #timer = null;
  #abort = null;
  #lastId = null;

  constructor(got, refused) {
    this.got = got;
    this.refused = refused;
    this.#connect();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#abort?.abort();
  }

  async #connect() {
    this.state.set("connecting");
    let wait = PAUSE_MS;
    try {
      await this.#follow();
    } catch (error) {
      if (this.#stopped || error.status === 401) return;
      if (error.status >= 400 && error.status < 500 && error.status !== 429) {
        this.refused(error);
        return;
      }
      this.#failures += 1;
      wait = retryMs(this.#failures, error);
    }
    if (this.#stopped) return;
    this.state.set({ retryAt: Date.now() + wait });
    this.#timer = setTimeout(() => this.#connect(), wait);
  }

  async #follow() {
    this.#abort = new AbortController();
    const abort = this.#abort;
    let silence = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const reader = await openEvents(this.#lastId, abort.signal);
      // Asked for once the stream is open, so that nothing can be missed in between.
      const { items } = await list("/events");
      this.#take(items);
      this.#failures = 0;
      this.state.set("live");
      const parser = new EventReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(silence);
        silence = setTimeout(() => abort.abort(), SILENCE_MS);
        this.#take(parser.take(value).map(({ data }) => JSON.parse(data)));
      }
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  #take(events) {
    if (this.#stopped || events.length === 0) return;
    this.#lastId = String(Math.max(Number(this.#lastId ?? 0), ...events.map(({ id }) => id)));
    this.got(events);
  }
}
