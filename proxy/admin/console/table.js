// Tables that sort by column, and become cards where there is little room.

import { freshId, h, keyed, setAttribute, setText } from "./dom.js";
import { icon } from "./icons.js";
import { sorted } from "./order.js";

/** A column whose cells hold a text. */
export function text(id, label, valueOf, wordsOf = valueOf, more = {}) {
  const make = (cell) => (item) => setText(cell, String(wordsOf(item) ?? ""));
  return { id, label, value: valueOf, make, ...more };
}

/**
 * A table of `columns`: `{id, label, value?, make(cell) → update(item), numeric?}`; those with a
 * value can be sorted by. With `detail(item) → {element, update}` rows open.
 */
export class Table {
  #items = [];
  #by;
  #descending = false;
  #heads = new Map();

  constructor({
    caption,
    columns,
    keyOf,
    nameOf,
    sortBy = null,
    descending = false,
    detail = null,
  }) {
    Object.assign(this, { columns, keyOf, nameOf, detail });
    this.#by = sortBy;
    this.#descending = descending;
    this.head = h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        columns.map((column) => this.#header(column)),
      ),
    );
    this.table = h(
      "table",
      { class: detail ? "table opens" : "table", role: "table" },
      h("caption", { class: "visually-hidden" }, caption),
      this.head,
    );
    this.element = h("div", { class: "table-frame" }, this.#picker(), this.table);
    this.#showOrder();
  }

  update(items) {
    this.#items = items;
    const column = this.columns.find(({ id }) => id === this.#by);
    const shown = column ? sorted(items, column.value, this.#descending) : items;
    keyed(this.table, shown, this.keyOf, () => this.#row(), this.head);
  }

  #header(column) {
    const label = column.value
      ? h(
          "button",
          { type: "button", class: "sort", click: () => this.#sort(column.id) },
          column.label,
          icon("chevron"),
        )
      : h("span", { class: column.hidden ? "visually-hidden" : null }, column.label);
    const cell = h(
      "th",
      { scope: "col", role: "columnheader", class: column.numeric ? "numeric" : null },
      label,
    );
    this.#heads.set(column.id, cell);
    return cell;
  }

  #sort(id, descending = this.#by === id && !this.#descending) {
    this.#by = id;
    this.#descending = descending;
    this.#showOrder();
    this.update(this.#items);
  }

  #showOrder() {
    for (const { id, value } of this.columns) {
      if (!value) continue;
      const order = this.#descending ? "descending" : "ascending";
      setAttribute(this.#heads.get(id), "aria-sort", id === this.#by ? order : "none");
    }
    this.select.value = `${this.#by}:${this.#descending ? "down" : "up"}`;
  }

  // Cards have no column headers to press.
  #picker() {
    const id = freshId("sort");
    const options = this.columns
      .filter(({ value }) => value)
      .flatMap(({ id: column, label }) => [
        h("option", { value: `${column}:up` }, `${label}, rising`),
        h("option", { value: `${column}:down` }, `${label}, falling`),
      ]);
    this.select = h(
      "select",
      {
        id,
        class: "input",
        change: () => {
          const [column, way] = this.select.value.split(":");
          this.#sort(column, way === "down");
        },
      },
      options,
    );
    return h("div", { class: "sort-picker" }, h("label", { for: id }, "Sort by"), this.select);
  }

  #row() {
    const cells = this.columns.map((column, index) => {
      const box = h("div", { class: "cell" });
      const cell = h(
        index === 0 ? "th" : "td",
        {
          scope: index === 0 ? "row" : null,
          role: index === 0 ? "rowheader" : "cell",
          class: [column.numeric && "numeric", column.strong && "strong", `column-${column.id}`]
            .filter(Boolean)
            .join(" "),
          "data-label": column.hidden || index === 0 ? null : column.label,
        },
        box,
      );
      return { cell, box, update: column.make(box) };
    });
    const row = h(
      "tr",
      { role: "row" },
      cells.map(({ cell }) => cell),
    );
    const body = h("tbody", { role: "rowgroup" }, row);
    const opening = this.detail && this.#opening(body, cells[0]);
    return {
      element: body,
      update: (item) => {
        for (const { update } of cells) update(item);
        opening?.(item);
      },
    };
  }

  #opening(body, { box }) {
    const id = freshId("detail");
    let shown = null;
    let current = null;
    const toggle = h(
      "button",
      { type: "button", class: "opener", "aria-expanded": "false", "aria-controls": id },
      icon("chevron"),
    );
    box.before(toggle);
    const inner = h("td", { role: "cell", colspan: this.columns.length });
    const row = h("tr", { role: "row", class: "detail-row", id, hidden: true }, inner);
    body.append(row);
    toggle.addEventListener("click", () => {
      row.hidden = !row.hidden;
      toggle.setAttribute("aria-expanded", String(!row.hidden));
      if (!row.hidden && shown === null) {
        shown = this.detail(current);
        inner.append(shown.element);
      }
      if (!row.hidden) shown.update(current);
    });
    return (item) => {
      current = item;
      setAttribute(toggle, "aria-label", `Details of ${this.nameOf(item)}`);
      if (!row.hidden) shown.update(item);
    };
  }
}
