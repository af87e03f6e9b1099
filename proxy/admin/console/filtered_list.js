// A page with a list that is read again and again, and a field that filters what is shown of it.

import { h, replace } from "./dom.js";
import { matching } from "./order.js";
import { filterField, frame, notAll, refusal, skeleton } from "./parts.js";
import { Poll } from "./poll.js";

/**
 * `update(items)` has `content` show those that match by what `textsOf` gives of them; `empty()` is
 * shown where there are none at all, and `taken(items)` is told of everything that was read.
 */
export function filteredList({
  title,
  one,
  health,
  everyMs,
  read,
  textsOf,
  empty,
  content,
  update,
  taken,
}) {
  let wanted = "";
  let data = null;
  const filter = filterField(`${one}s`, (next) => {
    wanted = next;
    show();
  });
  const { element, body } = frame(title, filter);
  const none = h("p", { class: "muted none-match" }, `No ${one} matches.`);
  const more = h("div");
  body.append(skeleton(5));

  const poll = new Poll(
    health,
    everyMs,
    read,
    (next) => {
      const first = data === null || data.items.length === 0;
      data = next;
      taken(data.items);
      if (data.items.length === 0) replace(body, empty());
      else if (first) replace(body, ...content, none, more);
      show();
    },
    (error) => {
      data = null;
      replace(body, refusal(error));
    },
  );

  function show() {
    if (data === null || data.items.length === 0) return;
    const shown = matching(data.items, wanted, textsOf);
    update(shown);
    none.hidden = shown.length > 0;
    replace(more, data.more && notAll(data.items.length));
  }

  return { element, now: () => poll.now(), close: () => poll.stop() };
}
