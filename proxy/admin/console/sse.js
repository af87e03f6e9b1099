// Server-sent events, read from text as it comes. The browser's own EventSource hands out only kinds
// that it has been told the names of, hides why it was refused, and cannot start after a known id.

/** Takes pieces of a stream and gives the events that are whole: `{id, kind, data}`. */
export class EventReader {
  #rest = "";
  #event = empty();

  take(piece) {
    this.#rest += piece;
    const lines = this.#rest.split(/\r\n|\n|\r(?=[^\n])/);
    this.#rest = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line !== "") this.#field(line);
      else {
        if (this.#event.data !== null) events.push(this.#event);
        this.#event = empty();
      }
    }
    return events;
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "id") this.#event.id = value;
    else if (name === "event") this.#event.kind = value;
    else if (name === "data") {
      const before = this.#event.data;
      this.#event.data = before === null ? value : `${before}\n${value}`;
    }
  }
}

function empty() {
  return { id: null, kind: "message", data: null };
}
