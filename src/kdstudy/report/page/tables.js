// The head of a column sorts its table: the largest first, then the smallest, then as it was.
const words = new Intl.Collator("en", { numeric: true });
const SCALE = { k: 1e3, M: 1e6, B: 1e9 };

function sortTables() {
  for (const table of document.querySelectorAll(".sheet table:not(.texts-table)")) {
    if (table.tBodies.length > 2) sortable(table);
  }
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const before = [...table.tBodies];
  heads.forEach((head, place) => {
    const button = element("button", "", head.textContent);
    button.type = "button";
    button.title = "Sort by " + head.textContent;
    button.addEventListener("click", () => {
      const next = { descending: "ascending", ascending: "" }[head.ariaSort] ?? "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next) head.ariaSort = next;
      table.append(...(next ? sorted(before, place, next === "ascending" ? 1 : -1) : before));
    });
    head.replaceChildren(button);
  });
}

// Cells without a value come last, whichever way the others go; equal ones stay as they were.
function sorted(bodies, place, sign) {
  const texts = bodies.map((body) => valueOf(body.rows[0].cells[place]));
  const numbers = texts.map(numberOf);
  const numeric = texts.every((text, i) => !text || numbers[i] !== null);
  const order = [...bodies.keys()].sort((a, b) => {
    if (!texts[a] || !texts[b]) return !texts[a] - !texts[b];
    return sign * (numeric ? numbers[a] - numbers[b] : words.compare(texts[a], texts[b])) || a - b;
  });
  return order.map((i) => bodies[i]);
}

// What a cell says first: its value, without standard deviation and interval.
function valueOf(cell) {
  const first = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT).nextNode();
  const text = (first?.textContent ?? "").trim();
  return text === "–" ? "" : text;
}

function numberOf(text) {
  const found = /^[<>≤≥]?\s*([-−+]?[\d,]*\.?\d+(?:e[-−+]?\d+)?)([kMB])?(?!\w)/.exec(text);
  if (!found) return null;
  return Number(found[1].replace(/,/g, "").replace(/−/g, "-")) * (SCALE[found[2]] ?? 1);
}
