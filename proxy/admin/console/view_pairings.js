// Devices that wait to be paired: each shows a PIN, which is told here.

import { ask, list } from "./api.js";
import { askFirst } from "./dialog.js";
import { freshId, h, keyed, replace, setText } from "./dom.js";
import { kilometres } from "./geography.js";
import { icon } from "./icons.js";
import {
  button,
  emptyState,
  errorLine,
  field,
  frame,
  offer,
  refusal,
  skeleton,
  toast,
} from "./parts.js";
import { Poll } from "./poll.js";
import { PAIRERS, READERS, may } from "./scopes.js";
import { many, pairingWords, placeWords, stopwatch } from "./words.js";

const EVERY_MS = 3_000;
const CLOCK_MS = 1_000;
/** The edge waits for the device's next steps before it answers. */
const CONFIRM_TIMEOUT_MS = 60_000;
const LEAST_DIGITS = 4;
const MOST_DIGITS = 16;

export function pairingsView({ who, health, edge }) {
  const { element, body } = frame("Pairings");
  const users = h("datalist", { id: freshId("users") });
  const cards = h("ul", { class: "pairing-list" });
  const idle = emptyState(
    "pairings",
    "No device waits",
    "Add this edge in Moonlight on the device. It shows a PIN, and appears here.",
  );
  body.append(skeleton(2));
  const kept = new Map();
  let waiting = [];
  let loaded = false;

  const context = {
    mayPair: may(who, PAIRERS),
    users: users.id,
    edge,
    changed: () => poll.now(),
    drop,
  };
  const poll = new Poll(
    health,
    EVERY_MS,
    () => list("/pairings"),
    ({ items }) => {
      waiting = items;
      if (!loaded) replace(body, users, cards, idle);
      loaded = true;
      show();
    },
    (error) => {
      loaded = false;
      replace(body, refusal(error));
    },
  );
  const clock = setInterval(() => kept.forEach((card) => card.tick()), CLOCK_MS);
  // Where the regions are may come after the devices.
  const unwatch = edge.watch(() => loaded && show());
  if (may(who, READERS)) offerUsers(users);

  function show() {
    const present = new Set(waiting.map(({ id }) => id));
    // A device that asks anew makes what was said of its former attempt old news.
    const asking = new Set(waiting.filter(({ id }) => !kept.has(id)).map(({ address }) => address));
    for (const [id, card] of kept) {
      if (present.has(id) || card.busy) continue;
      if (card.finished ? asking.has(card.pairing.address) && !card.paired : !card.goneWhileUsed())
        kept.delete(id);
    }
    for (const pairing of waiting) {
      if (!kept.has(pairing.id)) kept.set(pairing.id, pairingCard(pairing, context));
    }
    keyed(
      cards,
      [...kept.values()],
      (card) => card.pairing.id,
      (card) => card,
    );
    idle.hidden = kept.size > 0;
  }

  function drop(id) {
    kept.delete(id);
    waiting = waiting.filter((pairing) => pairing.id !== id);
    show();
    const next = cards.querySelector("input, button");
    (next ?? element.querySelector("h1")).focus();
  }

  return {
    element,
    close: () => {
      poll.stop();
      unwatch();
      clearInterval(clock);
    },
  };
}

async function offerUsers(datalist) {
  try {
    const { items } = await list("/clients");
    offer(datalist, items);
  } catch {
    // Names can be typed as well.
  }
}

