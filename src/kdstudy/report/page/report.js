"use strict";
const CHUNK = 200; // rows drawn at once; a button draws the next
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const say = new Intl.NumberFormat("en").format;

markSection();
openRuns();
sortTables();
const items = byId("browser") && itemBrowser();
const rows = byId("rows") && rowBrowser();
addEventListener("hashchange", route);
route();

// #item-...?run=&benchmark=&kind=&q=, #items with the same, #rows?system=&benchmark=&metric=&reference=
function route() {
  const [name, query] = location.hash.slice(1).split("?");
  const wanted = new URLSearchParams(query);
  if (name === "rows") return void rows?.open(wanted);
  rows?.close();
  if (name === "items") items?.preset(wanted);
  else if (name.startsWith("item-")) items?.open(decoded(name), wanted);
}

// The number of a system's seeds is a button that shows the rows of its runs.
function openRuns() {
  for (const cell of document.querySelectorAll("td.seeds")) {
    const button = element("button", "", cell.textContent);
    const rows = cell.closest("tbody").querySelectorAll("tr.run");
    button.type = "button";
    button.setAttribute("aria-label", "Show the " + cell.textContent + " seeds");
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "false";
      button.setAttribute("aria-expanded", String(open));
      for (const row of rows) row.hidden = !open;
    });
    cell.replaceChildren(button);
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

function address(name, fields) {
  const given = Object.entries(fields).filter(([, value]) => value);
  return "#" + name + (given.length ? "?" + new URLSearchParams(given) : "");
}

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function link(href, text) {
  const node = element("a", "", text);
  node.href = href;
  return node;
}

// A list of which `CHUNK` nodes are drawn at a time.
function drawn(parent, button, node) {
  let all = [];
  button.addEventListener("click", () => {
    const next = more();
    next?.querySelector("a")?.focus();
  });
  function more() {
    const from = parent.childElementCount;
    parent.append(...all.slice(from, from + CHUNK).map(node));
    button.hidden = parent.childElementCount >= all.length;
    button.textContent = "Show more of " + say(all.length);
    return parent.children[from];
  }
  function reset(entries) {
    all = entries;
    parent.replaceChildren();
    parent.parentElement.scrollTop = parent.scrollTop = 0;
    more();
  }
  function reach(entry) {
    const place = all.indexOf(entry);
    while (place >= parent.childElementCount) more();
    return parent.children[place];
  }
  return { more, reset, reach };
}

function markSection() {
  const links = new Map();
  for (const node of document.querySelectorAll("nav a")) links.set(node.hash.slice(1), node);
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const node of links.values()) node.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  for (const section of document.querySelectorAll("main section")) watch.observe(section);
}
