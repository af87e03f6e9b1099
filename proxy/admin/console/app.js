// Starts the console: finds out who is there, and shows the page that the address names.

import { ask, isPassing, whenLoggedOut } from "./api.js";
import { h, replace } from "./dom.js";
import { PAGES } from "./pages.js";
import { emptyState, toast } from "./parts.js";
import { Health, Poll, retryMs } from "./poll.js";
import { History } from "./rates.js";
import { READERS, may } from "./scopes.js";
import { Shell } from "./shell.js";
import { Value } from "./value.js";
import { loginView } from "./view_login.js";

const EDGE_MS = 5_000;
const root = document.getElementById("app");
const history = new History();
const health = new Health();
const edge = new Value(null);
let inside = null;
let login = null;

/** The console of one who is logged in. */
class Inside {
  #view = null;
  #page = null;

  constructor(who) {
    this.who = who;
    this.pages = PAGES.filter(({ scopes }) => may(who, scopes));
    this.shell = new Shell({ who, pages: this.pages, health, edge, logOut });
    const wanted = may(who, READERS);
    this.poll = wanted
      ? new Poll(
          health,
          EDGE_MS,
          () => ask("GET", "/edge"),
          (now) => edge.set(now),
          () => {},
        )
      : null;
    replace(root, this.shell.element);
    this.show(false);
  }

  /** Shows the page of the address, or the first one. */
  show(focus = true) {
    const id = location.hash.replace(/^#\/?/, "");
    const page = this.pages.find((one) => one.id === id) ?? this.pages[0];
    if (page === undefined) {
      replace(
        this.shell.main,
        emptyState(
          "tokens",
          "Nothing to see",
          "Your token has no scope that the console could use.",
        ),
      );
      return;
    }
    if (page.id !== id) window.history.replaceState(null, "", `#/${page.id}`);
    if (page === this.#page) return;
    this.#view?.close();
    this.#page = page;
    this.#view = page.open({ who: this.who, health, edge, history });
    this.shell.show(page, this.#view);
    document.title = `${page.title} · moonhost`;
    if (focus) {
      this.shell.main.querySelector("h1")?.focus({ preventScroll: true });
      window.scrollTo(0, 0);
    }
  }

  close() {
    this.#view?.close();
    this.poll?.stop();
    this.shell.close();
    edge.set(null);
  }
}

function enter(who) {
  login?.close();
  login = null;
  inside = new Inside(who);
}

function leave(message) {
  if (login !== null) return;
  inside?.close();
  inside = null;
  for (const dialog of document.querySelectorAll("dialog")) dialog.remove();
  login = loginView(message, enter);
  replace(root, login.element);
  document.title = "Log in · moonhost";
  login.focus();
}

async function logOut() {
  try {
    await ask("POST", "/logout");
  } catch (error) {
    if (isPassing(error)) {
      toast(`${error.message} You are still logged in.`, { bad: true });
      return;
    }
  }
  leave("You are logged out.");
}

async function begin(failures = 0) {
  try {
    enter(await ask("GET", "/whoami"));
  } catch (error) {
    if (error.status === 401) return;
    const wait = retryMs(failures + 1, error);
    replace(
      root,
      h(
        "main",
        { id: "main", class: "login", tabindex: "-1" },
        emptyState(
          "warning",
          "The edge cannot be asked",
          `${error.message} Trying again in ${Math.round(wait / 1000)} s.`,
        ),
      ),
    );
    setTimeout(() => begin(failures + 1), wait);
  }
}

whenLoggedOut(() =>
  leave(inside === null ? "" : "Your login has ended. Log in again to go on where you were."),
);
// As a link alone it would change the address, which names the page.
document.querySelector(".skip-link").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
window.addEventListener("hashchange", () => inside?.show());
begin();
