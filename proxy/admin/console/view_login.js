// The page that asks who is there.

import { ask } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { button, errorLine, field } from "./parts.js";
import { span } from "./words.js";

/** The login; `entered(who)` is called with who it is. `message` says why one is here again. */
export function loginView(message, entered) {
  const token = field("API token", {
    type: "password",
    name: "token",
    autocomplete: "current-password",
    autocapitalize: "off",
    spellcheck: "false",
    required: true,
  });
  const error = errorLine();
  const yes = button("Log in", null, { kind: "primary", type: "submit" });
  let wait = null;
  const form = h(
    "form",
    {
      class: "login-form",
      method: "post",
      action: "/api/v1/login",
      novalidate: true,
      submit: submitted,
    },
    // Password managers want to know whose password that is.
    h("input", {
      class: "visually-hidden",
      type: "text",
      name: "username",
      value: "moonhost console",
      autocomplete: "username",
      tabindex: "-1",
      "aria-hidden": "true",
      readonly: true,
    }),
    token.element,
    error.element,
    yes,
  );
  const element = h(
    "main",
    { class: "login", id: "main", tabindex: "-1" },
    h(
      "div",
      { class: "card login-card" },
      h("div", { class: "brand" }, icon("dark"), h("span", {}, "moonhost")),
      h(
        "div",
        {},
        h("h1", { tabindex: "-1" }, "Log in to this edge"),
        h("p", { class: "muted break" }, location.host),
      ),
      message && h("p", { class: "notice", role: "status" }, message),
      form,
      h(
        "p",
        { class: "hint" },
        "No token yet? Make one on the edge's machine:",
        h("code", { class: "command" }, "moonhost token create NAME --scopes operate,pair"),
      ),
    ),
  );

  async function submitted(event) {
    event.preventDefault();
    const text = token.input.value.trim();
    if (yes.disabled || wait !== null) return;
    if (text === "") {
      failed("Paste a token first.");
      return;
    }
    yes.disabled = true;
    error.show("");
    try {
      const who = await ask("POST", "/login", { body: { token: text } });
      token.input.value = "";
      entered(who);
    } catch (problem) {
      if (problem.status === 429) countDown(problem.retryAfterS ?? 10);
      else failed(wordsFor(problem));
    } finally {
      yes.disabled = wait !== null;
    }
  }

  function failed(sentence) {
    error.show(sentence);
    token.input.setAttribute("aria-invalid", "true");
    token.input.focus();
  }

  function countDown(seconds) {
    const until = Date.now() + 1000 * seconds;
    error.show(`Too many attempts. Wait ${span(1000 * seconds)} and try again.`);
    wait = setInterval(tick, 1000);
    tick();
    function tick() {
      const left = Math.ceil((until - Date.now()) / 1000);
      yes.lastChild.textContent = left > 0 ? `Log in (in ${left} s)` : "Log in";
      yes.disabled = left > 0;
      if (left > 0) return;
      clearInterval(wait);
      wait = null;
      error.show("");
    }
  }

  return {
    element,
    title: "Log in",
    focus: () => token.input.focus(),
    close: () => clearInterval(wait),
  };
}

function wordsFor(problem) {
  if (problem.status === 401 || problem.status === 403) {
    return "This token is not known here. It may have been revoked, or cut short when it was copied.";
  }
  return problem.message;
}
