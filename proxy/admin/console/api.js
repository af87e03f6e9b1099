// Asks the edge. Requests have deadlines, errors are sentences, lists are read page by page.

const BASE = "/api/v1";
const TIMEOUT_MS = 10_000;
const MOST_ITEMS = 1000;
const PAGE = 500;

/** The edge answered, and would not. */
class Problem extends Error {
  constructor(status, reason, message, retryAfterS) {
    super(message);
    this.status = status;
    this.reason = reason;
    this.retryAfterS = retryAfterS;
  }
}

/** No answer: the edge is down, or the network between. */
class Unreachable extends Error {}

/** Tells whether asking again later may help. */
export function isPassing(error) {
  return error instanceof Unreachable || error.status >= 500 || error.status === 429;
}

/**
 * Asks one thing and returns the answer's JSON, or null where it has no body.
 * Not with mode "same-origin": under this page's referrer policy the browser would then hide the
 * origin that the edge wants to see.
 */
export async function ask(method, path, { body, timeoutMs = TIMEOUT_MS } = {}) {
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), timeoutMs);
  try {
    const response = await fetch(BASE + path, {
      method,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      cache: "no-store",
      redirect: "error",
      signal: timeout.signal,
    });
    if (!response.ok) throw await problemOf(response);
    const text = await response.text();
    return text === "" ? null : JSON.parse(text);
  } catch (error) {
    if (error instanceof Problem) throw noted(error);
    throw new Unreachable(
      timeout.signal.aborted
        ? `The edge took longer than ${timeoutMs / 1000} s to answer.`
        : "The edge does not answer.",
    );
  } finally {
    clearTimeout(timer);
  }
}

/** Reads a whole list, up to a bound; `more` says that there are others. */
export async function list(path) {
  const items = [];
  let cursor = null;
  do {
    const query = new URLSearchParams({ limit: PAGE });
    if (cursor !== null) query.set("cursor", cursor);
    const page = await ask("GET", `${path}?${query}`);
    items.push(...page.items);
    cursor = page.next;
  } while (cursor !== null && items.length < MOST_ITEMS);
  return { items: items.slice(0, MOST_ITEMS), more: cursor !== null || items.length > MOST_ITEMS };
}

/** Opens the stream of events after `lastId`. Raises as `ask` does. */
export async function openEvents(lastId, signal) {
  let response;
  try {
    response = await fetch(`${BASE}/events/stream`, {
      headers: { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) },
      cache: "no-store",
      redirect: "error",
      signal,
    });
  } catch {
    throw new Unreachable("The edge does not answer.");
  }
  if (!response.ok) throw noted(await problemOf(response));
  return response.body.pipeThrough(new TextDecoderStream()).getReader();
}

async function problemOf(response) {
  const told = await response.json().catch(() => ({}));
  const reason = String(told?.type ?? "").replace("urn:moonhost:", "");
  const message =
    told?.detail ?? told?.title ?? `The edge answered with status ${response.status}.`;
  const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return new Problem(response.status, reason, String(message), Number.isNaN(wait) ? null : wait);
}

let loggedOut = () => {};

/** Sets what is done when the edge no longer knows who asks. */
export function whenLoggedOut(listener) {
  loggedOut = listener;
}

function noted(error) {
  if (error.status === 401) loggedOut();
  return error;
}
