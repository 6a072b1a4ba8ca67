function itemBrowser() {
  const box = byId("browser"), pane = byId("item"), list = byId("list"), count = byId("count");
  const pick = Object.fromEntries(
    ["run", "benchmark", "kind", "text"].map((name) => [name, byId("pick-" + name)]));
  const index = new Map(data.systems.map((label, i) => [label, i]));
  const places = new Map(data.items.map((item) => [item.id, item]));
  const kinds = Object.keys(data.kinds);
  const signs = { correct: "✓", wrong: "✗", truncated: "…", unparsed: "?", rated: "·" };
  const entries = drawn(list, byId("more"), entry);
  let shown = [], current;

  data.runs.forEach((run, i) => pick.run.append(new Option(run.run, i)));
  pick.benchmark.append(new Option("all", ""));
  for (const name of Object.keys(data.counts)) pick.benchmark.append(new Option(name, name));
  for (const kind of ["all", ...kinds]) pick.kind.append(new Option("", kind));
  box.hidden = false;

  function view(item) {
    const run = data.runs[pick.run.value];
    const ids = { run: index.get(run.run), sft: index.get(run.sft),
      teacher: index.get(run.teacher) };
    const text = (role) => item.texts[ids[role]];
    const pair = (a, b) => item.pairs[ids[a] + ">" + ids[b]];
    return { run, ids, text, pair };
  }

  function fits(item) {
    const mask = item.kinds[pick.run.value], bit = kinds.indexOf(pick.kind.value);
    if (mask < 0 || (bit >= 0 && !(mask & (1 << bit)))) return false;
    if (pick.benchmark.value && item.benchmark !== pick.benchmark.value) return false;
    const wanted = pick.text.value.trim().toLowerCase();
    if (!wanted || item.question.toLowerCase().includes(wanted)) return true;
    if (item.options?.some((parts) => parts.join("").toLowerCase().includes(wanted))) return true;
    const { text } = view(item);
    return ["run", "sft", "teacher"].some((role) =>
      text(role)?.[0].toLowerCase().includes(wanted));
  }

  // Run, filters and search, as addresses have them.
  function chosen() {
    const { run, benchmark, kind, text } = pick;
    return { run: data.runs[run.value].run, benchmark: benchmark.value,
      kind: kind.value === "all" ? "" : kind.value, q: text.value.trim() };
  }

  // How many items of the run and benchmark there are in all, and of each kind.
  function totals() {
    const chosen = Object.entries(data.counts)
      .filter(([name]) => !pick.benchmark.value || name === pick.benchmark.value);
    const sum = Array(kinds.length + 1).fill(0);
    for (const [, runs] of chosen) runs[pick.run.value].forEach((n, i) => { sum[i] += n; });
    return sum;
  }

  function refresh(trouble = "") {
    shown = data.items.filter(fits);
    const sum = totals(), kind = kinds.indexOf(pick.kind.value);
    for (const [i, option] of [...pick.kind.options].entries()) {
      option.textContent = (i ? data.kinds[option.value] : "all items") + ": " + say(sum[i]);
    }
    const found = pick.text.value.trim() ? " and fit the search." : ".";
    const here = kind < 0
      ? say(shown.length) + " of " + say(sum[0]) + " items are here" + found
      : say(sum[kind + 1]) + " of " + say(sum[0]) + " items: " + data.kinds[kinds[kind]] + ". "
        + say(shown.length) + " of them are here" + found;
    count.textContent = trouble + here;
    entries.reset(shown);
    show(shown.includes(current) ? current : shown[0]);
  }

  function entry(item) {
    const [, , outcome, , quality] = view(item).text("run");
    const node = link(address(encodeURIComponent(item.id), chosen()));
    const rated = quality !== null;
    const tag = element("span", "tag " + outcome, rated ? Math.round(quality) : signs[outcome]);
    tag.setAttribute("role", "img");
    tag.title = rated ? "ROUGE-L " + quality : outcome;
    tag.setAttribute("aria-label", tag.title);
    node.append(tag, element("span", "", item.question));
    node.tabIndex = -1; // one stop for all; arrow keys move inside
    const row = element("li");
    row.append(node);
    return row;
  }

  function show(item) {
    for (const node of list.querySelectorAll("a[aria-current]")) {
      node.removeAttribute("aria-current");
      node.tabIndex = -1;
    }
    current = item;
    if (!item) {
      const advice = "No item fits. Loosen the filter or the search.";
      pane.replaceChildren(element("p", "note", advice));
      return;
    }
    const { run, ids, text, pair } = view(item);
    const choice = isChoice(text("run"));
    const question = element("p", "question", item.question);
    question.dir = "auto";
    const gold = element("p", "gold", "Gold answer: ");
    gold.append(element("strong", "", item.gold));
    pane.replaceChildren(element("h3", "", item.id.replace("item-", "")), question,
      ...promptsOf(item, ids), gold, ...flag(item.overlap), answers(item, run, text, choice),
      alike(pair, data.free.includes(item.benchmark), choice));
    pane.firstChild.id = "item-title";
    const node = entries.reach(item)?.firstChild;
    node?.setAttribute("aria-current", "true");
    if (node) node.tabIndex = 0;
  }

  function answers(item, run, text, choice) {
    if (choice) {
      return optionTable(item, [["Teacher", "teacher"], ["SFT", "sft"], ["Distilled", "run"]]
        .map(([name, role]) => [name, run[role], text(role)]));
    }
    const texts = element("div", "texts");
    texts.append(
      column("Teacher", run.teacher, text("teacher"), text("run"), false),
      column("SFT", run.sft, text("sft"), text("teacher"), true),
      column("Distilled", run.run, text("run"), text("teacher"), true),
    );
    return texts;
  }

  // Set run, filters and search to what an address asks for; returns what is not there.
  function set(wanted) {
    const unknown = [];
    const run = data.runs.findIndex((other) => other.run === wanted.get("run"));
    if (run >= 0) pick.run.value = run;
    else if (wanted.get("run")) unknown.push("run " + wanted.get("run"));
    for (const name of ["benchmark", "kind"]) {
      const value = wanted.get(name) || (name === "kind" ? "all" : "");
      const known = [...pick[name].options].some((option) => option.value === value);
      pick[name].value = known ? value : (name === "kind" ? "all" : "");
      if (!known) unknown.push(name + " " + value);
    }
    pick.text.value = wanted.get("q") || "";
    return unknown;
  }

  function preset(wanted) {
    const unknown = set(wanted);
    refresh(unknown.length ? "Not here: " + unknown.join(", ") + ". " : "");
    box.scrollIntoView({ behavior: "instant" });
  }

  // An item's address carries the list that it was found in.
  function open(id, wanted) {
    const item = places.get(id);
    if (!item) {
      if (id) count.textContent = "This page does not hold " + id + "; items.parquet does.";
      return;
    }
    const now = new URLSearchParams(Object.entries(chosen()).filter(([, value]) => value));
    current = item;
    if (String(now) !== String(wanted)) {
      set(wanted);
      if (!fits(item)) {
        pick.benchmark.value = pick.text.value = "";
        pick.kind.value = "all";
      }
      refresh();
    }
    show(item);
    const { top, bottom } = box.getBoundingClientRect();
    if (top > innerHeight || bottom < 0) box.scrollIntoView({ behavior: "instant" });
  }

  function changed() {
    refresh();
    history.replaceState(null, "", address("items", chosen()));
  }

  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const item = shown[shown.indexOf(current) + step];
    if (!item) return;
    show(item);
    const node = entries.reach(item).firstChild;
    node.focus();
    history.replaceState(null, "", node.hash);
  });
  list.addEventListener("click", (event) => {
    // Enter, unlike a mouse, goes on to the texts.
    if (event.detail === 0 && event.target.closest("a")) setTimeout(() => pane.focus());
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    pick.text.focus();
  });
  box.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  for (const control of Object.values(pick)) control.addEventListener("input", changed);
  refresh();
  return { preset, open };
}
