// Before anything is painted: the theme that was chosen here, so that no page flashes.
try {
  const chosen = localStorage.getItem("moonhost.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage the system's theme it is.
}
