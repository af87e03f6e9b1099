// A value that others watch.

export class Value {
  #now;
  #watchers = new Set();

  constructor(first) {
    this.#now = first;
  }

  get now() {
    return this.#now;
  }

  set(value) {
    this.#now = value;
    for (const watcher of this.#watchers) watcher(value);
  }

  /** Calls `watcher` with the value now and at each change; returns how to end that. */
  watch(watcher) {
    this.#watchers.add(watcher);
    watcher(this.#now);
    return () => this.#watchers.delete(watcher);
  }
}
