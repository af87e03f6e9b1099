// Sorting and filtering of lists. No I/O.

/** Sorts by a value, stably; what is not known comes last either way. */
export function sorted(items, valueOf, descending) {
  const direction = descending ? -1 : 1;
  return [...items].sort((a, b) => compared(valueOf(a), valueOf(b), direction));
}

function compared(a, b, direction) {
  const known = (value) => value !== null && value !== undefined;
  if (!known(a) || !known(b)) return Number(known(b)) - Number(known(a));
  if (typeof a === "string") {
    return direction * a.localeCompare(b, undefined, { numeric: true, sensitivity: "base" });
  }
  return direction * (a - b);
}

/** Keeps the items whose texts hold every word that was asked for, in any case. */
export function matching(items, wanted, textsOf) {
  const words = wanted.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return items;
  return items.filter((item) => {
    const text = textsOf(item).filter(Boolean).join(" ").toLocaleLowerCase();
    return words.every((word) => text.includes(word));
  });
}
