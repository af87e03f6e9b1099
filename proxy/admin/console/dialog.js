// Dialogs that ask before something is done. The focus returns to where it was.

import { focusAgain, freshId, h } from "./dom.js";
import { button, errorLine, toast } from "./parts.js";

/**
 * Asks, and does `action()` on confirmation, then `done()`; errors of it are shown in the dialog,
 * which then stays.
 */
export function askFirst({ title, body, confirm, action, done, danger = false }) {
  const { dialog, error, buttons, form } = dialogOf(title, body);
  const yes = button(confirm, null, { kind: danger ? "danger" : "primary", type: "submit" });
  const no = button("Cancel", () => dialog.close());
  buttons.append(no, yes);
  form.addEventListener("submit", submitted);

  async function submitted(event) {
    event.preventDefault();
    if (yes.disabled) return;
    const focused = document.activeElement;
    setBusy(true);
    error.show("");
    try {
      await action();
    } catch (problem) {
      setBusy(false);
      // The dialog may have been closed by Escape; what was asked for went on.
      if (!dialog.open) toast(problem.message, { bad: true });
      else {
        error.show(problem.message);
        focused.focus();
      }
      return;
    }
    if (dialog.open) {
      dialog.addEventListener("close", done);
      dialog.close();
    } else done();
  }

  function setBusy(busy) {
    yes.disabled = busy;
    no.disabled = busy;
  }

  open(dialog);
  // What can be undone is confirmed by Enter; what cannot be wants a choice.
  (dialog.querySelector("[autofocus]") ?? (danger ? no : yes)).focus();
}

/** Shows something that is gone with the dialog: no key closes it by mistake. */
export function showUntil({ title, body, confirm }) {
  const { dialog, buttons, form } = dialogOf(title, body);
  buttons.append(button(confirm, () => dialog.close(), { kind: "primary" }));
  form.addEventListener("submit", (event) => event.preventDefault());
  dialog.setAttribute("closedby", "none");
  // Where that is not known; such a browser may insist at the second time.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  open(dialog);
  dialog.querySelector("[autofocus]").focus();
}

function dialogOf(title, body) {
  const heading = freshId("dialog");
  const error = errorLine();
  const buttons = h("div", { class: "dialog-buttons" });
  const form = h(
    "form",
    { method: "dialog", novalidate: true },
    h("h2", { id: heading }, title),
    h("div", { class: "dialog-body" }, body),
    error.element,
    buttons,
  );
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": heading }, form);
  return { dialog, error, buttons, form };
}

function open(dialog) {
  const before = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    focusAgain(before);
  });
  document.body.append(dialog);
  dialog.showModal();
}
