// What is around every page: the edge's name and state, navigation, who is logged in, banners.

import { focusAgain, h, replace, setAttribute, setText } from "./dom.js";
import { icon } from "./icons.js";
import { button, momentWords } from "./parts.js";
import { switchTheme, theme } from "./theme.js";

const COUNT_MS = 500;

/** The frame for one who is logged in; `pages` are those that they may see. */
export class Shell {
  #trouble = null;

  constructor({ who, pages, health, edge, logOut }) {
    this.health = health;
    this.main = h("main", { id: "main", class: "main", tabindex: "-1" });
    this.name = h("span", { class: "edge-name" }, location.hostname);
    this.state = h("span", { class: "edge-state", hidden: true });
    this.links = new Map(pages.map((page) => [page.id, navLink(page)]));
    this.banner = banner(() => health.retryNow());
    this.warning = h("p", { class: "banner", role: "status", hidden: true });
    this.element = h(
      "div",
      { class: "shell" },
      h(
        "header",
        { class: "top" },
        h(
          "a",
          { class: "brand", href: `#/${pages[0]?.id ?? ""}`, "aria-label": "moonhost, first page" },
          icon("dark"),
          h("span", { class: "brand-name" }, "moonhost"),
        ),
        h("div", { class: "edge" }, this.name, this.state),
        themeButton(),
        account(who, logOut),
      ),
      h(
        "nav",
        { class: "nav", "aria-label": "Pages" },
        h(
          "ul",
          {},
          [...this.links.values()].map(({ item }) => item),
        ),
      ),
      h("div", { class: "content" }, this.banner.element, this.warning, this.main),
    );
    this.unwatch = [
      health.trouble.watch((trouble) => this.#showTrouble(trouble)),
      edge.watch((now) => this.#showEdge(now)),
    ];
    this.clock = setInterval(() => this.banner.update(this.#trouble), COUNT_MS);
  }

  show(page, view) {
    for (const [id, { link }] of this.links)
      setAttribute(link, "aria-current", id === page.id ? "page" : null);
    replace(this.main, view.element);
  }

  close() {
    clearInterval(this.clock);
    for (const end of this.unwatch) end();
  }

  #showTrouble(trouble) {
    this.#trouble = trouble;
    this.main.classList.toggle("stale", trouble !== null);
    this.banner.update(trouble);
  }

  #showEdge(edge) {
    if (edge === null) return;
    setText(this.name, edge.name || edge.hostname);
    this.name.title = `${edge.hostname}, moonhost ${edge.version}`;
    this.state.hidden = false;
    this.state.dataset.state = edge.accepting && edge.store_up ? "ready" : "not-ready";
    setText(this.state, edge.accepting ? (edge.store_up ? "Ready" : "Store down") : "Draining");
    const words = warningOf(edge);
    this.warning.hidden = words === "";
    if (this.warning.textContent !== words)
      replace(this.warning, words !== "" && icon("warning"), h("span", {}, words));
    for (const { update } of this.links.values()) update(edge);
  }
}

function warningOf(edge) {
  if (!edge.store_up)
    return "The store does not answer. Running sessions go on; launches and pairings fail until it is back.";
  if (!edge.accepting)
    return "This edge is draining: it takes no new sessions and stops when the last one has ended.";
  return "";
}

function navLink({ id, title, badge, urgent }) {
  const count = h("span", {
    class: urgent ? "badge urgent" : "badge",
    "aria-hidden": "true",
    hidden: true,
  });
  const words = h("span", { class: "visually-hidden" });
  const link = h(
    "a",
    { href: `#/${id}`, title },
    icon(id),
    h("span", { class: "nav-title" }, title),
    count,
    words,
  );
  const update = (edge) => {
    const told = badge?.(edge) ?? null;
    count.hidden = told === null;
    setText(count, told === null ? "" : told.count > 99 ? "99+" : String(told.count));
    setText(words, told === null ? "" : `, ${told.words}`);
  };
  return { link, item: h("li", {}, link), update };
}

function banner(retry) {
  const words = h("span");
  const left = h("span", { class: "figures", "aria-hidden": "true" });
  const element = h(
    "div",
    { class: "banner bad", hidden: true },
    icon("warning"),
    h("span", { class: "grow" }, h("span", { role: "status" }, words), " ", left),
    button("Try now", retry),
  );
  return {
    element,
    update(trouble) {
      const focused = element.contains(document.activeElement);
      element.hidden = trouble === null;
      if (focused && trouble === null) focusAgain(null);
      setText(words, trouble === null ? "" : `${trouble.message} What you see may be old.`);
      if (trouble === null) return;
      const seconds = Math.max(0, Math.ceil((trouble.retryAt - Date.now()) / 1000));
      setText(left, seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again…");
    },
  };
}

function themeButton() {
  const press = h("button", { type: "button", class: "icon-button" });
  const show = (now) => {
    const label = `Theme: ${now === "system" ? "as the system has it" : now}. Change it.`;
    press.setAttribute("aria-label", label);
    press.title = label;
    press.replaceChildren(icon(now));
  };
  press.addEventListener("click", () => show(switchTheme()));
  show(theme());
  return press;
}

function account(who, logOut) {
  const menu = h(
    "details",
    { class: "account" },
    h(
      "summary",
      { class: "account-open", "aria-label": `Logged in as ${who.name}` },
      icon("account"),
      h("span", { class: "account-name" }, who.name),
    ),
    h(
      "div",
      { class: "card account-menu" },
      h("p", { class: "strong break" }, who.name),
      h("p", { class: "muted small" }, `May: ${who.scopes.join(", ")}`),
      who.expires_at &&
        h("p", { class: "muted small" }, `Logged in until ${momentWords(who.expires_at)}`),
      button("Log out", logOut),
    ),
  );
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.firstChild.focus();
  });
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
  });
  return menu;
}