function pairingCard(pairing, context) {
  const age = h("span", { class: "figures" });
  const wait = h("p", { class: "muted" }, "waits for ", age);
  const place = h("p", { class: "muted" });
  const name = pairing.device || "A device";
  const heading = freshId("pairing");
  const slot = h("div", { class: "pairing-slot" });
  const result = h("div", { class: "pairing-result", role: "status", "aria-live": "polite" });
  const element = h(
    "li",
    { class: "card pairing", "aria-labelledby": heading },
    h(
      "div",
      { class: "pairing-who" },
      h("h2", { id: heading }, name),
      h("p", { class: "figures" }, pairing.address),
      place,
      wait,
    ),
    slot,
    result,
  );
  const card = {
    pairing,
    element,
    busy: false,
    finished: false,
    paired: false,
    update,
    tick,
    goneWhileUsed,
  };
  if (context.mayPair) slot.append(pinForm(card, name, context, finish));
  else slot.append(h("p", { class: "hint" }, "Your token may see this device, but not pair it."));

  function tick() {
    if (!card.finished) setText(age, stopwatch(Date.now() - Date.parse(pairing.asked_at)));
  }

  function update() {
    tick();
    setText(place, placeWords(pairing.place, nearestTo(pairing.place, context.edge.now)));
  }

  function finish(good, sentence) {
    const used =
      element.contains(document.activeElement) || document.activeElement === document.body;
    card.finished = true;
    card.paired = good;
    element.dataset.outcome = good ? "good" : "bad";
    slot.remove();
    wait.remove();
    const close = button("Done", () => context.drop(pairing.id), {
      "aria-label": `Done with ${name}`,
    });
    result.replaceChildren(icon(good ? "check" : "warning"), h("p", {}, sentence), close);
    if (used) close.focus();
  }

  /** It left while somebody was about to tell its PIN: that wants saying. */
  function goneWhileUsed() {
    const used = element.contains(document.activeElement);
    if (used) finish(false, "The device no longer waits. Start the pairing again on the device.");
    return used;
  }

  return card;
}

function nearestTo(place, edge) {
  if (!edge || place?.located_by !== "database" || !Number.isFinite(place.latitude)) return null;
  const away = edge.regions
    .filter(({ latitude }) => Number.isFinite(latitude))
    .map((region) => ({ name: region.name, km: kilometres(place, region) }))
    .sort((a, b) => a.km - b.km);
  return away[0] ?? null;
}

function pinForm(card, name, context, finish) {
  const pin = field(
    "PIN",
    {
      class: "input pin",
      name: "pin",
      inputmode: "numeric",
      autocomplete: "one-time-code",
      maxlength: MOST_DIGITS,
      required: true,
      input: () => {
        const digits = pin.input.value.replace(/\D/g, "");
        if (digits !== pin.input.value) pin.input.value = digits;
      },
    },
    "As the device shows it",
  );
  const user = field(
    "Whose device?",
    { name: "user", autocomplete: "off", spellcheck: "false", maxlength: 64, list: context.users },
    "Optional",
  );
  const error = errorLine();
  const yes = button("Pair", null, {
    kind: "primary",
    type: "submit",
    "aria-label": `Pair ${name}`,
  });
  const no = button("Refuse", () => askToRefuse(card, name, context), {
    kind: "quiet-danger",
    "aria-label": `Refuse ${name}`,
  });

  async function submitted(event) {
    event.preventDefault();
    if (card.busy) return;
    if (pin.input.value.length < LEAST_DIGITS) {
      error.show(`A PIN has at least ${many(LEAST_DIGITS, "digit")}.`);
      pin.input.focus();
      return;
    }
    setBusy(true);
    error.show("");
    try {
      const body = { pin: pin.input.value, user: user.input.value.trim() || null };
      const { outcome } = await ask("POST", path(card), { body, timeoutMs: CONFIRM_TIMEOUT_MS });
      pin.input.value = "";
      finish(outcome === "paired", pairingWords(outcome));
    } catch (problem) {
      if (isOver(problem)) finish(false, problem.message);
      else error.show(problem.message);
    } finally {
      setBusy(false);
      context.changed();
    }
  }

  function setBusy(busy) {
    card.busy = busy;
    yes.disabled = busy;
    no.disabled = busy;
    setText(yes.lastChild, busy ? "Pairing…" : "Pair");
  }

  return h(
    "form",
    { class: "pairing-form", novalidate: true, autocomplete: "off", submit: submitted },
    h("div", { class: "pairing-fields" }, pin.element, user.element),
    error.element,
    h("div", { class: "pairing-buttons" }, yes, no),
  );
}

const path = (card) => `/pairings/${encodeURIComponent(card.pairing.id)}`;

/** Tells whether the device waits no more, so that another PIN would be in vain. */
function isOver(problem) {
  return ["no_such_pairing", "pairing_gone", "pairing_not_finished"].includes(problem.reason);
}

function askToRefuse(card, name, context) {
  askFirst({
    title: `Refuse ${name}?`,
    body: h(
      "p",
      {},
      `${card.pairing.address} is told that the pairing was refused. It may ask again.`,
    ),
    confirm: "Refuse",
    danger: true,
    action: () => ask("DELETE", path(card)),
    done: () => {
      toast(`${name} was refused.`);
      context.drop(card.pairing.id);
      context.changed();
    },
  });
}
