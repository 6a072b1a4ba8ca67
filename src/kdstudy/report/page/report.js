"use strict";
(() => {
  const box = document.getElementById("browser");
  markSection();
  if (!box) return;

  const data = JSON.parse(document.getElementById("data").textContent);
  const index = new Map(data.systems.map((label, i) => [label, i]));
  const pick = {};
  for (const name of ["run", "benchmark", "kind", "text"]) {
    pick[name] = document.getElementById("pick-" + name);
  }
  const list = document.getElementById("list");
  const pane = document.getElementById("item");
  let shown = [];

  data.runs.forEach((run, i) => pick.run.append(new Option(run.run, i)));
  const benchmarks = [...new Set(data.items.map((item) => item.benchmark))];
  pick.benchmark.append(new Option("all", ""));
  benchmarks.forEach((name) => pick.benchmark.append(new Option(name, name)));
  Object.entries(data.kinds).forEach(([kind, text]) => pick.kind.append(new Option(text, kind)));
  box.hidden = false;

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function view(item) {
    const run = data.runs[pick.run.value];
    const ids = [run.teacher, run.sft, run.run].map((label) => index.get(label));
    const [teacher, sft, student] = ids.map((i) => item.texts[i]);
    return { run, teacher, sft, student, pair: item.pairs[ids[2] + ">" + ids[0]], ids };
  }

  function fits(item) {
    const { teacher, sft, student, pair } = view(item);
    if (!student) return false;
    if (pick.benchmark.value && item.benchmark !== pick.benchmark.value) return false;
    const wanted = pick.text.value.trim().toLowerCase();
    if (wanted) {
      const texts = [item.question, ...[teacher, sft, student].filter(Boolean).map((t) => t[0])];
      if (!texts.some((text) => text.toLowerCase().includes(wanted))) return false;
    }
    const right = student[2] === "correct";
    const before = sft && sft[2] === "correct";
    switch (pick.kind.value) {
      case "gained": return right && sft && !before;
      case "lost": return !right && before;
      case "same-low": return pair && pair[0] && pair[1] < data.low;
      case "wrong-faithful": return pair && !right && pair[1] >= data.high;
      case "wrong-alike": return pair && !right && teacher[2] !== "correct" && pair[0];
      case "truncated": return student[2] === "truncated";
      case "unparsed": return student[2] === "unparsed";
      default: return true;
    }
  }

  const signs = { correct: "✓", wrong: "✗", truncated: "…", unparsed: "?" };

  function refresh() {
    shown = data.items.filter(fits);
    list.replaceChildren(...shown.map((item) => {
      const outcome = view(item).student[2];
      const link = element("a");
      link.href = "#" + encodeURIComponent(item.id);
      const tag = element("span", "tag " + outcome, signs[outcome]);
      tag.title = outcome;
      link.append(tag, element("span", "", item.question));
      const row = element("li");
      row.append(link);
      return row;
    }));
    const plural = shown.length === 1 ? " item fits" : " items fit";
    document.getElementById("count").textContent =
      shown.length + plural + " of " + data.items.length + " in the sample.";
    const current = shown.find((item) => item.id === address());
    show(current || shown[0]);
  }

  function address() {
    try {
      return decodeURIComponent(location.hash.slice(1));
    } catch {
      return "";
    }
  }

  function steps(text) {
    return text.split(/(?<=[.!?]\s|\n)/);
  }

  function bare(step) {
    return step.toLowerCase().replace(/\s+/g, " ").replace(/^[\s.]+|[\s.]+$/g, "");
  }

  function written(text, other) {
    const node = element("div", "completion");
    node.dir = "auto";
    node.tabIndex = 0;
    const known = new Set(other ? steps(other).map(bare) : []);
    for (const step of steps(text)) {
      const shared = bare(step) && known.has(bare(step));
      node.append(shared ? element("mark", "shared", step) : step);
    }
    return node;
  }

  function column(name, label, cell, other, note) {
    const node = element("div");
    node.append(element("h4", "", name));
    node.append(element("p", "", label));
    if (!cell) {
      node.append(element("p", "", "no text"));
      return node;
    }
    const line = element("p");
    line.append(element("strong", cell[2], cell[2]));
    line.append(": " + (cell[1] || "no answer found") + ", " + cell[3] + " tokens" + note);
    node.append(line, written(cell[0], other && other[0]));
    return node;
  }

  function show(item) {
    for (const link of list.querySelectorAll("a")) link.removeAttribute("aria-current");
    if (!item) {
      pane.replaceChildren(element("p", "note", "No item fits. Loosen the filter or the search."));
      return;
    }
    const { run, teacher, sft, student, pair, ids } = view(item);
    const own = item.pairs[ids[1] + ">" + ids[0]];
    const bleu = (p) => (p ? ", BLEU " + p[1] + " with the teacher" : "");
    const texts = element("div", "texts");
    texts.append(
      column("Teacher", run.teacher, teacher, student, ""),
      column("SFT", run.sft, sft, null, bleu(own)),
      column("Distilled", run.run, student, teacher, bleu(pair)),
    );
    const question = element("p", "question", item.question);
    question.dir = "auto";
    const gold = element("p", "gold", "Gold answer: ");
    gold.append(element("strong", "", item.gold));
    pane.replaceChildren(element("h3", "", item.id.replace("item-", "")), question, gold, texts);
    const link = list.children[shown.indexOf(item)]?.firstChild;
    if (link) link.setAttribute("aria-current", "true");
  }

  function open() {
    const wanted = address();
    if (!wanted.startsWith("item-")) return;
    const item = data.items.find((other) => other.id === wanted);
    if (!item) return;
    if (!shown.includes(item)) {
      pick.benchmark.value = pick.text.value = "";
      pick.kind.value = "all";
      refresh();
    }
    show(item);
    if (box.getBoundingClientRect().top > innerHeight || box.getBoundingClientRect().bottom < 0) {
      box.scrollIntoView();
    }
  }

  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = document.activeElement.closest("li");
    const next = step === 1 ? row?.nextElementSibling : row?.previousElementSibling;
    if (!step || !next) return;
    event.preventDefault();
    next.firstChild.focus();
    next.firstChild.click();
  });
  box.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  for (const control of Object.values(pick)) control.addEventListener("input", refresh);
  addEventListener("hashchange", open);
  refresh();
  open();

  function markSection() {
    const links = new Map();
    for (const link of document.querySelectorAll("nav a")) links.set(link.hash.slice(1), link);
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "-20% 0px -75% 0px" });
    for (const section of document.querySelectorAll("main section")) watch.observe(section);
  }
})();
