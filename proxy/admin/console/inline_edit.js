// A text that can be changed where it stands.

import { h, setAttribute, setText } from "./dom.js";
import { icon } from "./icons.js";
import { button, errorLine } from "./parts.js";

/**
 * Shows a value, and lets it be changed where `editable`. `save(text)` may raise; `describe()`
 * names the change for those who hear the page.
 */
export function inlineEdit({ editable, describe, save, none, maxLength, list = null }) {
  const shown = h("span", { class: "edit-value" });
  const open = h(
    "button",
    { type: "button", class: "icon-button quiet", click: begin },
    icon("edit"),
  );
  const resting = h("span", { class: "edit-resting" }, shown, editable && open);
  const element = h("div", { class: "edit" }, resting);
  let value = null;

  function begin() {
    const error = errorLine();
    const input = h("input", {
      class: "input",
      value: value ?? "",
      maxlength: maxLength,
      list,
      autocomplete: "off",
      spellcheck: "false",
      "aria-label": describe(),
    });
    const yes = button("Save", null, { kind: "primary", type: "submit" });
    const form = h(
      "form",
      {
        class: "edit-form",
        novalidate: true,
        submit: (event) => submitted(event, form, { input, yes, error }),
        keydown: (event) => event.key === "Escape" && end(),
      },
      input,
      h("span", { class: "edit-buttons" }, yes, button("Cancel", end)),
      error.element,
    );
    element.replaceChildren(form);
    input.focus();
    input.select();
  }

  function end() {
    element.replaceChildren(resting);
    open.focus();
  }

  async function submitted(event, form, { input, yes, error }) {
    event.preventDefault();
    if (yes.disabled) return;
    yes.disabled = true;
    error.show("");
    try {
      await save(input.value.trim());
      update(input.value.trim() || null);
      if (form.isConnected) end();
    } catch (problem) {
      error.show(problem.message);
      input.focus();
    } finally {
      yes.disabled = false;
    }
  }

  function update(next) {
    value = next;
    setText(shown, next ?? none);
    shown.classList.toggle("muted", next === null);
    setAttribute(open, "aria-label", describe());
    setAttribute(open, "title", describe());
  }

  return { element, update };
}
