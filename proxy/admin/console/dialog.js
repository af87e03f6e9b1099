// Dialogs that ask before something is done. The focus returns to where it was.

import { focusAgain, freshId, h } from "./dom.js";
import { button, errorLine } from "./parts.js";

/**
 * Asks, and does `action()` on confirmation; errors of it are shown in the dialog, which then
 * stays. Resolves to whether it was done.
 */
export function confirmed({ title, body, confirm, action, danger = false, done = null }) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    const heading = freshId("dialog");
    const error = errorLine();
    const yes = button(confirm, null, { kind: danger ? "danger" : "primary", type: "submit" });
    const no = button("Cancel", () => dialog.close());
    const form = h(
      "form",
      { method: "dialog", novalidate: true, submit: (event) => submitted(event) },
      h("h2", { id: heading }, title),
      h("div", { class: "dialog-body" }, body),
      error.element,
      h("div", { class: "dialog-buttons" }, no, yes),
    );
    const dialog = h("dialog", { class: "dialog", "aria-labelledby": heading }, form);
    let outcome = false;

    async function submitted(event) {
      event.preventDefault();
      if (yes.disabled) return;
      yes.disabled = true;
      error.show("");
      try {
        await action();
        outcome = true;
        dialog.close();
      } catch (problem) {
        error.show(problem.message);
      } finally {
        yes.disabled = false;
      }
    }

    dialog.addEventListener("close", () => {
      dialog.remove();
      focusAgain(before);
      if (outcome && done) done();
      resolve(outcome);
    });
    document.body.append(dialog);
    dialog.showModal();
    // What can be undone is confirmed by Enter; what cannot be wants a choice.
    (dialog.querySelector("[autofocus]") ?? (danger ? no : yes)).focus();
  });
}
