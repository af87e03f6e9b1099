// What an accessibility checker would look at, by hand: gives sentences about what is wrong.
(checks) => {
  const shown = (element) =>
    element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  const hiddenFromSight = (element) =>
    element.closest(".visually-hidden, .skip-link:not(:focus)") !== null;
  const described = (element) =>
    `${element.tagName.toLowerCase()}.${element.getAttribute("class")} "${(element.textContent || "").trim().slice(0, 40)}"`;
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  // Any colour that CSS can say, over what is below it.
  const painted = (colour, below) => {
    canvas.fillStyle = `rgb(${below.join(" ")})`;
    canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const background = (element) => {
    const colours = [];
    for (let one = element; one !== null; one = one.parentElement)
      colours.unshift(getComputedStyle(one).backgroundColor);
    return colours.reduce((below, colour) => painted(colour, below), [255, 255, 255]);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour
      .map((part) => part / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (light + 0.05) / (dark + 0.05);
  };

  const wrong = {
    contrast() {
      const found = [];
      for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some(
          (node) => node.nodeType === Node.TEXT_NODE && node.data.trim() !== "",
        );
        const placeholder = element.matches("input") && element.placeholder !== "";
        if (
          !(own || placeholder) ||
          !shown(element) ||
          hiddenFromSight(element) ||
          element.matches(":disabled, :disabled *, option")
        )
          continue;
        const style = getComputedStyle(element, placeholder ? "::placeholder" : null);
        const below = background(element);
        const ratio = contrast(
          painted(element instanceof SVGElement ? style.fill : style.color, below),
          below,
        );
        if (ratio < 4.5) found.push(`${described(element)} has a contrast of ${ratio.toFixed(2)}`);
      }
      return found;
    },
    names() {
      const found = [];
      for (const element of document.querySelectorAll(
        "button, a[href], input, select, summary, [role=button], [role=img], dialog",
      )) {
        if (!shown(element) || element.closest("[aria-hidden=true]")) continue;
        const labels = [...(element.labels ?? [])].map((label) => label.textContent).join("");
        const by = (element.getAttribute("aria-labelledby") ?? "")
          .split(" ")
          .map((id) => document.getElementById(id)?.textContent ?? "")
          .join("");
        const text = element.matches("input, select") ? "" : element.textContent;
        const name = element.getAttribute("aria-label") || by || labels || text;
        if (name.trim() === "") found.push(`${described(element)} has no name`);
      }
      return found;
    },
    structure() {
      const found = [];
      const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
      for (const id of new Set(ids.filter((one, at) => ids.indexOf(one) !== at)))
        found.push(`two elements have the id ${id}`);
      for (const name of ["aria-labelledby", "aria-describedby", "aria-controls", "for", "list"]) {
        for (const element of document.querySelectorAll(`[${name}]`)) {
          for (const id of element.getAttribute(name).split(" ")) {
            if (document.getElementById(id) === null)
              found.push(`${described(element)}: ${name} names nothing`);
          }
        }
      }
      if (document.querySelectorAll("main").length !== 1) found.push("there is not one main");
      if (document.querySelectorAll("h1").length !== 1) found.push("there is not one h1");
      const levels = [...document.querySelectorAll("h1, h2, h3")]
        .filter(shown)
        .map(({ tagName }) => Number(tagName[1]));
      levels.forEach(
        (level, at) =>
          at > 0 &&
          level > levels[at - 1] + 1 &&
          found.push(`a heading of level ${level} follows one of ${levels[at - 1]}`),
      );
      for (const element of document.querySelectorAll("[tabindex]"))
        if (element.tabIndex > 0) found.push(`${described(element)} has a tabindex of its own`);
      if (
        document.querySelector("[style*=':']") &&
        [...document.querySelectorAll("[style]")].some((one) => !one.matches(".bar-fill"))
      )
        found.push("an element has inline style");
      return found;
    },
    width() {
      const wide = document.documentElement.scrollWidth;
      const found = wide > innerWidth ? [`the page is ${wide} wide in ${innerWidth}`] : [];
      for (const element of document.querySelectorAll("main *, header *, nav *, dialog *")) {
        if (!shown(element) || hiddenFromSight(element) || element instanceof SVGElement) continue;
        if (element.getBoundingClientRect().right > innerWidth + 1)
          found.push(`${described(element)} goes beyond the right edge`);
      }
      return found;
    },
    focus() {
      const found = [];
      for (const element of document.querySelectorAll(
        "button, a[href], input, select, summary, [tabindex='0']",
      )) {
        if (!shown(element)) continue;
        element.focus({ focusVisible: true });
        const style = getComputedStyle(
          element.matches("g") ? element.querySelector(".map-touch") : element,
        );
        if (style.outlineStyle === "none" && style.stroke === "none")
          found.push(`${described(element)} does not show the focus`);
      }
      return found;
    },
    touch() {
      const found = [];
      for (const element of document.querySelectorAll(
        "button, a[href], input:not([type=checkbox]), select, summary",
      )) {
        if (!shown(element) || hiddenFromSight(element)) continue;
        const { width, height } = element.getBoundingClientRect();
        if (height < 43.5 || width < 43.5)
          found.push(`${described(element)} is ${width.toFixed()}x${height.toFixed()}`);
      }
      return found;
    },
  };
  return checks.flatMap((check) => wrong[check]());
};
