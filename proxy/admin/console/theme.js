// Light, dark, or as the system has it; the choice is kept in this browser.

const KEY = "moonhost.theme";
const NEXT = { system: "light", light: "dark", dark: "system" };

export function theme() {
  return document.documentElement.dataset.theme ?? "system";
}

/** Goes on to the next theme and returns it. */
export function switchTheme() {
  const chosen = NEXT[theme()];
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  try {
    if (chosen === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, chosen);
  } catch {
    // Kept for this page only.
  }
  return chosen;
}
